"""Soft actor-critic (Haarnoja et al., arXiv 1801.01290; with a learned temperature, arXiv 1812.05905)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx import halves, losses, networks, parallel, policies
from rlx.halves import HalfState, SoftActorState
from rlx.networks import Network
from rlx.types import Agent, Key, Metrics, Params, Spec, Transition, setting


@dataclass(frozen=True)
class Config(halves.Config):
    """Static (compile-time) configuration."""

    log_std_map: str = setting(
        "clip",
        "how log sigma is bounded: clip, or tanh, which is smooth and starts in the middle of the bounds",
        choices=networks.LOG_STD_MAPS,
    )
    log_std_min: float = setting(-20.0, "lower bound of log sigma", (-20.0, 2.0), below="log_std_max")
    log_std_max: float = setting(2.0, "upper bound of log sigma", (-20.0, 2.0))
    temperature_loss: str = halves.temperature_loss("log_alpha")

    @property
    def log_std(self) -> tuple[str, float, float]:
        """The last three arguments of `networks.bounded_log_std`."""
        return self.log_std_map, self.log_std_min, self.log_std_max


class Hypers(halves.SoftHypers):
    """Hyper-parameters, traced."""

    target_entropy_per_action: float | jax.Array = setting(
        -1.0, "target entropy, in nats for each action dimension", (-math.inf, math.log(2))
    )


class Policy(NamedTuple):
    """What acting and the critic half read."""

    params: Params
    log_alpha: jax.Array
    target_params: Params | None = None  # None without a target policy: then targets take the policy's own actions


class Networks(NamedTuple):
    """The networks, and what maximum-entropy agents differ in. Estimates: of N critics, [N, B] or [N, B, M]."""

    actor: Network  # (params, observation [B, O]) -> mean, log_std [B, A]
    critic: Network  # (params, observation [B, O], action [B, A]) -> estimates
    bootstrap: Callable[[jax.Array, Key], jax.Array]  # (target estimates, key) -> next value [B], or its atoms [B, K]
    regress: Callable[[jax.Array, jax.Array], jax.Array]  # (estimates, target [B] or [B, K]) -> loss []
    action_value: Callable[[jax.Array], jax.Array]  # estimates -> [B], what the actor maximises
    action_size: int
    axes: parallel.Axes
    temperature_loss: Callable[..., jax.Array] = losses.temperature_loss
    values: Callable[[jax.Array], jax.Array] = lambda estimates: estimates  # whose mean is reported
    # (actor, its parameters, observation [B, O], key) -> actions [B, A] and their log-probabilities [B]
    sample: Callable[..., tuple[jax.Array, jax.Array]] = policies.squashed_sample
    # (parameters of all target critics, key) -> of those that make the target
    choose_targets: Callable[[Params, Key], Params] = lambda params, key: params
    soft_value: Callable[..., jax.Array] = losses.soft_value  # (value, log_prob, alpha) -> the value of a target


SoftAgent = Agent[HalfState, SoftActorState, Params, Policy]


def soft_target(nets: Networks, state: HalfState, policy: Policy, batch: Transition, key: Key) -> jax.Array:
    """r + gamma d (Q' - alpha log pi), `[B]` or `[B, K]`, at the policy's action (arXiv 1812.05905, eqs. 5 and 6)."""
    params = policy.params if policy.target_params is None else policy.target_params
    next_action, log_prob = nets.sample(nets.actor, params, batch.next_observation, key)
    critic = nets.critic.with_dropout(key, 2)
    target_params = nets.choose_targets(state.learner.target_variables, jax.random.fold_in(key, 4))
    next_estimates = critic(target_params, batch.next_observation, next_action)
    next_value = nets.bootstrap(next_estimates, jax.random.fold_in(key, 1))
    soft_value = nets.soft_value(next_value, log_prob, jnp.exp(policy.log_alpha))
    return halves.td_target(batch, soft_value, state.hypers)


def update_critic(
    nets: Networks, state: halves.CriticHalf, policy: Policy, batch: Transition, key: Key
) -> tuple[halves.CriticHalf, Metrics]:
    """All critics towards `soft_target`, then their target networks towards them."""
    target, critic = soft_target(nets, state, policy, batch, key), nets.critic.with_dropout(key, 3)
    return halves.update_critics(
        state, critic, batch, target, nets.axes, regress=nets.regress, values=nets.values, target_mean=target.mean()
    )


def update_actor(
    nets: Networks, state: SoftActorState, critic_params: Params, batch: Transition, key: Key, **options: Any
) -> tuple[SoftActorState, Metrics]:
    """The policy down alpha log pi - Q (arXiv 1812.05905, eq. 7), then alpha (eq. 18) with the same log pi.

    `options` are of `halves.step_soft_actor`.
    """
    critic = nets.critic.with_dropout(key, 1)
    return halves.step_soft_actor(
        state,
        sample=lambda params: nets.sample(nets.actor, params, batch.observation, key),
        q_value=lambda action: nets.action_value(critic(critic_params, batch.observation, action)),
        target_entropy=state.hypers.target_entropy_per_action * nets.action_size,
        temperature_loss=nets.temperature_loss,
        axes=nets.axes,
        **{"tau": state.hypers.tau, **options},
    )


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Networks:
    """Clipped double Q, whatever the number of critics."""
    return Networks(
        actor=networks.make_gaussian_policy(
            spec, config.actor_hidden_sizes, log_std=config.log_std, **config.network_options()
        ),
        critic=halves.make_critic(config, spec, axes),
        bootstrap=lambda q, key: losses.ensemble_min(q),
        regress=losses.ensemble_td_loss,
        action_value=losses.ensemble_min,
        action_size=spec.action_size,
        axes=axes,
        temperature_loss=losses.TEMPERATURE_LOSSES[config.temperature_loss],
    )


def assemble(nets: Any, defaults: type[Any] = Hypers, target_policy: bool = False) -> SoftAgent:
    """The agent with these `Networks`, or others of a variant that replaces what reads them; `defaults` are its
    hyper-parameters, and `target_policy` gives it a slow copy of the policy."""

    def policy_params(actor: SoftActorState, critic_params: Params) -> Policy:
        return Policy(actor.learner.params, actor.log_alpha.params, actor.learner.target_params)

    init_actor = halves.init_soft_actor(nets.actor, target=target_policy)
    return Agent(
        init=halves.make_init(defaults, halves.init_half(nets.critic, target=True), init_actor),
        critic_params=lambda critic: critic.learner.variables,
        policy_params=policy_params,
        update_critic=partial(update_critic, nets),
        update_actor=partial(update_actor, nets),
        **policies.squashed_functions(nets.actor),
        q_value=lambda critic, *inputs: nets.action_value(nets.critic.apply(critic.learner.variables, *inputs)),
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> SoftAgent:
    """SAC for environments of `spec`; gradients are averaged over the mapped `axes`."""
    return assemble(make_networks(config, spec, axes))
