"""MuJoCo Playground environments on their jax implementation, driven without Playground's wrappers.

Of the library's state only the leaves that later steps read are carried. Observations that are dictionaries are flat
vectors with named parts, see `rlx.envs.observations`.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import jax
import jax.numpy as jnp

from rlx.envs import ROBOTS
from rlx.envs.base import advance, begin, metric_names, with_key
from rlx.envs.dynamics import Dynamics
from rlx.envs.geoms import interface, quietly, scene
from rlx.envs.observations import flatten, parts, size
from rlx.envs.randomization import Episode, Randomization, RandomizationFn, check_read, with_model
from rlx.errors import RlxError
from rlx.types import EnvState, Key, Spec, Step

EPISODE_LENGTH = 1000  # where a configuration has none


class PlaygroundEnv:
    """One Playground environment; `EnvState.inner` is the list of its state's leaves that are carried.

    Actions are in [-1, 1] as Playground's own are. A simulation that diverged is no end of the task, which Playground
    makes of it: its observation becomes NaN, for `--on-nonfinite` to deal with. `info["rng"]` is the step's key, so
    that episodes from one start differ.
    """

    def __init__(self, env: Any, episode_length: int, randomization_fn: RandomizationFn | None = None):
        self._env = env
        self._randomization = randomization_fn and Randomization(env.mjx_model, randomization_fn)
        self.params = self._randomization and self._randomization.params
        key = jax.eval_shape(lambda: jax.random.key(0))
        action = jax.ShapeDtypeStruct((env.action_size,), jnp.float32)
        self._dynamics = Dynamics(self._start, self._step, _mark_poses, action, key, params=self.params)
        check_read(self._dynamics)
        observation = self._dynamics.first_observed
        vector = jax.ShapeDtypeStruct((size(observation),), jnp.float32)
        metrics = metric_names(self._dynamics.state.state.metrics)
        self.spec = Spec(vector, action, episode_length, parts=parts(observation), metrics=metrics)

    def reset(self, key: Key, params: Any = None) -> EnvState:
        if self._randomization and params is None:
            params = self._randomization.draw(key)
        return begin(*self._dynamics.reset(key, params))

    def randomized(self, randomization_fn: RandomizationFn) -> PlaygroundEnv:
        """The environment with new physics every episode, see `rlx.envs.randomization`."""
        return PlaygroundEnv(self._env, self.spec.episode_length, randomization_fn)

    @property
    def model(self) -> Any:
        """MuJoCo's model, as MJX has it."""
        return self._env.mjx_model

    def with_model(self, model: Any) -> PlaygroundEnv:
        """The environment with another model."""
        return PlaygroundEnv(with_model(self._env, "_mjx_model", model), self.spec.episode_length)

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        inner, (observation, reward, terminated, metrics) = self._dynamics.step(state.inner, action, key)
        return advance(state, inner, observation, reward, terminated, self.spec.episode_length, metrics)

    def _start(self, key: Key, params: Any) -> tuple[Episode, jax.Array]:
        state = self._with(params).reset(key)
        return Episode(state, params), state.obs

    def _with(self, params: Any) -> Any:
        """The library's environment with the physics of an episode."""
        if self._randomization is None:
            return self._env
        return with_model(self._env, "_mjx_model", self._randomization.model(params))

    def _step(self, episode: Episode, action: jax.Array, key: Key) -> tuple[Episode, Any]:
        state, params = episode
        after = self._with(params).step(state.replace(info=with_key(state.info, key)), action)
        sound = jnp.isfinite(after.data.qpos).all() & jnp.isfinite(after.data.qvel).all()
        observation = jnp.where(sound, flatten(after.obs), jnp.nan)
        metrics = {name: after.metrics[name] for name in metric_names(after.metrics)}
        return Episode(after, params), (observation, after.reward, after.done.astype(bool) & sound, metrics)

    def scene(self) -> dict[str, Any]:
        """The simple geoms of the MuJoCo model; meshes are not drawn."""
        return scene(self._env.mj_model, float(self._env.dt))

    def interface(self) -> dict[str, Any]:
        """Names and ranges of the actuators and the control interval, see `rlx.export.bundle`; for robots whose action
        is a change of their default pose, also the scale and that pose."""
        description, env = interface(self._env.mj_model, float(self._env.dt)), self._env
        pose, scale = getattr(env, "_default_pose", None), getattr(getattr(env, "_config", None), "action_scale", None)
        if pose is not None and scale is not None and len(pose) == env.action_size:
            description["action"] |= {"scale": [float(scale)] * len(pose), "offset": [float(x) for x in pose]}
        return description

    def pose(self, state: EnvState) -> jax.Array:
        data = self._dynamics.unpack(state.inner).state.data
        return jnp.concatenate([data.xpos[1:], data.xquat[1:]], axis=-1)


def _mark_poses(flags: Episode) -> Episode:
    """Poses are carried to be drawn."""
    return flags._replace(state=flags.state.replace(data=flags.state.data.replace(xpos=True, xquat=True)))


def wrap(env: Any, episode_length: int | None) -> PlaygroundEnv:
    """An object of Playground's `MjxEnv`; its time limit is its configuration's `episode_length`, else 1000."""
    limit = getattr(getattr(env, "_config", None), "episode_length", EPISODE_LENGTH)
    return PlaygroundEnv(env, limit if episode_length is None else episode_length)


def make(name: str, episode_length: int | None, settings: dict[str, Any]) -> PlaygroundEnv:
    """Builds a Playground environment; `settings` are entries of its configuration, such as `{"ctrl_dt": 0.02}`.

    Raises RlxError for a setting that it lacks or refuses, and where its robot's model is not on this machine.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        from mujoco_playground import registry
        from mujoco_playground._src.mjx_env import MENAGERIE_PATH

    if name in ROBOTS and not MENAGERIE_PATH.exists():
        raise RlxError(
            f"playground:{name}: the model of its robot is not here, and rlx downloads nothing; once, run"
            " python -c 'from mujoco_playground._src import mjx_env; mjx_env.ensure_menagerie_exists()'"
        )
    config = registry.get_default_config(name)
    unknown = sorted(settings.keys() - set(config))
    if unknown:
        raise RlxError(f"playground:{name} has no setting {unknown[0]!r}; it has {', '.join(sorted(config))}")
    changes = ({"impl": "jax"} if "impl" in config else {}) | settings
    try:
        with quietly():
            env = registry.load(name, config_overrides=changes)
        return PlaygroundEnv(env, config.episode_length if episode_length is None else episode_length)
    except (TypeError, ValueError, KeyError, NotImplementedError) as error:
        raise RlxError(f"playground:{name} refuses {settings}: {str(error).splitlines()[0]}") from error
