"""Checks an environment as gymnasium's `check_env` does: what would go wrong in training is said at once, in a line."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.base import MAX_MAGNITUDE, Controller, check_count
from rlx.envs.objects import name_of, traced, wrap
from rlx.errors import RlxError
from rlx.types import Env, EnvState, Spec, Step, fix_types

ROWS = 4  # episodes that `check` runs at once
TOLERANCE = 1e-3  # between one episode alone and among others, relative and absolute


def check(env: Any) -> None:
    """Runs episodes of an environment and looks at what it returns; `fit` and `train` run the `quick` part.

    Shapes, types, bounds, NaN, equal results for equal keys and under jit and vmap, the count of steps, the time limit,
    and that nothing resets by itself. Raises RlxError, in one line, for the first thing that is wrong.
    """
    env = wrap(env)
    quick(env)
    name = name_of(env)
    run = jax.jit(partial(_episodes, env))
    starts, steps = traced(name, lambda: jax.device_get(run(jax.random.split(jax.random.key(0), ROWS))))
    _check_numbers(name, starts, steps)
    _check_ends(name, env.spec.episode_length, steps)
    _check_repeats(name, env, (starts, steps))


def _episodes(env: Env, keys: jax.Array) -> tuple[EnvState, tuple[Step, jax.Array]]:
    """First states `[N, ...]`, and steps with the count of steps `[T, N, ...]`, one beyond the time limit.

    The actions are bounds in the first episode and random in the others.
    """
    reset = env.reset
    starts = jax.vmap(reset)(keys)
    size = env.spec.action_size

    def one(state: EnvState, i: jax.Array) -> tuple[EnvState, tuple[Step, jax.Array]]:
        now = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        actions = jax.vmap(lambda key: jax.random.uniform(key, (size,), minval=-1.0, maxval=1.0))(now)
        actions = actions.at[0].set(jnp.sign(actions[0]))
        state, step = jax.vmap(env.step)(state, actions, now)
        return state, (step, state.time)

    return starts, jax.lax.scan(one, starts, jnp.arange(env.spec.episode_length + 1))[1]


def quick(env: Env, name: str = "") -> None:
    """Checks shapes and types, without running anything. Raises RlxError, in one line, for what does not fit.

    A message begins with `name`, by default the name of the environment's class.
    """
    name, spec = name or name_of(env), env.spec
    _check_spec(name, spec)
    key = jax.eval_shape(lambda: jax.random.key(0))
    action = jax.ShapeDtypeStruct(spec.action.shape, jnp.float32)
    state = traced(name, lambda: jax.eval_shape(env.reset, key))
    if not isinstance(state, EnvState):
        raise RlxError(
            f"{name}: reset returns {type(state).__name__}; return an EnvState, as rlx.envs.base.begin makes"
        )
    _check_arrays(f"{name}: reset's", {"observation": (state.observation, spec.observation)})
    result = traced(name, lambda: jax.eval_shape(env.step, state, action, key))
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Step)):
        raise RlxError(f"{name}: step must return (EnvState, Step), as rlx.envs.base.advance makes them")
    _check_same_types(name, state, result[0])
    number, flag = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.bool_)
    expected = {
        "observation": spec.observation,
        "next_observation": spec.observation,
        "reward": number,
        "terminated": flag,
        "truncated": flag,
    }
    _check_arrays(f"{name}: step's", {field: (getattr(result[1], field), shape) for field, shape in expected.items()})
    if extras := sorted(result[1].extras.keys() ^ spec.extras.keys()):
        raise RlxError(f"{name}: Spec.extras and the extras of a step differ in {extras[0]!r}; declare what is shown")
    if missing := sorted(set(spec.metrics) - result[1].metrics.keys()):
        raise RlxError(
            f"{name}: Spec.metrics has {missing[0]!r}, which a step does not report; add it, or leave it out"
        )
    _check_arrays(f"{name}: extra", {field: (result[1].extras[field], shape) for field, shape in spec.extras.items()})


def controllers(env: Env, name: str) -> dict[str, Controller]:
    """The scripted policies of an environment, by their names. Raises RlxError, in one line, for one that is none."""
    found = traced(name, lambda: getattr(env, "controllers", {}), "look at its controllers")
    if not isinstance(found, Mapping) or not all(isinstance(one, Controller) for one in found.values()):
        raise RlxError(f"{name}: controllers must be a mapping of names to rlx.envs.Controller; make it one")
    for kind, controller in found.items():
        if not isinstance(kind, str):
            raise RlxError(f"{name}: controller {kind!r} needs a name that is text; rename it")
        if kind in ("random", "replay", "mixed") or set("=,") & set(kind):
            raise RlxError(f"{name}: controller {kind!r} would be read as something else by --kind; rename it")
        _check_controller(f"{name}: controller {kind!r}", env.spec, controller)
    return dict(found)


def _check_controller(where: str, spec: Spec, controller: Controller) -> None:
    hint, key = "look at its act and carry", jax.eval_shape(lambda: jax.random.key(0))
    carry = traced(where, lambda: fix_types(jax.tree.map(jnp.asarray, controller.carry())), hint)
    if carry is None:
        raise RlxError(f"{where}: carry returns None; return (), or leave carry out, where there is nothing to carry")
    result = traced(where, lambda: jax.eval_shape(controller.act, spec.observation, key, carry), hint)
    if not (isinstance(result, tuple) and len(result) == 2):
        raise RlxError(f"{where}: act must return (action, carry)")
    if np.shape(result[0]) != spec.action.shape:
        raise RlxError(f"{where}: act's action is {_text(result[0])}; it must be {_text(spec.action)}")
    trees, leaves = zip(*((jax.tree.structure(x), jax.tree.leaves(x)) for x in (carry, result[1])), strict=True)
    if trees[0] != trees[1] or [_text(x) for x in leaves[0]] != [_text(x) for x in leaves[1]]:
        old, new = (", ".join(map(_text, x)) or "nothing" for x in leaves)
        raise RlxError(f"{where}: the carry is {old} at first and {new} after act; make both the same")


def _check_spec(name: str, spec: Spec) -> None:
    for what, shape in (("observation", spec.observation), ("action", spec.action)):
        if isinstance(shape, Mapping):
            raise RlxError(
                f"{name}: spec.{what} is a dictionary; rlx's are flat vectors: name the ranges of its entries in parts"
            )
        if not hasattr(shape, "shape") or not hasattr(shape, "dtype"):
            raise RlxError(f"{name}: spec.{what} is no jax.ShapeDtypeStruct((size,), jnp.float32); make it one")
        if len(shape.shape) == 3:
            raise RlxError(
                f"{name}: spec.{what} is an image {_text(shape)}; rlx supports flat vectors only, not images"
            )
        if len(shape.shape) != 1 or shape.shape[0] < 1:
            raise RlxError(f"{name}: spec.{what} is {_text(shape)}; it must be a flat vector, [size]")
        if shape.dtype != jnp.float32:
            raise RlxError(f"{name}: spec.{what} is {_text(shape)}; it must be float32")
    check_count(f"{name}: spec.episode_length", spec.episode_length)
    for part, (start, end) in spec.parts.items():
        if not 0 <= start < end <= spec.observation_size:
            size = spec.observation_size
            raise RlxError(f"{name}: spec.parts[{part!r}] is {(start, end)}; it must be a range of the {size} numbers")
    if mask := spec.action_mask:
        start, end = spec.parts.get(mask, (0, 0))
        if not spec.num_actions or end == start or (end - start) % spec.num_actions:
            raise RlxError(
                f"{name}: spec.action_mask {mask!r} must be a part of the observation with a number for each of"
                f" {spec.num_actions} discrete actions; name it in parts"
            )


def _check_arrays(where: str, arrays: Mapping[str, tuple[Any, Any]]) -> None:
    for field, (array, expected) in arrays.items():
        if isinstance(array, Mapping):
            raise RlxError(f"{where} {field} is a dict; give it to rlx.envs.base.begin and advance, which make it flat")
        if (np.shape(array), jnp.result_type(array)) != (expected.shape, expected.dtype):
            raise RlxError(f"{where} {field} is {_text(array)}; it must be {_text(expected)}")


def _check_same_types(name: str, before: EnvState, after: EnvState) -> None:
    """Raises RlxError where a step returns a state of other leaves, shapes or types than its argument."""
    trees = [jax.tree.structure(state) for state in (before, after)]
    if not isinstance(after, EnvState) or trees[:1] != trees[1:]:
        raise RlxError(f"{name}: the states of reset and step have different entries; return the same ones from both")
    pairs = zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True)
    for (path, old), new in pairs:
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            where = f"{name}: the state's {jax.tree_util.keystr(path).lstrip('.')}"
            raise RlxError(f"{where} is {_text(old)} after reset and {_text(new)} after step; make both the same")


def _text(array: Any) -> str:
    return f"{jnp.result_type(array)} {list(np.shape(array))}"


def _check_numbers(name: str, starts: EnvState, steps: tuple[Step, Any]) -> None:
    shown = {"observation after reset": starts.observation[None], "observation": steps[0].next_observation}
    for what, array in (shown | {"reward": steps[0].reward}).items():
        bad = ~(np.abs(array) <= MAX_MAGNITUDE)
        if bad.any():
            at = int(np.argwhere(bad)[0][0])
            raise RlxError(f"{name}: {what} is {array[bad][0]:g} in step {at}; it must be finite and at most 1e10")


def _check_ends(name: str, limit: int, steps: tuple[Step, Any]) -> None:
    step, time = steps
    if (step.terminated & step.truncated).any():
        raise RlxError(f"{name}: a step is terminated and truncated at once; truncated must leave out what terminated")
    counts = np.arange(1, limit + 2)[:, None]
    if (time != counts).any():
        at = int(np.argwhere(time != counts)[0][0])
        raise RlxError(
            f"{name}: state.time is {time[at].max()} after {at + 1} steps; step must count and not reset by itself"
        )
    at_limit = step.terminated[limit - 1] | step.truncated[limit - 1]
    if not at_limit.all():
        raise RlxError(f"{name}: is not truncated after spec.episode_length, {limit} steps; advance does it")


def _check_repeats(name: str, env: Env, episodes: Any) -> None:
    """Raises RlxError where another run of the same keys, or one episode alone, shows something else."""
    keys = jax.random.split(jax.random.key(0), ROWS)
    again = jax.device_get(jax.jit(partial(_episodes, env))(keys))
    if not all(map(np.array_equal, jax.tree.leaves(_plain(episodes)), jax.tree.leaves(_plain(again)))):
        raise RlxError(f"{name}: the same keys gave other numbers; draw random numbers from the keys, not from NumPy")
    state, step = jax.device_get(traced(name, lambda: _first(env, keys[0])))
    for field in ("next_observation", "reward"):
        alone, among = getattr(step, field), getattr(episodes[1][0], field)[0, 0]
        if not np.allclose(alone, among, TOLERANCE, TOLERANCE):
            raise RlxError(f"{name}: {field} without jit is not that with jit and vmap; keep no state outside EnvState")
    del state


def _first(env: Env, key: jax.Array) -> tuple[EnvState, Step]:
    """The first step of the first episode of `_episodes`, without jit and vmap."""
    now = jax.random.fold_in(key, 0)
    action = jnp.sign(jax.random.uniform(now, (env.spec.action_size,), minval=-1.0, maxval=1.0))
    return env.step(env.reset(key), action, now)


def _plain(tree: Any) -> Any:
    """The tree without keys."""
    return jax.tree.map(lambda x: x if isinstance(x, np.ndarray) else np.zeros(()), tree)
