"""A small random environment: random starts, noise from its keys, terminations and a time limit."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlx.envs.base import advance, begin
from rlx.types import EnvState, Key, Spec, Step

DECAY, PUSH, EDGE = 0.9, 0.3, 1.0


class Walk(NamedTuple):
    """x' = 0.9 x + 0.3 a + noise, reward x_0 - a^2; an episode terminates where x_0 leaves [-1, 1]."""

    limit: int = 6  # the time limit, in steps
    noise: float = 0.2

    @property
    def spec(self) -> Spec:
        return Spec(jax.ShapeDtypeStruct((2,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32), self.limit)

    def reset(self, key: Key) -> EnvState:
        x = jax.random.uniform(key, (2,), jnp.float32, -1, 1)
        return begin(x, x)

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        x = DECAY * state.inner + PUSH * action + self.noise * jax.random.normal(key, (2,))
        reward = state.inner[0] - jnp.sum(action**2)
        return advance(state, x, x, reward, jnp.abs(x[0]) > EDGE, self.limit)
