"""Domain randomisation of an environment: factors by name, a delay of the actions, or a function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rlx import user_code
from rlx.envs.base import REMEMBERED
from rlx.envs.randomization import DRAW, RandomizationFn, factors, parse
from rlx.envs.sources import sources
from rlx.envs.wrapped import Wrapped, outer_state, reset_env
from rlx.errors import RlxError
from rlx.types import Env, EnvState, Key, Step

DEFAULT = "default"  # the library's own function for this environment
DELAY = "delay"


def randomize(env: Env, drawn: RandomizationFn | Sequence[str]) -> Env:
    """The environment with new physics every episode.

    `drawn` is a `randomization_fn` as Brax and MuJoCo Playground have it, or texts: factors such as "mass=0.8:1.2"
    (see `rlx.envs.randomization.FACTORS`; of gymnax its parameters by name), "delay=0:2" for actions that take effect
    so many steps later, "file.py:name" for a function of the user's, or "default" for Playground's own. Raises RlxError
    for what the environment does not have.
    """
    if callable(drawn):
        return _with_function(env, drawn)
    ranges = parse([text for text in drawn if "=" in text])
    functions = [text for text in drawn if "=" not in text]
    delay = ranges.pop(DELAY, None)
    if len(functions) + bool(ranges) > 1:
        raise RlxError(f"--randomize {' '.join(drawn)}: give one function, or factors, not both")
    if functions:
        env = _with_function(env, _function(env, functions[0]))
    elif ranges:
        env = _with_function(env, factors(ranges))
    return env if delay is None else random_delay(env, *delay)


def is_function(text: str) -> bool:
    """Whether one of the texts of `--randomize` names code of the user's."""
    return "=" not in text and text != DEFAULT


def _function(env: Env, text: str) -> RandomizationFn:
    function: Any = getattr(env, "default_randomization_fn", None) if text == DEFAULT else user_code.attribute(text)
    if not callable(function):
        what = "the library has none for this environment" if text == DEFAULT else "is no function (model, rng)"
        raise RlxError(f"--randomize {text}: {what}; give factors, as mass=0.8:1.2")
    randomization_fn: RandomizationFn = function
    return randomization_fn


def _with_function(env: Env, randomization_fn: RandomizationFn) -> Env:
    randomized: Callable[[RandomizationFn], Env] | None = getattr(env, "randomized", None)
    if randomized is None:
        raise RlxError(
            "--randomize: this environment has no model of Brax, Playground or gymnax; draw parameters in its reset"
        )
    return randomized(randomization_fn)


def random_delay(env: Env, low: float, high: float) -> Env:
    """Actions take effect so many steps later, `low` to `high`, another number in each episode; nominal is 0.

    Until the first one does, the action is 0.
    """
    if not (low == int(low) and high == int(high)):
        raise RlxError(f"--randomize {DELAY}={low:g}:{high:g}: must be integers, in steps")
    least, most = int(low), int(high)
    if not 0 <= least <= most <= REMEMBERED:
        raise RlxError(f"--randomize {DELAY}={low:g}:{high:g}: must be 0 to {REMEMBERED:,} steps, the lower one first")

    def reset(key: Key, params: Any = None) -> EnvState:
        steps = jax.random.randint(jax.random.fold_in(key, DRAW - 1), (), least, most + 1)
        inside, steps = (None, steps) if params is None else params
        state = reset_env(env, key, inside)
        memory = {"delay": steps, "actions": jnp.zeros((most + 1, env.spec.action_size), jnp.float32)}  # newest first
        return outer_state(state, state.time, memory=memory)

    def step(state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        delay, before = state.inner.memory["delay"], state.inner.memory["actions"]
        actions = jnp.concatenate([action[None].astype(jnp.float32), before[:-1]])
        after, shown = env.step(state.inner.env, actions[delay], key)
        return outer_state(after, after.time, memory={"delay": delay, "actions": actions}), shown

    delayed = Wrapped(env, env.spec, reset, step, sources=sources(env))
    delayed.params = (delayed.params, jnp.zeros((), jnp.int32))
    return delayed
