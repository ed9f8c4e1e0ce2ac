"""TD3+BC (Fujimoto and Gu, arXiv 2106.06860): TD3 whose actor also stays near the data.

Every `policy_delay`-th critic step moves the target critics. The driver's ratio, 2:1, makes an actor update as often,
and each moves the target actor. `agent.update` is one critic step and one actor step: there the actor and its target
move at every critic step, and only the target critics wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode

from rlx import losses, networks, parallel
from rlx.errors import RlxError
from rlx.networks import Network
from rlx.optim import adam, gradient_step
from rlx.types import POSITIVE, SHARE, Agent, Key, Metrics, Params, Spec, State, Transition, as_arrays, setting


@dataclass(frozen=True)
class Config:
    """What changes shapes and branches."""

    actor_hidden_sizes: tuple[int, ...] = setting((256, 256), "widths of the actor's hidden layers")
    critic_hidden_sizes: tuple[int, ...] = setting((256, 256), "widths of every critic's hidden layers")
    num_critics: int = setting(2, "critics in the ensemble; the target takes their minimum, the actor climbs the first")
    activation: str = setting("relu", "activation of the hidden layers")
    layer_norm: bool = setting(False, "LayerNorm in the critics")
    policy_delay: int = setting(2, "critic updates between moves of the target critics; let --ratio agree, as 2:1")

    def __post_init__(self) -> None:
        if self.policy_delay < 1:
            raise RlxError(f"--policy-delay {self.policy_delay}: must be at least 1")


class Hypers(PyTreeNode):
    """Traced scalars."""

    gamma: float | jax.Array = setting(0.99, "discount per step", SHARE)
    tau: float | jax.Array = setting(0.005, "Polyak step of the targets towards the online networks", SHARE)
    actor_lr: float | jax.Array = setting(3e-4, "learning rate of the actor (Adam)", POSITIVE)
    critic_lr: float | jax.Array = setting(3e-4, "learning rate of the critics (Adam)", POSITIVE)
    target_noise: float | jax.Array = setting(0.2, "standard deviation of the noise on the target's actions")
    max_target_noise: float | jax.Array = setting(0.5, "that noise is clipped to +- this")
    q_weight: float | jax.Array = setting(2.5, "weight of the value against cloning (alpha in the paper)")
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
    target_params: Params
    opt_state: optax.OptState
    step: jax.Array  # [] int32
    hypers: Hypers


class Policy(NamedTuple):
    """What acting and the critic half need of the actor half."""

    params: Params
    target_params: Params


class Parts(NamedTuple):
    """The networks, and how often the target critics move."""

    actor: Network  # (params, observation [B, O]) -> action [B, A]
    critic: Network  # (params, observation [B, O], action [B, A]) -> [N, B]
    first_critic: Network  # the same with N = 1
    policy_delay: int
    axes: parallel.Axes


def critic_loss(
    params: Params, parts: Parts, target_params: Params, transition: Transition, next_action: jax.Array, hypers: Hypers
) -> tuple[jax.Array, Metrics]:
    """Clipped double Q with `next_action` [B, A], the smoothed target policy's (arXiv 1802.09477): scalar, metrics."""
    next_value = losses.ensemble_min(parts.critic.apply(target_params, transition.next_observation, next_action))
    target = losses.td_target(transition.reward, transition.discount, next_value, hypers.gamma, hypers.reward_scale)
    q = parts.critic.apply(params, transition.observation, transition.action)
    loss = losses.ensemble_td_loss(q, target)
    return loss, {"critic_loss": loss, "q_mean": q.mean()}


def actor_loss(
    params: Params, parts: Parts, value: Params, transition: Transition, hypers: Hypers
) -> tuple[jax.Array, Metrics]:
    """-lambda Q_1(s, pi(s)) + (pi(s) - a)^2 (arXiv 2106.06860, eq. 4): scalar and metrics.

    Means over everything, the action's dimensions included: its authors' reduction, for which 2.5 is meant.
    """
    action = parts.actor.apply(params, transition.observation)
    q = parts.first_critic.apply(value, transition.observation, action)[0]
    cloning = jnp.mean(jnp.square(action - transition.action))
    loss = cloning - losses.td3_bc_lambda(q, hypers.q_weight) * q.mean()
    return loss, {"actor_loss": loss, "cloning_loss": cloning}


