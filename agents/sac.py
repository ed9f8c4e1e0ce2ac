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
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.optim import Learner
from rlx.types import POSITIVE, Agent, Key, Metrics, Params, Spec, Transition, setting


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
    temperature_loss: str = setting(
        "log_alpha",
        "what the temperature's gradient is of: log_alpha; alpha, whose gradient is alpha times the other",
        choices=losses.TEMPERATURE_LOSSES,
    )

    @property
    def log_std(self) -> tuple[str, float, float]:
        """The last three arguments of `networks.bounded_log_std`."""
        return self.log_std_map, self.log_std_min, self.log_std_max


class Hypers(halves.Hypers):
    """Hyper-parameters, traced."""

    alpha_lr: float | jax.Array = setting(3e-4, "learning rate of the temperature (Adam)", POSITIVE)
    alpha_init: float | jax.Array = setting(1.0, "entropy temperature at the start", (1e-8, math.inf))
    target_entropy_per_action: float | jax.Array = setting(
        -1.0, "target entropy, in nats for each action dimension", (-math.inf, math.log(2))
    )


class ActorState(HalfState):
    """The actor half."""

    log_alpha: Learner  # parameters []


class Policy(NamedTuple):
    """What acting and the critic half read."""

    params: Params
    log_alpha: jax.Array


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


SoftAgent = Agent[HalfState, ActorState, Params, Policy]


def update_critic(
    nets: Networks, state: HalfState, policy: Policy, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """All critics towards r + gamma d (Q' - alpha log pi) (arXiv 1812.05905, eqs. 5 and 6), then their targets."""
    next_action, log_prob = policies.squashed_sample(nets.actor, policy.params, batch.next_observation, key)
    target_critic, critic = (nets.critic.with_dropout(key, index) for index in (2, 3))
    next_estimates = target_critic(state.learner.target_variables, batch.next_observation, next_action)
    next_value = nets.bootstrap(next_estimates, jax.random.fold_in(key, 1))
    soft_value = losses.soft_value(next_value, log_prob, jnp.exp(policy.log_alpha))
    target = halves.td_target(batch, soft_value, state.hypers)
    return halves.update_critics(
        state, critic, batch, target, nets.axes, regress=nets.regress, target_mean=target.mean()
    )


def update_actor(
    nets: Networks, state: ActorState, critic_params: Params, batch: Transition, key: Key
) -> tuple[ActorState, Metrics]:
    """The policy down alpha log pi - Q (arXiv 1812.05905, eq. 7), then alpha (eq. 18) with the same log pi."""
    critic = nets.critic.with_dropout(key, 1)
    return step_actor(
        state,
        sample=lambda params: policies.squashed_sample(nets.actor, params, batch.observation, key),
        q_value=lambda action: nets.action_value(critic(critic_params, batch.observation, action)),
        target_entropy=state.hypers.target_entropy_per_action * nets.action_size,
        temperature_loss=nets.temperature_loss,
        axes=nets.axes,
    )


def step_actor(
    state: ActorState,
    *,
    sample: Callable[[Params], tuple[Any, ...]],
    q_value: Callable[[jax.Array], jax.Array],
    target_entropy: Any,
    temperature_loss: Callable[..., jax.Array],
    axes: parallel.Axes,
    rate: Any = 1.0,
    **options: Any,
) -> tuple[ActorState, Metrics]:
    """The half after a step of the policy down alpha log pi - Q, and one of its temperature.

    `sample(params)` gives actions [B, A], their log-probabilities [B] and, with batch norm, the new statistics;
    `q_value(action)` is [B]. `rate` multiplies learning rates; `options` are the policy's, of `Learner.step`.
    """
    hypers, alpha = state.hypers, jnp.exp(state.log_alpha.params)

    def loss(params: Params) -> tuple[jax.Array, Any]:
        action, log_prob, *statistics = sample(params)
        value = losses.soft_actor_loss(q_value(action), log_prob, alpha)
        report = log_prob, {"actor_loss": value, "entropy": -log_prob.mean()}
        return value, (report, *statistics) if statistics else report

    actor, (log_prob, metrics) = state.learner.step(loss, rate * hypers.actor_lr, axes, **options)

    def alpha_loss(log_alpha: jax.Array) -> tuple[jax.Array, Metrics]:
        value = temperature_loss(log_alpha, log_prob, target_entropy)
        return value, {"alpha_loss": value, "alpha": jnp.exp(log_alpha)}

    log_alpha, alpha_metrics = state.log_alpha.step(alpha_loss, rate * hypers.alpha_lr, axes)
    return state.advance(learner=actor, log_alpha=log_alpha), metrics | alpha_metrics


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


def assemble(nets: Any, defaults: type[Any] = Hypers) -> SoftAgent:
    """The agent with these `Networks`, or others of a variant that replaces what reads them; `defaults` are its
    hyper-parameters."""

    def init_actor(key: Key, hypers: Hypers) -> ActorState:
        actor, log_alpha = Learner.create(nets.actor.init(key)), Learner.create(jnp.log(hypers.alpha_init))
        return ActorState.create(hypers, actor, log_alpha=log_alpha)

    return Agent(
        init=halves.make_init(defaults, halves.init_half(nets.critic, target=True), init_actor),
        critic_params=lambda critic: critic.learner.variables,
        policy_params=lambda actor, critic_params: Policy(actor.learner.params, actor.log_alpha.params),
        update_critic=partial(update_critic, nets),
        update_actor=partial(update_actor, nets),
        **policies.squashed_functions(nets.actor),
        q_value=lambda critic, *inputs: nets.action_value(nets.critic.apply(critic.learner.variables, *inputs)),
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> SoftAgent:
    """SAC for environments of `spec`; gradients are averaged over the mapped `axes`."""
    return assemble(make_networks(config, spec, axes))
