"""Brax environments, driven without Brax's wrappers: those lose an episode's last observation and fail on typed keys.

The adapter keeps the physics state alone between steps. Brax's rewards, flags and metrics are outputs: none of its
environments reads them back, and what is not carried need not be compiled, stored in pools or selected at resets.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import warnings
from typing import Any

import jax
import jax.numpy as jnp

from rlx.envs.base import advance, begin
from rlx.types import EnvState, Key, RlxError, Spec, Step

with contextlib.redirect_stdout(io.StringIO()):  # MuJoCo prints that it lacks warp, which Brax does not use
    import mujoco
    from brax import envs as brax_envs

EPISODE_LENGTH = 1000  # Brax's own default
_LENGTHS = {"plane": 2, "sphere": 1, "capsule": 2, "ellipsoid": 3, "cylinder": 2, "box": 3}  # of a geom's size
_UNSET = (0.5, 0.5, 0.5, 1.0)  # MuJoCo's default colour, which a material replaces


class BraxEnv:
    """One Brax environment on one physics backend.

    Actions are in [-1, 1] without rescaling here: environments with other actuator ranges map them themselves.
    """

    def __init__(self, env: brax_envs.PipelineEnv, episode_length: int):
        self._env = env
        # jit traces each once, whatever batches it later: specs, pools, training and evaluation share the trace.
        self._reset = jax.jit(self._reset_state)
        self._step = jax.jit(self._step_state)
        start = jax.eval_shape(self._reset, jax.random.key(0))
        self.spec = Spec(
            observation=jax.ShapeDtypeStruct(start.observation.shape, start.observation.dtype),
            action=jax.ShapeDtypeStruct((env.action_size,), jnp.float32),
            episode_length=episode_length,
        )

    def reset(self, key: Key) -> EnvState:
        return self._reset(key)

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        del key  # Brax's dynamics draw no random numbers
        return self._step(state, action)

    def _reset_state(self, key: Key) -> EnvState:
        start = self._env.reset(key)
        return begin(start.pipeline_state, start.obs)

    def _step_state(self, state: EnvState, action: jax.Array) -> tuple[EnvState, Step]:
        zero = jnp.zeros(())
        before = brax_envs.State(state.inner, state.observation, reward=zero, done=zero, metrics={}, info={})
        after = self._env.step(before, action)
        episode_length = self.spec.episode_length
        return advance(state, after.pipeline_state, after.obs, after.reward, after.done, episode_length)

    def scene(self) -> dict[str, Any]:
        """The geoms of the MuJoCo model, see `rlx.envs.base.Watchable`; link i is Brax's link i."""
        model = self._env.sys.mj_model
        geoms = [_geom(model, i) for i in range(model.ngeom) if _color(model, i)[3] > 0]
        return {"dt": float(self._env.dt), "geoms": geoms}

    def pose(self, state: EnvState) -> jax.Array:
        return jnp.concatenate([state.inner.x.pos, state.inner.x.rot], axis=-1)


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
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that Brax is no longer developed
            env = kind(**settings)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise RlxError(f"brax:{name} refuses {settings}: {error}") from error
    return BraxEnv(env, EPISODE_LENGTH if episode_length is None else episode_length)


def _geom(model: mujoco.MjModel, i: int) -> dict[str, Any]:
    shape = mujoco.mjtGeom(model.geom_type[i]).name.removeprefix("mjGEOM_").lower()
    return {
        "shape": shape,
        "size": model.geom_size[i, : _LENGTHS[shape]].tolist(),
        "link": int(model.geom_bodyid[i]) - 1,
        "position": model.geom_pos[i].tolist(),
        "rotation": model.geom_quat[i].tolist(),
        "color": _color(model, i)[:3],
    }


def _color(model: mujoco.MjModel, i: int) -> list[float]:
    material, own = model.geom_matid[i], model.geom_rgba[i]
    inherits = material >= 0 and (own == _UNSET).all()
    return (model.mat_rgba[material] if inherits else own).tolist()
