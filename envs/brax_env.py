"""Brax environments, driven without Brax's wrappers: those lose an episode's last observation and fail on typed keys.

Of Brax's state only the leaves that later steps read are carried (11 of 104 for the ant on mjx, a fourteenth of the
bytes): the dynamics stay Brax's own, while states, pools and reset programs shrink, and with them compile times.
"""

from __future__ import annotations

import contextlib
import inspect
import io
from typing import Any

import jax
import jax.numpy as jnp

from rlx.envs.base import advance, begin, metric_names, with_key
from rlx.envs.dynamics import Dynamics
from rlx.envs.geoms import interface, quietly, scene
from rlx.envs.observations import parts, size
from rlx.envs.randomization import Episode, Randomization, RandomizationFn, check_read, with_model
from rlx.errors import RlxError
from rlx.types import EnvState, Key, Spec, Step

with contextlib.redirect_stdout(io.StringIO()):  # MuJoCo prints that it lacks warp, which Brax does not use
    from brax import envs as brax_envs

EPISODE_LENGTH = 1000  # Brax's own default


class BraxEnv:
    """One Brax environment on one physics backend; `EnvState.inner` is the list of Brax's leaves that are carried.

    Actions are in [-1, 1] without rescaling here: environments with other actuator ranges map them themselves. What
    `state.info` holds is carried where a step reads it; `info["rng"]` is the step's key, so that episodes from one
    start differ. With a `randomization_fn` of its `sys`, the leaves that it draws are carried, too.
    """

    def __init__(self, env: brax_envs.Env, episode_length: int, randomization_fn: RandomizationFn | None = None):
        self._env = env
        if randomization_fn is not None and not hasattr(env.unwrapped, "sys"):
            raise RlxError(f"{type(env.unwrapped).__name__}: has no sys to randomise; it is no PipelineEnv")
        self._randomization = randomization_fn and Randomization(env.sys, randomization_fn)
        self.params = self._randomization and self._randomization.params
        key = jax.eval_shape(lambda: jax.random.key(0))
        action = jax.ShapeDtypeStruct((env.action_size,), jnp.float32)
        self._dynamics = Dynamics(self._start, self._step, _mark_poses, action, key, params=self.params)
        check_read(self._dynamics)
        observation, metrics = self._dynamics.first_observed, metric_names(self._dynamics.state.state.metrics)
        vector = jax.ShapeDtypeStruct((size(observation),), jnp.float32)
        self.spec = Spec(vector, action, episode_length, parts=parts(observation), metrics=metrics)

    def reset(self, key: Key, params: Any = None) -> EnvState:
        if self._randomization and params is None:
            params = self._randomization.draw(key)
        return begin(*self._dynamics.reset(key, params))

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        inner, (observation, reward, done, metrics) = self._dynamics.step(state.inner, action, key)
        return advance(state, inner, observation, reward, done, self.spec.episode_length, metrics)

    def randomized(self, randomization_fn: RandomizationFn) -> BraxEnv:
        """The environment with new physics every episode, see `rlx.envs.randomization`."""
        return BraxEnv(self._env, self.spec.episode_length, randomization_fn)

    @property
    def model(self) -> Any:
        """Brax's `System`; None where the environment has none."""
        return getattr(self._env.unwrapped, "sys", None)

    def with_model(self, sys: Any) -> BraxEnv:
        """The environment with another `System`."""
        return BraxEnv(with_model(self._env, "sys", sys), self.spec.episode_length)

    def _with(self, params: Any) -> brax_envs.Env:
        """Brax's environment with the physics of an episode."""
        if self._randomization is None:
            return self._env
        return with_model(self._env, "sys", self._randomization.model(params))

    def _start(self, key: Key, params: Any) -> tuple[Episode, Any]:
        start = self._with(params).reset(key)
        return Episode(start, params), start.obs

    def _step(self, episode: Episode, action: jax.Array, key: Key) -> tuple[Episode, Any]:
        state, params = episode
        after = self._with(params).step(state.replace(info=with_key(state.info, key)), action)
        metrics = {name: after.metrics[name] for name in metric_names(after.metrics)}
        return Episode(after, params), (after.obs, after.reward, after.done, metrics)

    def scene(self) -> dict[str, Any] | None:
        """The geoms of the MuJoCo model, see `rlx.envs.base.Renderable`; link i is Brax's link i. None without one."""
        if not isinstance(self._env.unwrapped, brax_envs.PipelineEnv):
            return None
        return scene(self._env.sys.mj_model, float(self._env.dt))

    def interface(self) -> dict[str, Any]:
        """Names and ranges of the actuators and the control interval, see `rlx.export.bundle`."""
        return interface(self._env.sys.mj_model, float(self._env.dt))

    def pose(self, state: EnvState) -> jax.Array:
        links = self._dynamics.unpack(state.inner).state.pipeline_state.x
        rotation = links.rot / jnp.linalg.norm(links.rot, axis=-1, keepdims=True)  # Brax's resets leave it unnormalised
        return jnp.concatenate([links.pos, rotation], axis=-1)


def _mark_poses(flags: Episode) -> Episode:
    """Poses are carried to be drawn."""
    pipeline = flags.state.pipeline_state
    if not hasattr(pipeline, "x"):
        return flags
    poses = jax.tree.map(lambda _: True, pipeline.x)
    return flags._replace(state=flags.state.replace(pipeline_state=pipeline.replace(x=poses)))


TRAINING = ("VmapWrapper", "EpisodeWrapper", "AutoResetWrapper", "EvalWrapper", "DomainRandomizationVmapWrapper")


def wrap(env: brax_envs.Env, episode_length: int | None) -> BraxEnv:
    """An object of Brax's `PipelineEnv` or `Env`. Raises RlxError where Brax's wrappers for training are around it."""
    layer = env
    while isinstance(layer, brax_envs.Wrapper):
        if type(layer).__name__ in TRAINING:
            raise RlxError(
                f"{type(env.unwrapped).__name__} is inside Brax's {type(layer).__name__}, whose work rlx does itself:"
                " give the environment without it"
            )
        layer = layer.env
    return BraxEnv(env, EPISODE_LENGTH if episode_length is None else episode_length)


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
