"""Twin delayed deep deterministic policy gradient (TD3; Fujimoto et al., arXiv 1802.09477).

Every `policy_delay`-th critic step moves the target critics. The driver's ratio, 2:1, makes an actor update as often,
and each moves the target actor. `agent.update` is one critic step and one actor step: there the actor and its target
move at every critic step, and only the target critics wait. Exploration noise is the driver's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlx import halves, losses, networks, optim, parallel, policies
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.types import COUNT, POSITIVE, Agent, Key, Metrics, Params, Spec, Transition, setting


@dataclass(frozen=True)
class Config(halves.Config):
    """Static (compile-time) configuration."""

    policy_delay: int = setting(
        2, "critic updates between moves of the target critics; let --ratio agree, as 2:1", COUNT
    )


class Hypers(halves.Hypers):
    """Hyper-parameters, traced."""

    target_noise: float | jax.Array = setting(0.2, "standard deviation of the noise on the target's actions", POSITIVE)
    max_target_noise: float | jax.Array = setting(0.5, "that noise is clipped to +- this", POSITIVE)


class Policy(NamedTuple):
    """What acting and the critic half read."""

    params: Params
    target_params: Params | None  # None without a target actor: then the critics' targets take the actor itself


class Networks(NamedTuple):
    """The networks, and what deterministic agents differ in. Estimates: of N critics, [N, B] or [N, B, M]."""

    actor: Network  # (params, observation [B, O]) -> action [B, A]
    critic: Network  # (params, observation [B, O], action [B, A]) -> estimates
    published_critic: Network  # the same for what the critic half publishes
    target: Callable[
        [jax.Array, jax.Array, Transition, Any], jax.Array
    ]  # (next estimates, next action) -> [B] or [B, M]
    regress: Callable[[jax.Array, jax.Array], jax.Array]  # (estimates, target) -> loss []
    values: Callable[[jax.Array, Any], jax.Array]  # estimates -> [N, B]
    report: Callable[[jax.Array], Metrics]  # target -> metrics
    reduce: Callable[[jax.Array], jax.Array]  # values [N, B] -> what the actor climbs, [B]
    actor_loss: Callable[[jax.Array, jax.Array, Transition, Any], tuple[jax.Array, Metrics]]
    optimizer: Callable[[Any], optax.GradientTransformation]
    policy_delay: int
    target_actor: bool
    axes: parallel.Axes


DeterministicAgent = Agent[HalfState, HalfState, Params, Policy]


def clipped_double_q(next_q: jax.Array, next_action: jax.Array, batch: Transition, hypers: Hypers) -> jax.Array:
    """r + gamma d min Q', `[N, B]` -> `[B]` (arXiv 1802.09477, eq. 10)."""
    del next_action
    return halves.td_target(batch, losses.ensemble_min(next_q), hypers)


def actor_loss(q: jax.Array, action: jax.Array, batch: Transition, hypers: Hypers) -> tuple[jax.Array, Metrics]:
    """-Q of the actor's own actions, `q` [B] (arXiv 1802.09477, algorithm 1): scalar and metrics."""
    del action, batch, hypers
    loss = -q.mean()
    return loss, {"actor_loss": loss}


def update_critic(
    nets: Networks, state: HalfState, policy: Policy, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """All critics towards one target at the smoothed next action (arXiv 1802.09477, section 5.3), then their targets.

    The targets move with every `policy_delay`-th step.
    """
    hypers, following = state.hypers, batch.next_observation
    action = nets.actor.apply(policy.target_params if nets.target_actor else policy.params, following)
    noise = hypers.target_noise * jax.random.normal(key, action.shape, action.dtype)
    next_action = losses.smoothed_action(action, noise, hypers.max_target_noise)
    target_critic, critic = (nets.critic.with_dropout(key, index) for index in (1, 2))
    next_estimates = target_critic(state.learner.target_variables, following, next_action)
    target = nets.target(next_estimates, next_action, batch, hypers)
    return halves.update_critics(
        state,
        critic,
        batch,
        target,
        nets.axes,
        regress=nets.regress,
        values=lambda estimates: nets.values(estimates, hypers),
        tau=jnp.where((state.step + 1) % nets.policy_delay == 0, hypers.tau, 0.0),
        optimizer=nets.optimizer(hypers),
        report=nets.report,
    )


def update_actor(
    nets: Networks, state: HalfState, critic_params: Params, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """The actor up the published critics, the lowest by default, then its target, where there is one, towards it."""
    hypers, critic = state.hypers, nets.published_critic.with_dropout(key, 0)

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        action = nets.actor.apply(params, batch.observation)
        values = nets.values(critic(critic_params, batch.observation, action), hypers)
        return nets.actor_loss(nets.reduce(values), action, batch, hypers)

    actor, metrics = state.learner.step(loss, hypers.actor_lr, nets.axes, hypers.tau, nets.optimizer(hypers))
    return state.advance(learner=actor), metrics


def make_networks(config: halves.Config, spec: Spec, axes: parallel.Axes = (), policy_delay: int = 1) -> Networks:
    """Clipped double Q with target networks, and an actor that climbs the first critic."""
    return Networks(
        actor=networks.make_deterministic_policy(spec, config.actor_hidden_sizes, **config.network_options()),
        critic=halves.make_critic(config, spec, axes),
        published_critic=halves.make_critic(config, spec, axes, num_critics=1),
        target=clipped_double_q,
        regress=losses.ensemble_td_loss,
        values=lambda q, hypers: q,
        report=lambda target: {},
        reduce=losses.ensemble_min,
        actor_loss=actor_loss,
        optimizer=lambda hypers: optim.adam,
        policy_delay=policy_delay,
        target_actor=True,
        axes=axes,
    )


def first_critic(critic: HalfState) -> Params:
    """The first critic's parameters, [1, ...]."""
    return jax.tree.map(lambda x: x[:1], critic.learner.variables)


def assemble(
    nets: Networks,
    defaults: type[Hypers] = Hypers,
    critic_params: Callable[[HalfState], Params] = first_critic,
    actor_reads: tuple[str, ...] = ("observation",),
) -> DeterministicAgent:
    """The agent with these networks; `defaults` are a variant's hyper-parameters."""

    def act(policy: Policy, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
        return policies.deterministic(nets.actor, policy.params, observation, key)

    def q_value(critic: HalfState, observation: jax.Array, action: jax.Array) -> jax.Array:
        q = nets.critic.apply(critic.learner.variables, observation, action)
        return nets.reduce(nets.values(q, critic.hypers))

    init_critic = halves.init_half(nets.critic, nets.optimizer, target=True)
    init_actor = halves.init_half(nets.actor, nets.optimizer, target=nets.target_actor)
    return Agent(
        init=halves.make_init(defaults, init_critic, init_actor),
        critic_params=critic_params,
        policy_params=lambda actor, critic_params: Policy(actor.learner.params, actor.learner.target_params),
        actor_reads=actor_reads,
        act=act,
        act_greedy=act,
        update_critic=partial(update_critic, nets),
        update_actor=partial(update_actor, nets),
        q_value=q_value,
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> DeterministicAgent:
    """TD3 for environments of `spec`; gradients are averaged over the mapped `axes`."""
    return assemble(make_networks(config, spec, axes, config.policy_delay))
