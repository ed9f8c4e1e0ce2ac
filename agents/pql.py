"""Parallel Q-learning (Li et al., arXiv 2307.12983): deterministic actor, double Q or two categorical critics (PQL-D).

What acts is `policy`: there is no target actor, because the drivers hand the critics a policy that lags. Exploration
noise is the driver's (`noise_min`, `noise_max`), and so is the n-step window.
"""

from __future__ import annotations

from collections.abc import Callable
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

    actor_hidden_sizes: tuple[int, ...] = setting((512, 256, 128), "widths of the actor's hidden layers")
    critic_hidden_sizes: tuple[int, ...] = setting((512, 256, 128), "widths of every critic's hidden layers")
    num_critics: int = setting(2, "critics in the ensemble; the target takes the lowest")
    activation: str = setting("elu", "activation of the hidden layers")
    layer_norm: bool = setting(False, "LayerNorm in the critics")
    distributional: bool = setting(False, "PQL-D: critics are distributions over a fixed support")
    num_atoms: int = setting(51, "atoms of the support (distributional)")

    def __post_init__(self) -> None:
        if self.num_atoms < 2:
            raise RlxError(f"--num-atoms {self.num_atoms}: must be at least 2")


class Hypers(PyTreeNode):
    """Traced scalars."""

    gamma: float | jax.Array = setting(0.99, "discount per step", SHARE)
    tau: float | jax.Array = setting(0.05, "Polyak step of the target critics towards the online ones", SHARE)
    actor_lr: float | jax.Array = setting(5e-4, "learning rate of the actor (AdamW)", POSITIVE)
    critic_lr: float | jax.Array = setting(5e-4, "learning rate of the critics (AdamW)", POSITIVE)
    weight_decay: float | jax.Array = setting(0.01, "weight decay of AdamW, per unit of learning rate", POSITIVE)
    max_gradient_norm: float | jax.Array = setting(0.5, "gradients are scaled down to this global norm", POSITIVE)
    target_noise: float | jax.Array = setting(0.8, "standard deviation of the noise on the target's actions")
    max_target_noise: float | jax.Array = setting(0.2, "that noise is clipped to +- this")
    v_min: float | jax.Array = setting(-10.0, "lowest atom, in scaled rewards (distributional)")
    v_max: float | jax.Array = setting(10.0, "highest atom, in scaled rewards (distributional)")
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
    step: jax.Array  # [] int32
    hypers: Hypers


class Parts(NamedTuple):
    """What makes PQL-D differ from PQL. Estimates are what N critics say: values [N, B], or logits [N, B, M]."""

    actor: Network  # (params, observation [B, O]) -> action [B, A]
    critic: Network  # (params, observation [B, O], action [B, A]) -> estimates
    target: Callable[
        [jax.Array, Transition, Hypers], jax.Array
    ]  # next estimates -> values [B], or distributions [B, M]
    regress: Callable[[jax.Array, jax.Array], jax.Array]  # (estimates, target) -> loss []
    action_values: Callable[[jax.Array, Hypers], jax.Array]  # estimates -> [N, B]
    axes: parallel.Axes


def scalar_target(next_q: jax.Array, transition: Transition, hypers: Hypers) -> jax.Array:
    """Clipped double Q, `[N, B]` -> `[B]`."""
    next_value = losses.ensemble_min(next_q)
    return losses.td_target(transition.reward, transition.discount, next_value, hypers.gamma, hypers.reward_scale)


def support(hypers: Hypers, num_atoms: int) -> jax.Array:
    """The returns that the atoms stand for, `[M]`."""
    return jnp.linspace(hypers.v_min, hypers.v_max, num_atoms)


def categorical_target(next_logits: jax.Array, transition: Transition, hypers: Hypers) -> jax.Array:
    """The next distribution of the lower mean, moved by the reward and projected, `[N, B, M]` -> `[B, M]`."""
    atoms = support(hypers, next_logits.shape[-1])
    probs = losses.lower_mean(jax.nn.softmax(next_logits), atoms)
    next_values = jnp.broadcast_to(atoms, probs.shape)
    moved = losses.td_target(transition.reward, transition.discount, next_values, hypers.gamma, hypers.reward_scale)
    return losses.categorical_projection(probs, moved, atoms)


def categorical_values(logits: jax.Array, hypers: Hypers) -> jax.Array:
    """Mean returns, `[N, B, M]` -> `[N, B]`."""
    return losses.categorical_mean(jax.nn.softmax(logits), support(hypers, logits.shape[-1]))


def critic_loss(
    params: Params, parts: Parts, target_params: Params, transition: Transition, next_action: jax.Array, hypers: Hypers
) -> tuple[jax.Array, Metrics]:
    """Error of all critics against one target, `next_action` [B, A] being the smoothed policy's: scalar and metrics."""
    next_estimates = parts.critic.apply(target_params, transition.next_observation, next_action)
    target = parts.target(next_estimates, transition, hypers)
    estimates = parts.critic.apply(params, transition.observation, transition.action)
    loss = parts.regress(estimates, target)
    return loss, {"critic_loss": loss, "q_mean": parts.action_values(estimates, hypers).mean()}


def actor_loss(
    params: Params, parts: Parts, value: Params, observation: jax.Array, hypers: Hypers
) -> tuple[jax.Array, Metrics]:
    """-min Q (arXiv 2307.12983): scalar and metrics."""
    estimates = parts.critic.apply(value, observation, parts.actor.apply(params, observation))
    loss = -losses.ensemble_min(parts.action_values(estimates, hypers)).mean()
    return loss, {"actor_loss": loss}


