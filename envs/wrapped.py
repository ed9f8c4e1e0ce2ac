"""The parts that wrapped environments are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
from flax.struct import PyTreeNode

from rlx.envs.env_params import of_members
from rlx.envs.randomization import Randomized, nominal_params
from rlx.envs.sources import Sources
from rlx.types import Env, EnvState, Key, Spec, Step


class Inner(PyTreeNode):
    """`EnvState.inner` of an environment with a wrapper."""

    env: EnvState
    memory: Any = None  # what the wrapper remembers


class Wrapped:
    """An environment with a wrapper around it; it is drawn as the one inside."""

    def __init__(
        self,
        env: Env,
        spec: Spec,
        reset: Callable[..., EnvState],
        step: Callable[[EnvState, jax.Array, Key], tuple[EnvState, Step]],
        steps: int = 1,
        sources: Sources | None = None,
    ) -> None:
        self.env, self.spec, self.reset, self.step = env, spec, reset, step
        self._steps = steps  # of the environment inside, in one of this
        self.sources = sources  # see rlx.envs.sources
        self.params, self.member_params = nominal_params(env), of_members(env)

    def scene(self) -> dict[str, Any] | None:
        """The scene of the environment inside."""
        scene: dict[str, Any] | None = self.env.scene() if hasattr(self.env, "scene") else None
        return scene and scene | {"dt": scene["dt"] * self._steps}

    def interface(self) -> dict[str, Any]:
        """What the environment inside describes (see `rlx.export.bundle`), of single observations."""
        described: dict[str, Any] = dict(getattr(self.env, "interface", dict)())
        if described.get("control_dt"):
            described["control_dt"] *= self._steps
        if self.sources is None and self.spec.observation_size != self.env.spec.observation_size:
            described.pop("observation", None)  # its names no longer fit
        return described

    def pose(self, state: EnvState) -> jax.Array:
        """The pose of the environment inside."""
        pose: jax.Array = self.env.pose(state.inner.env)  # type: ignore[attr-defined]  # it has a scene
        return pose


def reset_env(env: Env, key: Key, params: Any) -> EnvState:
    """An episode, with these parameters where there are any (see `rlx.envs.randomization.Randomized`)."""
    return env.reset(key) if params is None else cast(Randomized, env).reset(key, params)


def outer_state(env: EnvState, time: jax.Array, observation: jax.Array | None = None, memory: Any = None) -> EnvState:
    """The state of a wrapped environment around that of the one inside."""
    return EnvState(Inner(env, memory), env.observation if observation is None else observation, time)
