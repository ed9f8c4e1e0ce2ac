"""Soft actor-critic (Haarnoja et al., arXiv 1801.01290; with a learned temperature, arXiv 1812.05905)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode

from rlx import losses, networks, parallel
from rlx.networks import Network
from rlx.optim import adam, gradient_step
from rlx.types import POSITIVE, SHARE, Agent, Key, Metrics, Params, Spec, State, Transition, as_arrays, setting


@dataclass(frozen=True)
class Config:
    """What changes shapes and branches."""

    actor_hidden_sizes: tuple[int, ...] = setting((256, 256), "widths of the actor's hidden layers")
    critic_hidden_sizes: tuple[int, ...] = setting((256, 256), "widths of every critic's hidden layers")
    num_critics: int = setting(2, "critics in the ensemble; the target takes their minimum")
    activation: str = setting("relu", "activation of the hidden layers")
    layer_norm: bool = setting(False, "LayerNorm in the critics")


class Hypers(PyTreeNode):
    """Traced scalars."""

    gamma: float | jax.Array = setting(0.99, "discount per step", SHARE)
    tau: float | jax.Array = setting(0.005, "Polyak step of the target critics towards the online ones", SHARE)
    actor_lr: float | jax.Array = setting(3e-4, "learning rate of the actor (Adam)", POSITIVE)
    critic_lr: float | jax.Array = setting(3e-4, "learning rate of the critics (Adam)", POSITIVE)
    alpha_lr: float | jax.Array = setting(3e-4, "learning rate of the temperature (Adam)", POSITIVE)
    alpha_init: float | jax.Array = setting(1.0, "entropy temperature at the start", (1e-8, math.inf))
    target_entropy_per_action: float | jax.Array = setting(-1.0, "target entropy, in nats for each action dimension")
    reward_scale: float | jax.Array = setting(1.0, "factor on rewards inside the learning targets")


class CriticState(PyTreeNode):
    """The critic half."""

    params: Params  # [N, ...]
    target_params: Params  # [N, ...]
    opt_state: optax.OptState
    step: jax.Array  # [] int32
    hypers: Hypers


class ActorState(PyTreeNode):
    """The actor half."""

    params: Params
    opt_state: optax.OptState
    log_alpha: jax.Array  # []
    alpha_opt_state: optax.OptState
    step: jax.Array  # [] int32
    hypers: Hypers


class Policy(NamedTuple):
    """What acting and the critic half need of the actor half."""

    params: Params
    log_alpha: jax.Array


class Parts(NamedTuple):
    """What makes maximum-entropy agents differ. Estimates are what N critics say, [N, B] or [N, B, M]."""

    actor: Network  # (params, observation [B, O]) -> mean, log_std [B, A]
    critic: Network  # (params, observation [B, O], action [B, A]) -> estimates
    bootstrap: Callable[
        [jax.Array], jax.Array
    ]  # estimates of the target critics -> next value [B], or its atoms [B, K]
    regress: Callable[[jax.Array, jax.Array], jax.Array]  # (estimates, target [B] or [B, K]) -> loss []
    action_value: Callable[[jax.Array], jax.Array]  # estimates -> [B], what the actor climbs
    action_size: int
    axes: parallel.Axes


SoftAgent = Agent[CriticState, ActorState, Params, Policy]


def draw(parts: Parts, params: Params, observation: jax.Array, key: Key) -> tuple[jax.Array, jax.Array]:
    """An action `[..., A]` of the squashed Gaussian at observations `[..., O]`, and its log-probability `[...]`."""
    from rlx.distributions import TanhNormal  # 0.4 s that `--help` need not spend

    mean, log_std = parts.actor.apply(params, observation)
    return TanhNormal(mean, log_std).sample_and_log_prob(seed=key)


def critic_loss(
    params: Params,
    parts: Parts,
    target_params: Params,
    transition: Transition,
    next_action: jax.Array,
    next_log_prob: jax.Array,
    alpha: jax.Array,
    hypers: Hypers,
) -> tuple[jax.Array, Metrics]:
    """Error of all critics against one target with an entropy term (arXiv 1812.05905, eqs. 5 and 6): scalar, metrics.

    `next_action` [B, A] is the policy's, `next_log_prob` [B] its log-probability.
    """
    next_estimates = parts.critic.apply(target_params, transition.next_observation, next_action)
    next_value = losses.soft_value(parts.bootstrap(next_estimates), next_log_prob, alpha)
    target = losses.td_target(transition.reward, transition.discount, next_value, hypers.gamma, hypers.reward_scale)
    estimates = parts.critic.apply(params, transition.observation, transition.action)
    loss = parts.regress(estimates, target)
    return loss, {"critic_loss": loss, "q_mean": estimates.mean(), "target_mean": target.mean()}


def actor_loss(
    params: Params, parts: Parts, value: Params, alpha: jax.Array, observation: jax.Array, key: Key
) -> tuple[jax.Array, jax.Array]:
    """E[alpha log pi - Q] (arXiv 1812.05905, eq. 7): scalar and log pi [B]."""
    action, log_prob = draw(parts, params, observation, key)
    q = parts.action_value(parts.critic.apply(value, observation, action))
    return losses.soft_actor_loss(q, log_prob, alpha), log_prob


def update_critic(
    parts: Parts, state: CriticState, policy: Policy, transition: Transition, key: Key
) -> tuple[CriticState, Metrics]:
    """One step of the critics, then of their targets towards the new critics."""
    next_action, log_prob = draw(parts, policy.params, transition.next_observation, key)
    alpha, hypers = jnp.exp(policy.log_alpha), state.hypers

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        return critic_loss(params, parts, state.target_params, transition, next_action, log_prob, alpha, hypers)

    params, opt_state, metrics = gradient_step(loss, adam, parts.axes)(state.params, state.opt_state, hypers.critic_lr)
    target_params = losses.polyak(state.target_params, params, hypers.tau)
    state = state.replace(params=params, target_params=target_params, opt_state=opt_state, step=state.step + 1)
    return state, metrics


def update_actor(
    parts: Parts, state: ActorState, value: Params, batch: Transition, key: Key
) -> tuple[ActorState, Metrics]:
    """One step of the actor, then of the temperature, on the same log-probabilities."""
    hypers = state.hypers

    def loss(params: Params) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
        loss, log_prob = actor_loss(params, parts, value, jnp.exp(state.log_alpha), batch.observation, key)
        return loss, (log_prob, {"actor_loss": loss, "entropy": -log_prob.mean()})

    def alpha_loss(log_alpha: jax.Array, log_prob: jax.Array) -> tuple[jax.Array, Metrics]:
        target = hypers.target_entropy_per_action * parts.action_size
        loss = losses.temperature_loss(log_alpha, log_prob, target)
        return loss, {"alpha_loss": loss, "alpha": jnp.exp(log_alpha)}

    params, opt_state, (log_prob, metrics) = gradient_step(loss, adam, parts.axes)(
        state.params, state.opt_state, hypers.actor_lr
    )
    log_alpha, alpha_opt_state, alpha_metrics = gradient_step(alpha_loss, adam, parts.axes)(
        state.log_alpha, state.alpha_opt_state, hypers.alpha_lr, log_prob
    )
    state = state.replace(
        params=params, opt_state=opt_state, log_alpha=log_alpha, alpha_opt_state=alpha_opt_state, step=state.step + 1
    )
    return state, metrics | alpha_metrics


def init(parts: Parts, key: Key, hypers: Hypers | None = None) -> State[CriticState, ActorState]:
    """A fresh agent."""
    hypers = as_arrays(hypers or Hypers())
    critic_key, actor_key = jax.random.split(key)
    critic, actor = parts.critic.init(critic_key), parts.actor.init(actor_key)
    log_alpha = jnp.log(hypers.alpha_init)
    step = jnp.zeros((), jnp.int32)
    state = State(
        critic=CriticState(critic, critic, adam.init(critic), step, hypers),
        actor=ActorState(actor, adam.init(actor), log_alpha, adam.init(log_alpha), step, hypers),
    )
    return jax.tree.map(jnp.copy, state)  # no two leaves share memory, so callers may donate it


def act(parts: Parts, policy: Policy, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A draw from the policy, `[..., O]` to `[..., A]`."""
    action, log_prob = draw(parts, policy.params, observation, key)
    return action, {"log_prob": log_prob}


