"""Implicit Q-learning (Kostrikov et al., arXiv 2110.06169): values of the data's own actions, and weighted imitation.

The critic half learns V, then Q from the new V, then moves the target critics; it never asks a policy. The actor half
imitates the data, the better actions more. IDQL takes the critic half as it is, behaviour cloning the actor half.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode

from rlx import losses, networks, parallel
from rlx.errors import RlxError
from rlx.networks import Network
from rlx.optim import adam, cosine_decay, gradient_step
from rlx.types import POSITIVE, SHARE, Agent, Key, Metrics, Params, Spec, State, Transition, as_arrays, setting


@dataclass(frozen=True)
class CriticConfig:
    """What changes shapes and branches of the critic half, and the length of the actor's schedule."""

    critic_hidden_sizes: tuple[int, ...] = setting((256, 256), "hidden layers of every critic and of the value network")
    num_critics: int = setting(2, "critics in the ensemble; their minimum counts")
    activation: str = setting("relu", "activation of the hidden layers")
    layer_norm: bool = setting(False, "LayerNorm in the critics")
    value_layer_norm: bool = setting(False, "LayerNorm in the value network")
    value_loss: str = setting("expectile", "loss of the value network: expectile, quantile or exponential")
    actor_decay_steps: int = setting(
        0, "updates over which the actor's learning rate falls to 0 by a cosine (0: all of the run's; -1: it stays)"
    )

    def __post_init__(self) -> None:
        if self.value_loss not in losses.VALUE_LOSSES:
            close = difflib.get_close_matches(self.value_loss, losses.VALUE_LOSSES, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(losses.VALUE_LOSSES)}"
            raise RlxError(f"--value-loss {self.value_loss}: unknown; {hint}")


@dataclass(frozen=True)
class Config(CriticConfig):
    """IQL's: the policy too."""

    actor_hidden_sizes: tuple[int, ...] = setting((256, 256), "widths of the actor's hidden layers")


class CriticHypers(PyTreeNode):
    """Traced scalars of the critic half, and what every agent has."""

    gamma: float | jax.Array = setting(0.99, "discount per step", SHARE)
    tau: float | jax.Array = setting(0.005, "Polyak step of the target critics towards the online ones", SHARE)
    expectile: float | jax.Array = setting(0.7, "expectile, or quantile, of the data's values that V learns", SHARE)
    exponential_scale: float | jax.Array = setting(1.0, "factor on the advantage inside the exponential value loss")
    critic_lr: float | jax.Array = setting(3e-4, "learning rate of the critics and the value network (Adam)", POSITIVE)
    actor_lr: float | jax.Array = setting(3e-4, "learning rate of the actor at the start (Adam; IDQL: AdamW)", POSITIVE)
    reward_scale: float | jax.Array = setting(1.0, "factor on rewards inside the learning targets")


class Hypers(CriticHypers):
    """IQL's: the weights of imitation too."""

    beta: float | jax.Array = setting(3.0, "weights of imitation are exp(beta * advantage), at most 100")


class CriticState(PyTreeNode):
    """The critic half."""

    params: Params  # [N, ...]
    target_params: Params  # [N, ...]
    opt_state: optax.OptState
    value_params: Params
    value_opt_state: optax.OptState
    step: jax.Array  # [] int32
    hypers: CriticHypers


class ActorState(PyTreeNode):
    """The actor half."""

    params: Params
    opt_state: optax.OptState
    step: jax.Array  # [] int32
    hypers: Any


class Value(NamedTuple):
    """What others need of the critic half."""

    target_params: Params  # of the critics, [N, ...]
    value_params: Params


class CriticParts(NamedTuple):
    """The critic half's networks and the loss of V."""

    critic: Network  # (params, observation [B, O], action [B, A]) -> [N, B]
    value: Network  # (params, observation [B, O]) -> [B]
    value_loss: losses.ValueLoss
    parameter: Callable[[CriticHypers], losses.Scalar]  # what that loss takes beside u
    axes: parallel.Axes


class ActorParts(NamedTuple):
    """The actor half's network, and what makes imitation with advantages differ from plain imitation."""

    actor: Network  # (params, observation [B, O]) -> mean, log_std [B, A]
    weigh: Callable[[Any, Transition, Any], jax.Array]  # (value, transition, hypers) -> weights [B]
    decay: optax.Schedule  # factor on the learning rate
    axes: parallel.Axes