def optimizer(hypers: Hypers) -> optax.GradientTransformation:
    """AdamW behind a clip of the global norm; the state does not depend on the hyper-parameters."""
    return optax.chain(
        optax.clip_by_global_norm(hypers.max_gradient_norm),
        adam,
        optax.add_decayed_weights(hypers.weight_decay),
    )


def update_critic(
    parts: Parts, state: CriticState, policy: Params, transition: Transition, key: Key
) -> tuple[CriticState, Metrics]:
    """One step of the critics, then of their targets towards the new critics."""
    hypers = state.hypers
    action = parts.actor.apply(policy, transition.next_observation)
    noise = hypers.target_noise * jax.random.normal(key, action.shape, action.dtype)
    next_action = losses.smoothed_action(action, noise, hypers.max_target_noise)

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        return critic_loss(params, parts, state.target_params, transition, next_action, hypers)

    step = gradient_step(loss, optimizer(hypers), parts.axes)
    params, opt_state, metrics = step(state.params, state.opt_state, hypers.critic_lr)
    target_params = losses.polyak(state.target_params, params, hypers.tau)
    state = state.replace(params=params, target_params=target_params, opt_state=opt_state, step=state.step + 1)
    return state, metrics


def update_actor(
    parts: Parts, state: ActorState, value: Params, batch: Transition, key: Key
) -> tuple[ActorState, Metrics]:
    """One step of the actor up the critics `value`."""
    del key
    hypers = state.hypers

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        return actor_loss(params, parts, value, batch.observation, hypers)

    step = gradient_step(loss, optimizer(hypers), parts.axes)
    params, opt_state, metrics = step(state.params, state.opt_state, hypers.actor_lr)
    return state.replace(params=params, opt_state=opt_state, step=state.step + 1), metrics


def init(parts: Parts, key: Key, hypers: Hypers | None = None) -> State[CriticState, ActorState]:
    """A fresh agent."""
    hypers = as_arrays(hypers or Hypers())
    critic_key, actor_key = jax.random.split(key)
    critic, actor = parts.critic.init(critic_key), parts.actor.init(actor_key)
    step, fresh = jnp.zeros((), jnp.int32), optimizer(hypers).init
    state = State(
        critic=CriticState(critic, critic, fresh(critic), step, hypers),
        actor=ActorState(actor, fresh(actor), step, hypers),
    )
    return jax.tree.map(jnp.copy, state)  # no two leaves share memory, so callers may donate it


def act(parts: Parts, policy: Params, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The actor's action, `[..., O]` to `[..., A]`; the noise that explores is the driver's."""
    del key
    return parts.actor.apply(policy, observation), {}


def make_parts(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Parts:
    """Networks, targets and losses of PQL or, where `config.distributional`, of PQL-D."""
    critic = networks.make_critic(
        spec,
        config.critic_hidden_sizes,
        num_critics=config.num_critics,
        num_atoms=config.num_atoms if config.distributional else None,
        activation=config.activation,
        layer_norm=config.layer_norm,
    )
    actor = networks.make_deterministic_policy(spec, config.actor_hidden_sizes, activation=config.activation)
    if config.distributional:
        return Parts(actor, critic, categorical_target, losses.cross_entropy_loss, categorical_values, axes)
    return Parts(actor, critic, scalar_target, losses.ensemble_td_loss, lambda q, hypers: q, axes)


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[CriticState, ActorState, Params, Params]:
    """PQL for environments of `spec`; gradients are averaged over the mapped `axes`."""
    parts = make_parts(config, spec, axes)
    return Agent(
        init=partial(init, parts),
        critic_params=lambda critic: critic.params,
        policy_params=lambda actor, critic_params: actor.params,
        act=partial(act, parts),
        act_greedy=partial(act, parts),
        update_critic=partial(update_critic, parts),
        update_actor=partial(update_actor, parts),
    )


SMALL: dict[str, Any] = {  # small networks, for a CPU
    "actor_hidden_sizes": (64, 64),
    "critic_hidden_sizes": (64, 64),
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "tau": 0.02,
}

PRESETS: dict[str, dict[str, Any]] = {
    "*": {"n_step": 3, "noise_min": 0.05, "noise_max": 0.8, "observation_clip": 5.0},
    "*@4096": {
        "num_envs": 4096,
        "ratio": "8:4",
        "batch_size": 8192,
        "replay_capacity": 5_000_000,
        "warmup_env_steps": 32 * 4096,
        "total_env_steps": 20_000_000,
    },
    "brax:ant@4096": {"reward_scale": 0.01},
    "brax:humanoid@4096": {"reward_scale": 0.01},
    "gymnax:Pendulum-v1": SMALL
    | {
        "gamma": 0.97,
        "reward_scale": 0.05,
        "num_envs": 64,
        "batch_size": 128,
        "ratio": "24:12",
        "warmup_env_steps": 1024,
        "total_env_steps": 20_000,
    },
    "brax:inverted_pendulum": SMALL
    | {
        "backend": "generalized",  # where it was tuned
        "gamma": 0.98,
        "reward_scale": 0.1,
        "num_envs": 256,
        "ratio": "32:16",
        "warmup_env_steps": 2048,
        "total_env_steps": 50_000,
    },
    "brax:ant": {
        "actor_hidden_sizes": (128, 128),
        "critic_hidden_sizes": (128, 128),
        "actor_lr": 6e-4,
        "critic_lr": 6e-4,
        "tau": 0.02,
        "gamma": 0.97,
        "reward_scale": 0.04,
        "num_envs": 128,
        "ratio": "32:16",
        "total_env_steps": 200_000,
        "eval_every": 50_000,
    },
}
