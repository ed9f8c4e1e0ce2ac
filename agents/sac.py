"""Soft actor-critic (Haarnoja et al., arXiv 1801.01290; with a learned temperature, arXiv 1812.05905)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlx import halves, losses, networks, parallel, policies
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.optim import Learner
from rlx.types import POSITIVE, Agent, Key, Metrics, Params, Spec, Transition, setting

Config = halves.Config


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
    hypers, alpha = state.hypers, jnp.exp(state.log_alpha.params)
    critic = nets.critic.with_dropout(key, 1)

    def loss(params: Params) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
        action, log_prob = policies.squashed_sample(nets.actor, params, batch.observation, key)
        q = nets.action_value(critic(critic_params, batch.observation, action))
        value = losses.soft_actor_loss(q, log_prob, alpha)
        return value, (log_prob, {"actor_loss": value, "entropy": -log_prob.mean()})

    actor, (log_prob, metrics) = state.learner.step(loss, hypers.actor_lr, nets.axes)

    def alpha_loss(log_alpha: jax.Array) -> tuple[jax.Array, Metrics]:
        value = losses.temperature_loss(log_alpha, log_prob, hypers.target_entropy_per_action * nets.action_size)
        return value, {"alpha_loss": value, "alpha": jnp.exp(log_alpha)}

    log_alpha, alpha_metrics = state.log_alpha.step(alpha_loss, hypers.alpha_lr, nets.axes)
    return state.advance(learner=actor, log_alpha=log_alpha), metrics | alpha_metrics


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Networks:
    """Clipped double Q, whatever the number of critics."""
    return Networks(
        actor=networks.make_gaussian_policy(spec, config.actor_hidden_sizes, **config.network_options()),
        critic=halves.make_critic(config, spec, axes),
        bootstrap=lambda q, key: losses.ensemble_min(q),
        regress=losses.ensemble_td_loss,
        action_value=losses.ensemble_min,
        action_size=spec.action_size,
        axes=axes,
    )


def assemble(nets: Networks, defaults: type[Hypers] = Hypers) -> SoftAgent:
    """The agent with these networks; `defaults` are a variant's hyper-parameters."""

    def init_actor(key: Key, hypers: Hypers) -> ActorState:
        actor, log_alpha = Learner.create(nets.actor.init(key)), Learner.create(jnp.log(hypers.alpha_init))
        return ActorState.create(hypers, actor, log_alpha=log_alpha)

    return Agent(
        init=halves.make_init(defaults, halves.init_half(nets.critic, target=True), init_actor),
        critic_params=lambda critic: critic.learner.variables,
        policy_params=lambda actor, critic_params: Policy(actor.learner.params, actor.log_alpha.params),
        act=lambda policy, *inputs: policies.squashed_act(nets.actor, policy.params, *inputs),
        act_greedy=lambda policy, *inputs: policies.squashed_mean(nets.actor, policy.params, *inputs),
        update_critic=partial(update_critic, nets),
        update_actor=partial(update_actor, nets),
        log_prob=lambda policy, *inputs: policies.squashed_log_prob(nets.actor, policy.params, *inputs),
        q_value=lambda critic, *inputs: nets.action_value(nets.critic.apply(critic.learner.variables, *inputs)),
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> SoftAgent:
    """SAC for environments of `spec`; gradients are averaged over the mapped `axes`."""
    return assemble(make_networks(config, spec, axes))
