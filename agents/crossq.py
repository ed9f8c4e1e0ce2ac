"""CrossQ (Bhatt et al., arXiv 1902.05605, ICLR 2024): SAC without target networks, by batch norm in all networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlx import halves, losses, networks, optim, parallel, policies
from rlx.agents import sac
from rlx.halves import HalfState, SoftActorState
from rlx.networks import Network
from rlx.types import COUNT, POSITIVE, SHARE, Agent, Key, Metrics, Params, Spec, Transition, setting


@dataclass(frozen=True)
class Config(sac.Config):
    """Static (compile-time) configuration."""

    critic_hidden_sizes: tuple[int, ...] = setting((2048, 2048), "widths of every critic's hidden layers", COUNT)
    batch_norm: str = setting(
        "renorm", "normalisation in actor and critics: batch, or renorm", choices=("batch", "renorm")
    )
    target_networks: bool = setting(False, "slow copies of the critics for the targets, moved by tau; CrossQ has none")
    temperature_loss: str = halves.temperature_loss("alpha")


class Hypers(sac.Hypers):
    """Hyper-parameters, traced."""

    actor_lr: float | jax.Array = setting(1e-3, "learning rate of the actor (Adam)", POSITIVE)
    critic_lr: float | jax.Array = setting(1e-3, "learning rate of the critics (Adam)", POSITIVE)
    alpha_lr: float | jax.Array = setting(1e-3, "learning rate of the temperature (Adam)", POSITIVE)
    b1: float | jax.Array = setting(0.5, "decay of the first moments in Adam, of actor and critics", SHARE)


class Networks(NamedTuple):
    """The networks, and what agents with batch norm differ in. Estimates: of N critics, [N, B] or [N, B, M]."""

    actor: Network  # (params, observation [B, O], train=True) -> (mean, log_std), statistics
    critic: Network  # (params, observation [B, O], action [B, A], train=True) -> estimates, statistics
    # (next estimates, alpha log pi [B], minibatch, hypers) -> target [B] or [B, M], without gradient
    target: Callable[[jax.Array, jax.Array, Transition, Any], jax.Array]
    regress: Callable[[jax.Array, jax.Array], jax.Array]  # (estimates, target) -> loss []
    values: Callable[[jax.Array, Any], jax.Array]  # (estimates, hypers) -> [N, B]
    report: Callable[[jax.Array], Metrics]  # target -> metrics
    target_networks: bool
    temperature_loss: Callable[..., jax.Array]
    spec: Spec
    axes: parallel.Axes
    optimizer: Callable[[Any], optax.GradientTransformation]
    project: Callable[[Params], Params] | None = None  # of parameters after each step
    critic_rate: Callable[[HalfState], Any] = lambda critic: 1.0  # factors on the learning rates
    actor_rate: Callable[[HalfState], Any] = lambda actor: 1.0
    joint_actor: bool = False  # whether the actor's statistics are of s and s', or of s alone


def update_critic(
    nets: Networks, state: HalfState, policy: sac.Policy, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """All critics towards r + gamma d (Q' - alpha log pi), where Q and Q' come from one pass over (s, a) and (s', a').

    So both are normalised by the same statistics (arXiv 1902.05605, figure 1 and section 3.2).
    """
    hypers, following = state.hypers, batch.next_observation
    next_action, log_prob = policies.squashed_sample(nets.actor, policy.params, following, key)
    cost = jnp.exp(policy.log_alpha) * log_prob
    rows = jnp.concatenate([batch.observation, following]), jnp.concatenate([batch.action, next_action])
    joint = batch._replace(observation=rows[0], action=rows[1])
    critic = nets.critic.with_dropout(key, 3)

    def halved(estimates: jax.Array) -> list[jax.Array]:
        return jnp.split(estimates, 2, axis=1)

    def target_of(next_estimates: jax.Array) -> jax.Array:
        return nets.target(jax.lax.stop_gradient(next_estimates), cost, batch, hypers)

    target = None
    if nets.target_networks:
        target_critic = nets.critic.with_dropout(key, 2)
        target = target_of(halved(target_critic(state.learner.target_variables, *rows, train=True)[0])[1])

    def regress(estimates: jax.Array, _: Any) -> jax.Array:
        q, next_q = halved(estimates)
        return nets.regress(q, target_of(next_q) if target is None else target)

    return halves.update_critics(
        state,
        critic,
        joint,
        target,
        nets.axes,
        regress=regress,
        values=lambda estimates: nets.values(halved(estimates)[0], hypers),
        optimizer=nets.optimizer(hypers),
        project=nets.project,
        rate=hypers.critic_lr * nets.critic_rate(state),
        report=nets.report if nets.target_networks else lambda target: {},
    )


def update_actor(
    nets: Networks, state: SoftActorState, critic_params: Params, batch: Transition, key: Key
) -> tuple[SoftActorState, Metrics]:
    """SAC's, with the batch's statistics in the actor and running ones in the critics, which stay as they are."""
    hypers, observation, critic = state.hypers, batch.observation, nets.critic.with_dropout(key, 1)
    rows = jnp.concatenate([observation, batch.next_observation]) if nets.joint_actor else observation

    def sample(params: Params) -> tuple[jax.Array, jax.Array, Any]:
        from rlx.distributions import TanhNormal

        output, statistics = nets.actor.apply(params, rows, train=True)
        mean, log_std = (x[: len(observation)] for x in output)
        return *TanhNormal(mean, log_std).sample_and_log_prob(seed=key), statistics

    return halves.step_soft_actor(
        state,
        sample=sample,
        q_value=lambda action: losses.ensemble_min(nets.values(critic(critic_params, observation, action), hypers)),
        target_entropy=hypers.target_entropy_per_action * nets.spec.action_size,
        temperature_loss=nets.temperature_loss,
        axes=nets.axes,
        rate=nets.actor_rate(state),
        optimizer=nets.optimizer(hypers),
        project=nets.project,
    )


def soft_target(next_q: jax.Array, cost: jax.Array, batch: Transition, hypers: Any) -> jax.Array:
    """r + gamma d (min Q' - alpha log pi), `[N, B]` -> `[B]`."""
    return halves.td_target(batch, losses.ensemble_min(next_q) - cost, hypers)


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Networks:
    """Clipped double Q, with batch norm before every layer of actor and critics."""
    options = config.network_options() | {"batch_norm": config.batch_norm, "axes": axes}
    return Networks(
        actor=networks.make_gaussian_policy(spec, config.actor_hidden_sizes, log_std=config.log_std, **options),
        critic=halves.make_critic(config, spec, axes),
        target=soft_target,
        regress=losses.ensemble_td_loss,
        values=lambda q, hypers: q,
        report=lambda target: {"target_mean": target.mean()},
        target_networks=config.target_networks,
        temperature_loss=losses.TEMPERATURE_LOSSES[config.temperature_loss],
        spec=spec,
        axes=axes,
        optimizer=lambda hypers: optim.make_optimizer("adam", b1=hypers.b1),
    )


def assemble(nets: Networks, defaults: type[sac.Hypers] = Hypers) -> sac.SoftAgent:
    """The agent with these networks; `defaults` are a variant's hyper-parameters."""

    def q_value(critic: HalfState, observation: jax.Array, action: jax.Array) -> jax.Array:
        estimates = nets.critic.apply(critic.learner.variables, observation, action)
        return losses.ensemble_min(nets.values(estimates, critic.hypers))

    init_critic = halves.init_half(nets.critic, nets.optimizer, target=nets.target_networks)
    init_actor = halves.init_soft_actor(nets.actor, nets.optimizer)
    return Agent(
        init=halves.make_init(defaults, init_critic, init_actor),
        critic_params=lambda critic: critic.learner.variables,
        policy_params=lambda actor, critic_params: sac.Policy(actor.learner.variables, actor.log_alpha.params),
        update_critic=partial(update_critic, nets),
        update_actor=partial(update_actor, nets),
        actor_reads=("observation", "next_observation") if nets.joint_actor else ("observation",),
        **policies.squashed_functions(nets.actor),
        q_value=q_value,
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.SoftAgent:
    """CrossQ for environments of `spec`; gradients and statistics are averaged over the mapped `axes`."""
    return assemble(make_networks(config, spec, axes))