def advantage(parts: CriticParts, value: Value, observation: jax.Array, action: jax.Array) -> jax.Array:
    """The smallest target critic less V, `[..., O]` and `[..., A]` to `[...]`."""
    q = parts.critic.apply(value.target_params, observation, action)
    return jnp.min(q, axis=0) - parts.value.apply(value.value_params, observation)


def value_loss(
    params: Params, parts: CriticParts, target_q: jax.Array, observation: jax.Array, hypers: CriticHypers
) -> tuple[jax.Array, Metrics]:
    """Mean of f(min Q' - V) (arXiv 2110.06169, eq. 5; 2304.10573 for other f), `target_q` [B]: scalar and metrics."""
    value = parts.value.apply(params, observation)
    loss = parts.value_loss.loss(target_q - value, parts.parameter(hypers)).mean()
    return loss, {"value_loss": loss, "v_mean": value.mean()}


def critic_loss(
    params: Params, parts: CriticParts, next_value: jax.Array, transition: Transition, hypers: CriticHypers
) -> tuple[jax.Array, Metrics]:
    """Squared error of all critics against r + gamma d V(s') (arXiv 2110.06169, eq. 6): scalar and metrics."""
    target = losses.td_target(transition.reward, transition.discount, next_value, hypers.gamma, hypers.reward_scale)
    q = parts.critic.apply(params, transition.observation, transition.action)
    loss = losses.ensemble_td_loss(q, target)
    return loss, {"critic_loss": loss, "q_mean": q.mean()}


def distribution(actor: Network, params: Params, observation: jax.Array) -> Any:
    """The policy at observations `[..., O]`, a distrax distribution over actions `[..., A]`."""
    from rlx.distributions import mean_tanh_normal  # 0.4 s that `--help` need not spend

    return mean_tanh_normal(*actor.apply(params, observation))


def actor_loss(params: Params, actor: Network, transition: Transition, weights: jax.Array) -> tuple[jax.Array, Metrics]:
    """-mean(weights * log pi(a|s)), `weights` [B] (arXiv 2110.06169, eq. 7): scalar and metrics."""
    policy = distribution(actor, params, transition.observation)
    chex.assert_shape(transition.action, policy.batch_shape + policy.event_shape)  # [B] would broadcast to [B, B]
    log_prob = policy.log_prob(transition.action)
    loss = -jnp.mean(weights * log_prob)
    return loss, {"actor_loss": loss, "data_log_prob": log_prob.mean()}


def update_critic(
    parts: CriticParts, state: CriticState, policy: Any, transition: Transition, key: Key
) -> tuple[CriticState, Metrics]:
    """One step of V, then of the critics with the new V, then of their targets towards the new critics."""
    del policy, key
    hypers, observation = state.hypers, transition.observation
    target_q = losses.ensemble_min(parts.critic.apply(state.target_params, observation, transition.action))

    def loss_of_value(params: Params) -> tuple[jax.Array, Metrics]:
        return value_loss(params, parts, target_q, observation, hypers)

    step = gradient_step(loss_of_value, adam, parts.axes)
    value_params, value_opt_state, value_metrics = step(state.value_params, state.value_opt_state, hypers.critic_lr)
    next_value = parts.value.apply(value_params, transition.next_observation)

    def loss_of_critics(params: Params) -> tuple[jax.Array, Metrics]:
        return critic_loss(params, parts, next_value, transition, hypers)

    step = gradient_step(loss_of_critics, adam, parts.axes)
    params, opt_state, metrics = step(state.params, state.opt_state, hypers.critic_lr)
    state = state.replace(
        params=params,
        target_params=losses.polyak(state.target_params, params, hypers.tau),
        opt_state=opt_state,
        value_params=value_params,
        value_opt_state=value_opt_state,
        step=state.step + 1,
    )
    return state, value_metrics | metrics


def update_actor(
    parts: ActorParts, state: ActorState, value: Any, transition: Transition, key: Key
) -> tuple[ActorState, Metrics]:
    """One step of weighted imitation."""
    del key
    weights = parts.weigh(value, transition, state.hypers)

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        return actor_loss(params, parts.actor, transition, weights)

    learning_rate = state.hypers.actor_lr * parts.decay(state.step)
    params, opt_state, metrics = gradient_step(loss, adam, parts.axes)(state.params, state.opt_state, learning_rate)
    return state.replace(params=params, opt_state=opt_state, step=state.step + 1), metrics