def update_critic(
    parts: Parts, state: CriticState, policy: Policy, transition: Transition, key: Key
) -> tuple[CriticState, Metrics]:
    """One step of the critics and, every `policy_delay` steps, of their targets towards the new critics."""
    hypers = state.hypers
    action = parts.actor.apply(policy.target_params, transition.next_observation)
    noise = hypers.target_noise * jax.random.normal(key, action.shape, action.dtype)
    next_action = losses.smoothed_action(action, noise, hypers.max_target_noise)

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        return critic_loss(params, parts, state.target_params, transition, next_action, hypers)

    params, opt_state, metrics = gradient_step(loss, adam, parts.axes)(state.params, state.opt_state, hypers.critic_lr)
    step = state.step + 1
    tau = jnp.where(step % parts.policy_delay == 0, hypers.tau, 0.0)
    target_params = losses.polyak(state.target_params, params, tau)
    return state.replace(params=params, target_params=target_params, opt_state=opt_state, step=step), metrics


def update_actor(
    parts: Parts, state: ActorState, value: Params, transition: Transition, key: Key
) -> tuple[ActorState, Metrics]:
    """One step of the actor up the first critic and towards the data, then of its target."""
    del key
    hypers = state.hypers

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        return actor_loss(params, parts, value, transition, hypers)

    params, opt_state, metrics = gradient_step(loss, adam, parts.axes)(state.params, state.opt_state, hypers.actor_lr)
    target_params = losses.polyak(state.target_params, params, hypers.tau)
    state = state.replace(params=params, target_params=target_params, opt_state=opt_state, step=state.step + 1)
    return state, metrics


def init(parts: Parts, key: Key, hypers: Hypers | None = None) -> State[CriticState, ActorState]:
    """A fresh agent."""
    hypers = as_arrays(hypers or Hypers())
    critic_key, actor_key = jax.random.split(key)
    critic, actor = parts.critic.init(critic_key), parts.actor.init(actor_key)
    step = jnp.zeros((), jnp.int32)
    state = State(
        critic=CriticState(critic, critic, adam.init(critic), step, hypers),
        actor=ActorState(actor, actor, adam.init(actor), step, hypers),
    )
    return jax.tree.map(jnp.copy, state)  # no two leaves share memory, so callers may donate it


def act(parts: Parts, policy: Policy, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The actor's action, `[..., O]` to `[..., A]`; the noise that explores is the driver's."""
    del key
    return parts.actor.apply(policy.params, observation), {}


def make_parts(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Parts:
    """TD3's networks."""
    sizes = config.critic_hidden_sizes
    options: dict[str, Any] = {"activation": config.activation, "layer_norm": config.layer_norm}
    return Parts(
        actor=networks.make_deterministic_policy(spec, config.actor_hidden_sizes, activation=config.activation),
        critic=networks.make_critic(spec, sizes, num_critics=config.num_critics, **options),
        first_critic=networks.make_critic(spec, sizes, num_critics=1, **options),
        policy_delay=config.policy_delay,
        axes=axes,
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[CriticState, ActorState, Params, Policy]:
    """TD3+BC for environments of `spec`; gradients are averaged over the mapped `axes`."""
    parts = make_parts(config, spec, axes)
    return Agent(
        init=partial(init, parts),
        critic_params=lambda critic: jax.tree.map(lambda x: x[:1], critic.params),  # the first critic
        policy_params=lambda actor, critic_params: Policy(actor.params, actor.target_params),
        actor_reads=("observation", "action"),
        act=partial(act, parts),
        act_greedy=partial(act, parts),
        update_critic=partial(update_critic, parts),
        update_actor=partial(update_actor, parts),
    )


PRESETS: dict[str, dict[str, Any]] = {
    "*": {
        "offline_steps": 1_000_000,
        "total_env_steps": 0,
        "batch_size": 256,
        "ratio": "2:1",
        "normalize_observations": True,
    },
    "*@small": {"actor_hidden_sizes": (64, 64), "critic_hidden_sizes": (64, 64), "offline_steps": 50_000},
}
