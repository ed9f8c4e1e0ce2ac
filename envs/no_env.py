"""The place of an environment in a run that learns from data alone: its sizes, and nothing to evaluate in."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp

from rlx.envs.base import advance, begin
from rlx.types import Env, EnvState, Key, Spec, Step

NAME = re.compile(r"none:([1-9]\d*)x([1-9]\d*)")


class NoEnv:
    """Observations `[O]` and actions `[A]` of these sizes; every episode is one step of zeros."""

    def __init__(self, observation_size: int, action_size: int) -> None:
        observation, action = (jax.ShapeDtypeStruct((size,), jnp.float32) for size in (observation_size, action_size))
        self.spec = Spec(observation=observation, action=action, episode_length=1)

    def reset(self, key: Key) -> EnvState:
        del key
        return begin((), jnp.zeros(self.spec.observation.shape))

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        del action, key
        return advance(state, (), state.observation, jnp.zeros(()), jnp.bool_(True), episode_length=1)


def name_of(observation_size: int, action_size: int) -> str:
    """The name by which `rlx.envs.make` makes one, `none:17x6`."""
    return f"none:{observation_size}x{action_size}"


def is_none(env: str | Env) -> bool:
    """Whether a run with this environment, or one of this name, has nothing to evaluate in."""
    return bool(NAME.fullmatch(env)) if isinstance(env, str) else isinstance(env, NoEnv)


def from_name(name: str) -> NoEnv | None:
    """The one that `name_of` named, None for other names."""
    sizes = NAME.fullmatch(name)
    return NoEnv(*map(int, sizes.groups())) if sizes else None