def imitation_weights(parts: CriticParts, value: Value, transition: Transition, hypers: Hypers) -> jax.Array:
    """min(exp(beta (min Q' - V)), 100), `[B]`."""
    return losses.advantage_weights(advantage(parts, value, transition.observation, transition.action), hypers.beta)


def init_critic(parts: CriticParts, key: Key, hypers: CriticHypers) -> CriticState:
    """A fresh critic half."""
    critic_key, value_key = jax.random.split(key)
    critic, value = parts.critic.init(critic_key), parts.value.init(value_key)
    step = jnp.zeros((), jnp.int32)
    return CriticState(critic, critic, adam.init(critic), value, adam.init(value), step, hypers)


def init_actor(parts: ActorParts, key: Key, hypers: Any) -> ActorState:
    """A fresh actor half."""
    params = parts.actor.init(key)
    return ActorState(params, adam.init(params), jnp.zeros((), jnp.int32), hypers)


def init(
    critic: CriticParts, actor: ActorParts, key: Key, hypers: Hypers | None = None
) -> State[CriticState, ActorState]:
    """A fresh agent."""
    hypers = as_arrays(hypers or Hypers())
    critic_key, actor_key = jax.random.split(key)
    state = State(critic=init_critic(critic, critic_key, hypers), actor=init_actor(actor, actor_key, hypers))
    return jax.tree.map(jnp.copy, state)  # no two leaves share memory, so callers may donate it


def act(actor: Network, policy: Params, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A draw from the policy clipped to [-1, 1], `[..., O]` to `[..., A]`; clipped, it has no density."""
    return jnp.clip(distribution(actor, policy, observation).sample(seed=key), -1.0, 1.0), {}


def act_greedy(
    actor: Network, policy: Params, observation: jax.Array, key: Key
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The policy's mean."""
    del key
    mean, _ = actor.apply(policy, observation)
    return jnp.tanh(mean), {}


def make_critic_parts(config: CriticConfig, spec: Spec, axes: parallel.Axes = ()) -> CriticParts:
    """Double Q, V and the loss that `config.value_loss` names."""
    sizes, activation = config.critic_hidden_sizes, config.activation
    scale = "exponential_scale" if config.value_loss == "exponential" else "expectile"
    return CriticParts(
        critic=networks.make_critic(
            spec, sizes, num_critics=config.num_critics, activation=activation, layer_norm=config.layer_norm
        ),
        value=networks.make_value(spec, sizes, activation=activation, layer_norm=config.value_layer_norm),
        value_loss=losses.VALUE_LOSSES[config.value_loss],
        parameter=lambda hypers: getattr(hypers, scale),
        axes=axes,
    )


def make_actor(spec: Spec, hidden_sizes: tuple[int, ...], activation: str) -> Network:
    """The network of a Gaussian whose deviation does not depend on the observation."""
    return networks.make_gaussian_policy(spec, hidden_sizes, state_dependent_std=False, activation=activation)


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[CriticState, ActorState, Value, Params]:
    """IQL for environments of `spec`; gradients are averaged over the mapped `axes`."""
    critic = make_critic_parts(config, spec, axes)
    network = make_actor(spec, config.actor_hidden_sizes, config.activation)
    actor = ActorParts(network, partial(imitation_weights, critic), cosine_decay(config.actor_decay_steps), axes)
    return Agent(
        init=partial(init, critic, actor),
        critic_params=lambda critic: Value(critic.target_params, critic.value_params),
        policy_params=lambda actor, critic_params: actor.params,
        actor_reads=("observation", "action"),
        act=partial(act, network),
        act_greedy=partial(act_greedy, network),
        update_critic=partial(update_critic, critic),
        update_actor=partial(update_actor, actor),
    )


LOCOMOTION: dict[str, Any] = {"expectile": 0.7, "beta": 3.0, "scale_rewards": "range"}
ANTMAZE: dict[str, Any] = {"expectile": 0.9, "beta": 10.0, "reward_shift": -1.0}
OFFLINE: dict[str, Any] = {
    "offline_steps": 1_000_000,
    "total_env_steps": 0,
    "batch_size": 256,
    "ratio": "1:1",
    "normalize_observations": False,
}

PRESETS: dict[str, dict[str, Any]] = {
    "*": OFFLINE,
    "*@locomotion": LOCOMOTION,
    "*@antmaze": ANTMAZE,
    "*@small": {"actor_hidden_sizes": (64, 64), "critic_hidden_sizes": (64, 64), "offline_steps": 50_000},
}
