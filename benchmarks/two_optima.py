"""A task of one step with two optima: a broad one that is easily found, and a narrow one that pays more."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlx.envs.base import advance, begin
from rlx.types import EnvState, Key, Spec, Step

BROAD = 0.3, 0.4, 0.7  # the best action, how far actions may be from it, what it pays


class TwoOptima:
    """The reward of an action of one number is the larger of two bumps, of which the better has this `width`.

    What is observed is always 0.
    """

    def __init__(self, width: float = 0.1) -> None:
        self.bumps = (BROAD, (-0.8, width, 1.0))

    @property
    def spec(self) -> Spec:
        return Spec(jax.ShapeDtypeStruct((1,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32), 1)

    def reset(self, key: Key) -> EnvState:
        del key
        return begin(jnp.zeros(()), jnp.zeros(1))

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        del key
        rewards = [pays * jnp.exp(-(((action[0] - best) / far) ** 2)) for best, far, pays in self.bumps]
        return advance(state, state.inner, state.observation, jnp.maximum(*rewards), jnp.array(True), 1)
