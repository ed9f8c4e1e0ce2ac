"""A point that drifts by an amount of each episode, which only critics are told; and physics to draw for it."""

from typing import Any

import jax
import jax.numpy as jnp

from rlx.envs.base import advance, begin
from rlx.types import EnvState, Key, Spec, Step

LIMIT = 8


class Drift:
    """Pays for staying near 0. `params` is the drift; an episode draws its own, in +-0.1."""

    params = jnp.zeros(())
    spec = Spec(
        jax.ShapeDtypeStruct((4,), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.float32),
        LIMIT,
        parts={"clock": (0, 1), "privileged_state": (1, 2), "state": (2, 4)},
        metrics=("distance",),
    )

    def reset(self, key: Key, params: Any = None) -> EnvState:
        place = jax.random.uniform(key, minval=-1.0, maxval=1.0)
        drift = jax.random.uniform(jax.random.fold_in(key, 1), minval=-0.1, maxval=0.1) if params is None else params
        return begin({"place": place, "drift": drift}, self._seen(place, drift, jnp.zeros(())))

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        drift = state.inner["drift"]
        place = state.inner["place"] + drift + 0.1 * action[0]
        seen, distance = self._seen(place, drift, state.time + 1.0), jnp.abs(place)
        inner = {"place": place, "drift": drift}
        return advance(state, inner, seen, -distance, jnp.bool_(False), LIMIT, {"distance": distance})

    def _seen(self, place: jax.Array, drift: jax.Array, time: jax.Array) -> dict[str, jax.Array]:
        return {"state": jnp.stack([place, place**2]), "privileged_state": drift, "clock": time}
