"""Brax environments, driven without Brax's wrappers: those lose an episode's last observation and fail on typed keys.

Of Brax's state the adapter carries only the leaves that later steps read (11 of 104 for the ant on mjx, a fourteenth of
the bytes): the dynamics stay Brax's own, while states, pools and reset programs shrink, and with them compile times.
"""

from __future__ import annotations

import contextlib
import inspect
import io
from typing import Any

import jax
import jax.numpy as jnp

from rlx.envs.base import advance, begin, carried, pack, unpack
from rlx.envs.geoms import quietly, scene
from rlx.errors import RlxError
from rlx.types import EnvState, Key, Spec, Step

with contextlib.redirect_stdout(io.StringIO()):  # MuJoCo prints that it lacks warp, which Brax does not use
    from brax import envs as brax_envs

EPISODE_LENGTH = 1000  # Brax's own default


class BraxEnv:
    """One Brax environment on one physics backend; `EnvState.inner` is the list of Brax's leaves that are carried.

    Actions are in [-1, 1] without rescaling here: environments with other actuator ranges map them themselves.
    """

    def __init__(self, env: brax_envs.PipelineEnv, episode_length: int):
        self._env = env
        # jit traces each once, whatever batches it later: the analysis here, pools, training and evaluation share it.
        self._brax_reset = jax.jit(self._reset_physics)
        self._brax_step = jax.jit(self._step_physics)
        action = jax.ShapeDtypeStruct((env.action_size,), jnp.float32)
        self._physics, observation = jax.eval_shape(self._brax_reset, jax.random.key(0))
        shown = jax.tree.map(lambda _: False, self._physics)
        shown = shown.replace(x=jax.tree.map(lambda _: True, self._physics.x))  # poses, to be drawn
        self._carried = carried(self._brax_step, self._physics, shown, observation, action)
        observation = jax.ShapeDtypeStruct(observation.shape, jnp.float32)
        self.spec = Spec(observation=observation, action=action, episode_length=episode_length)

    def reset(self, key: Key) -> EnvState:
        physics, observation = self._brax_reset(key)
        return begin(pack(physics, self._carried), observation)

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        del key  # Brax's dynamics draw no random numbers
        physics, (observation, reward, done) = self._brax_step(
            unpack(state.inner, self._carried, self._physics), state.observation, action
        )
        return advance(state, pack(physics, self._carried), observation, reward, done, self.spec.episode_length)

    def _reset_physics(self, key: Key) -> tuple[Any, jax.Array]:
        start = self._env.reset(key)
        return start.pipeline_state, start.obs

    def _step_physics(self, physics: Any, observation: jax.Array, action: jax.Array) -> tuple[Any, Any]:
        zero = jnp.zeros(())
        before = brax_envs.State(physics, observation, reward=zero, done=zero, metrics={}, info={})
        after = self._env.step(before, action)
        return after.pipeline_state, (after.obs, after.reward, after.done)

    def scene(self) -> dict[str, Any]:
        """The geoms of the MuJoCo model, see `rlx.envs.base.Watchable`; link i is Brax's link i."""
        return scene(self._env.sys.mj_model, float(self._env.dt))

    def pose(self, state: EnvState) -> jax.Array:
        links = unpack(state.inner, self._carried, self._physics).x
        rotation = links.rot / jnp.linalg.norm(links.rot, axis=-1, keepdims=True)  # Brax's resets leave it unnormalised
        return jnp.concatenate([links.pos, rotation], axis=-1)


def make(name: str, episode_length: int | None, settings: dict[str, Any]) -> BraxEnv:
    """Builds a Brax environment; `settings` are the arguments of its class, `backend` among them.

    Raises RlxError for a setting that the class lacks or refuses.
    """
    kind = brax_envs._envs[name]
    known = {*inspect.signature(kind).parameters, "n_frames"} - {"kwargs"}
    unknown = sorted(settings.keys() - known)
    if unknown:
        raise RlxError(f"brax:{name} has no setting {unknown[0]!r}; it has {', '.join(sorted(known))}")
    try:
        with quietly():
            return BraxEnv(kind(**settings), EPISODE_LENGTH if episode_length is None else episode_length)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise RlxError(f"brax:{name} refuses {settings}: {str(error).splitlines()[0]}") from error
