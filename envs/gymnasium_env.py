"""An rlx environment as a Gymnasium one, for code that needs that interface: its wrappers, vectors, other agents."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.error import ResetNeeded

from rlx.envs.base import check_process
from rlx.types import Env, EnvState, Key, Step


# The environment is static and compared by identity: all copies of one share its programs.
@partial(jax.jit, static_argnums=0)
def _reset(env: Env, seed: jax.Array) -> tuple[EnvState, Key]:
    start_key, key = jax.random.split(jax.random.key(seed))
    return env.reset(start_key), key


@partial(jax.jit, static_argnums=0)
def _step(env: Env, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
    return env.step(state, jnp.clip(action, -1.0, 1.0), jax.random.fold_in(key, state.time))


class GymnasiumEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One environment, stepped on the device. Observations and actions are float32 boxes, actions in [-1, 1].

    Actions outside are clipped. Nothing resets by itself: call `reset` after `terminated` or `truncated`.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 -- as Gymnasium declares it

    def __init__(self, env: Env, seed: int | None = None):
        check_process()
        self.env = env
        sizes = env.spec.observation_size, env.spec.action_size
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, sizes[:1], np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, sizes[1:], np.float32)
        self._seed = seed  # of a first reset that names none
        self._now: tuple[EnvState, Key] | None = None  # the state, and the key of the episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode. With a seed it and those that follow are always the same."""
        check_process()
        super().reset(seed=self._seed if seed is None else seed)
        self._seed = None
        self._now = _reset(self.env, self.np_random.integers(2**32, dtype=np.uint32))
        return np.array(self._now[0].observation), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Takes one step. Raises gymnasium's ResetNeeded before the first reset."""
        if self._now is None:
            raise ResetNeeded("reset() comes before the first step()")
        state, key = self._now
        state, shown = _step(self.env, state, np.asarray(action, np.float32), key)
        self._now = state, key
        shown = jax.device_get(shown)
        flags = bool(shown.terminated), bool(shown.truncated)
        return np.array(shown.next_observation), float(shown.reward), *flags, dict(shown.metrics)
