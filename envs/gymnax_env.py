"""Gymnax environments, stepped without gymnax's auto-reset and without its time limit: both are ours."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments.environment import Environment, EnvParams

from rlx.envs.base import advance, begin
from rlx.envs.randomization import Episode, Randomization, RandomizationFn
from rlx.errors import RlxError
from rlx.types import EnvState, Key, Spec, Step

PENDULUM = "Pendulum-v1"  # the one that can be watched


class GymnaxEnv:
    """One gymnax environment; [-1, 1] is mapped to a box of actions, and of discrete ones the largest number counts.

    With a `randomization_fn` of its `EnvParams`, `EnvState.inner` also has those of the episode.
    """

    def __init__(
        self,
        env: Environment[Any, Any],
        params: EnvParams,
        episode_length: int,
        randomization_fn: RandomizationFn | None = None,
    ):
        self._env, self._params = env, params
        self._randomization = randomization_fn and Randomization(params, randomization_fn)
        self.params = self._randomization and self._randomization.params
        self.model = params
        space = env.action_space(params)
        choices = int(getattr(space, "n", 0))
        if not choices and not (hasattr(space, "low") and hasattr(space, "high")):
            raise RlxError(f"{env.name} has actions {type(space).__name__}, not Box or Discrete; rlx has no others")
        self._center, self._half = _center_and_half(space, np)
        start = jax.eval_shape(self.reset, jax.random.key(0))
        self.spec = Spec(
            observation=jax.ShapeDtypeStruct(start.observation.shape, start.observation.dtype),
            action=jax.ShapeDtypeStruct((choices,) if choices else space.shape, jnp.float32),
            episode_length=episode_length,
            num_actions=choices,
        )

    def reset(self, key: Key, params: Any = None) -> EnvState:
        if self._randomization and params is None:
            params = self._randomization.draw(key)
        observation, inner = self._env.reset_env(key, self._with(params))
        return begin(Episode(inner, params) if self._randomization else inner, observation)

    def randomized(self, randomization_fn: RandomizationFn) -> GymnaxEnv:
        """The environment with new parameters every episode, see `rlx.envs.randomization`."""
        return GymnaxEnv(self._env, self._params, self.spec.episode_length, randomization_fn)

    def with_model(self, params: EnvParams) -> GymnaxEnv:
        """The environment with other parameters."""
        return GymnaxEnv(self._env, params, self.spec.episode_length)

    def _with(self, params: Any) -> EnvParams:
        return self._params if self._randomization is None else self._randomization.model(params)

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        inner, params = state.inner if self._randomization else (state.inner, None)
        of_episode, center, half = self._with(params), self._center, self._half
        if self._randomization:  # the box may depend on what is drawn
            center, half = _center_and_half(self._env.action_space(of_episode), jnp)
        native = jnp.argmax(action) if self.spec.num_actions else center + half * action
        observation, inner, reward, terminated, _ = self._env.step_env(key, inner, native, of_episode)
        after = Episode(inner, params) if self._randomization else inner
        return advance(state, after, observation, reward, terminated, self.spec.episode_length)

    def scene(self) -> dict[str, Any] | None:
        """A rod for Pendulum-v1, see `rlx.envs.base.Renderable`; None for the others."""
        if self._env.name != PENDULUM:
            return None
        half = float(self._params.l) / 2
        rod = {
            "shape": "capsule",
            "size": [0.1 * half, half],
            "link": 0,
            "position": [0.0, 0.0, half],
            "rotation": [1.0, 0.0, 0.0, 0.0],
            "color": [0.8, 0.3, 0.3],
        }
        return {"dt": float(self._params.dt), "geoms": [rod]}

    def interface(self) -> dict[str, Any]:
        """The map from [-1, 1] to the box of actions, see `rlx.export.bundle`."""
        return {"action": {"scale": self._half.ravel().tolist(), "offset": self._center.ravel().tolist()}}

    def pose(self, state: EnvState) -> jax.Array:
        """The pendulum's rod, `[1, 7]`, turned about y with the pivot at the origin; `[0, 7]` for the others."""
        if self._env.name != PENDULUM:
            return jnp.zeros((0, 7))
        inner = state.inner.state if self._randomization else state.inner
        half_angle = -inner.theta / 2  # gymnax counts anticlockwise from upright, in the x-z plane
        zero = jnp.zeros(())
        return jnp.stack([zero, zero, zero, jnp.cos(half_angle), zero, jnp.sin(half_angle), zero])[None]


def _center_and_half(box: Any, numpy: Any) -> tuple[Any, Any]:
    """The middle of a box of actions and half its size, with NumPy or, of traced bounds, jax.numpy; a one-hot's are
    those of [-1, 1]."""
    if hasattr(box, "n"):
        return numpy.zeros(box.n), numpy.ones(box.n)
    low, high = numpy.broadcast_arrays(*(numpy.asarray(bound, numpy.float32) for bound in (box.low, box.high)))
    return (high + low) / 2, (high - low) / 2


def wrap(env: Environment[Any, Any], episode_length: int | None, params: EnvParams | None = None) -> GymnaxEnv:
    """An object of gymnax's `Environment`, with its default parameters or others."""
    params = env.default_params if params is None else params
    return GymnaxEnv(env, params, params.max_steps_in_episode if episode_length is None else episode_length)


def make(name: str, episode_length: int | None, settings: dict[str, Any]) -> GymnaxEnv:
    """Builds a gymnax environment; `settings` are arguments of its class or fields of its parameters.

    Raises RlxError for a setting that both lack or that gymnax refuses.
    """
    env, params = gymnax.make(name)
    arguments = set(inspect.signature(type(env)).parameters)
    fields = {field.name for field in dataclasses.fields(params)} - {"max_steps_in_episode"}
    unknown = sorted(settings.keys() - arguments - fields)
    if unknown:
        known = ", ".join(sorted(arguments | fields))
        raise RlxError(f"gymnax:{name} has no setting {unknown[0]!r}; it has {known}, and episode_length")
    try:
        env, params = gymnax.make(name, **{key: settings[key] for key in settings.keys() & arguments})
        params = params.replace(**{key: settings[key] for key in settings.keys() & fields})
        return wrap(env, episode_length, params)
    except (TypeError, ValueError) as error:
        raise RlxError(f"gymnax:{name} refuses {settings}: {str(error).splitlines()[0]}") from error