def act_greedy(
    parts: Parts, policy: Policy, observation: jax.Array, key: Key
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The mode before squashing, squashed."""
    del key
    mean, _ = parts.actor.apply(policy.params, observation)
    return jnp.tanh(mean), {}


def assemble(parts: Parts) -> SoftAgent:
    """Binds the functions of a maximum-entropy agent."""
    return Agent(
        init=partial(init, parts),
        critic_params=lambda critic: critic.params,
        policy_params=lambda actor, critic_params: Policy(actor.params, actor.log_alpha),
        act=partial(act, parts),
        act_greedy=partial(act_greedy, parts),
        update_critic=partial(update_critic, parts),
        update_actor=partial(update_actor, parts),
    )


def make_actor(config: Config, spec: Spec) -> Network:
    """The squashed Gaussian's network."""
    return networks.make_gaussian_policy(spec, config.actor_hidden_sizes, activation=config.activation)


def make_critic(config: Config, spec: Spec, num_atoms: int | None = None) -> Network:
    """The ensemble of critics, of scalars or of `num_atoms` atoms each."""
    return networks.make_critic(
        spec,
        config.critic_hidden_sizes,
        num_critics=config.num_critics,
        num_atoms=num_atoms,
        activation=config.activation,
        layer_norm=config.layer_norm,
    )


def make_parts(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Parts:
    """Clipped double Q, whatever the number of critics."""
    return Parts(
        actor=make_actor(config, spec),
        critic=make_critic(config, spec),
        bootstrap=losses.ensemble_min,
        regress=losses.ensemble_td_loss,
        action_value=losses.ensemble_min,
        action_size=spec.action_size,
        axes=axes,
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> SoftAgent:
    """SAC for environments of `spec`; gradients are averaged over the mapped `axes`."""
    return assemble(make_parts(config, spec, axes))


SMALL: dict[str, Any] = {  # small networks and fast learning, for easy tasks on a CPU
    "actor_hidden_sizes": (64, 64),
    "critic_hidden_sizes": (64, 64),
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "alpha_lr": 1e-3,
    "alpha_init": 0.1,
    "tau": 0.02,
    "reward_scale": 0.1,
    "num_envs": 64,
    "batch_size": 128,
    "ratio": "24:24",
    "warmup_env_steps": 1024,
    "total_env_steps": 20_000,
}

PRESETS: dict[str, dict[str, Any]] = {
    "gymnax:Pendulum-v1": SMALL | {"gamma": 0.97},
    "brax:inverted_pendulum": SMALL | {"gamma": 0.98, "backend": "generalized"},  # on spring it does not learn
    "brax:ant": {
        "actor_hidden_sizes": (128, 128),
        "critic_hidden_sizes": (128, 128),
        "actor_lr": 1e-3,
        "critic_lr": 1e-3,
        "alpha_lr": 1e-3,
        "alpha_init": 0.1,
        "gamma": 0.98,
        "tau": 0.02,
        "n_step": 3,
        "num_envs": 128,
        "batch_size": 128,
        "ratio": "32:16",
        "total_env_steps": 240_000,
        "eval_every": 40_000,
    },
}
