"""Behaviour cloning: the Gaussian most likely to have made the data, the yardstick of every offline table.

The actor half is IQL's with all weights 1; the critic half learns nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode

from rlx import parallel
from rlx.agents import iql
from rlx.optim import cosine_decay
from rlx.types import POSITIVE, SHARE, Agent, Key, Metrics, Params, Spec, State, Transition, as_arrays, setting


@dataclass(frozen=True)
class Config:
    """What changes shapes and branches."""

    actor_hidden_sizes: tuple[int, ...] = setting((256, 256), "widths of the actor's hidden layers")
    activation: str = setting("relu", "activation of the hidden layers")
    actor_decay_steps: int = setting(
        -1, "updates over which the actor's learning rate falls to 0 by a cosine (0: all of the run's; -1: it stays)"
    )


class Hypers(PyTreeNode):
    """Traced scalars. There is no value: discount and reward scale are here because every agent has them."""

    gamma: float | jax.Array = setting(0.99, "discount per step (not used)", SHARE)
    actor_lr: float | jax.Array = setting(3e-4, "learning rate of the actor at the start (Adam)", POSITIVE)
    reward_scale: float | jax.Array = setting(1.0, "factor on rewards (not used)")


class CriticState(PyTreeNode):
    """The critic half: nothing but its count."""

    step: jax.Array  # [] int32
    hypers: Hypers


def equal_weights(value: None, transition: Transition, hypers: Hypers) -> jax.Array:
    """All 1, `[B]`."""
    del value, hypers
    return jnp.ones_like(transition.action[..., 0])


def update_critic(state: CriticState, policy: Params, transition: Transition, key: Key) -> tuple[CriticState, Metrics]:
    """Counts."""
    del policy, transition, key
    return state.replace(step=state.step + 1), {}


def init(parts: iql.ActorParts, key: Key, hypers: Hypers | None = None) -> State[CriticState, iql.ActorState]:
    """A fresh agent."""
    hypers = as_arrays(hypers or Hypers())
    critic = CriticState(jnp.zeros((), jnp.int32), hypers)
    return jax.tree.map(jnp.copy, State(critic=critic, actor=iql.init_actor(parts, key, hypers)))


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[CriticState, iql.ActorState, None, Params]:
    """Behaviour cloning for environments of `spec`; gradients are averaged over the mapped `axes`."""
    network = iql.make_actor(spec, config.actor_hidden_sizes, config.activation)
    parts = iql.ActorParts(network, equal_weights, cosine_decay(config.actor_decay_steps), axes)
    return Agent(
        init=partial(init, parts),
        critic_params=lambda critic: None,
        policy_params=lambda actor, critic_params: actor.params,
        actor_reads=("observation", "action"),
        act=partial(iql.act, network),
        act_greedy=partial(iql.act_greedy, network),
        update_critic=update_critic,
        update_actor=partial(iql.update_actor, parts),
    )


PRESETS: dict[str, dict[str, Any]] = {
    "*": iql.OFFLINE,
    "*@small": {"actor_hidden_sizes": (64, 64), "offline_steps": 50_000},
}
