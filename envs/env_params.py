"""Parameters of an environment's physics for a run: one set for all members, or one for each.

They are leaves of gymnax's `EnvParams`, of Brax's `System`, of MuJoCo's model in Playground, or of the attribute
`params` of an environment of the user's (see `rlx.envs.randomization.Randomized`). config.json keeps them as text,
`g=9.81` or `m=[0.8,1.2]`. What members have of their own is part of the environment's state, as randomised physics is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.randomization import Randomized, nominal_params
from rlx.errors import RlxError, unknown
from rlx.types import Env, EnvState, Key, Spec, Step

FLAG = "--env-params"
MOST = 100_000  # numbers that config.json keeps
TIME_LIMIT = "max_steps_in_episode"  # of gymnax


class WithParams:
    """An environment with other parameters; `member_params` are those of each member, `[M, ...]`, None for one set."""

    params = None  # which are not drawn: evaluation has no nominal ones to compare with

    def __init__(self, env: Env, params: Any, member_params: Any = None) -> None:
        self._env, self._params, self.member_params = env, params, member_params
        self.spec: Spec = env.spec

    def reset(self, key: Key, params: Any = None) -> EnvState:
        """An episode with these parameters; by default with the one set, or the first member's."""
        return cast(Randomized, self._env).reset(key, self._params if params is None else params)

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        return self._env.step(state, action, key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._env, name)


def of_members(env: Env) -> Any:
    """The parameters of each member of a run, `[M, ...]`; None where all have the environment's own."""
    return getattr(env, "member_params", None)


def texts(params: Any) -> list[str]:
    """A pytree of parameters (or a dict with some of them) as `with_params` reads it.

    Raises RlxError for a leaf that is no number or array of numbers, and for more numbers than config.json keeps.
    """

    def is_array(node: Any) -> bool:
        return node is not params and isinstance(node, list) and all(is_array(x) or np.isscalar(x) for x in node)

    leaves = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_array)}
    arrays = {name: _array(name, leaf) for name, leaf in leaves.items()}
    if (count := sum(array.size for array in arrays.values())) > MOST:
        raise RlxError(
            f"{FLAG}: holds {count:,} numbers, and a run's configuration {MOST:,} at most; give a dict of those"
            " leaves alone that you change"
        )
    return [f"{name}={json.dumps(array.tolist())}" for name, array in arrays.items() if array.size]


def parse(params: Iterable[str]) -> dict[str, np.ndarray]:
    """Values by the names of leaves. Raises RlxError for what is no `name=value`, or a name that comes twice."""
    values: dict[str, np.ndarray] = {}
    for text in params:
        name, _, value = text.rpartition("=")
        try:
            array = np.asarray(json.loads(value))
        except (ValueError, RecursionError):
            array = np.asarray(None)
        if array.dtype.kind not in "fib":
            raise RlxError(f"{FLAG} {text}: must be name=number, as g=9.81, or a list for the members, as m=[0.8,1.2]")
        if name in values:
            raise RlxError(f"{FLAG} {text}: {name} comes twice; give it once")
        values[name] = array
    return values


def with_params(env: Env, params: Iterable[str], members: int) -> Env:
    """The environment with these parameters, each either of its own shape or with an axis of members in front.

    Raises RlxError for a name or a shape that the environment's do not have, and where it has no parameters.
    """
    values, of_library = parse(params), env.model if hasattr(env, "with_model") else None  # type: ignore[attr-defined]
    if not values:
        has_fixed = of_library is None and nominal_params(env) is not None and not _draws(env)
        return WithParams(env, nominal_params(env)) if has_fixed else env
    model = nominal_params(env) if of_library is None else of_library
    if model is None:
        raise RlxError(
            f"{FLAG}: this environment has no parameters, such as gymnax's EnvParams; your own names them by an"
            " attribute params and takes them in reset(key, params=None)"
        )
    leaves = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(model)}
    changed = {name: _checked(name, value, leaves, members) for name, value in values.items()}
    changed = {name: value for name, value in changed.items() if not np.array_equal(value, leaves[name])}
    if TIME_LIMIT in changed:
        raise RlxError(f"{FLAG} {TIME_LIMIT}: is the time limit; use --env-args episode_length=N")
    member_leaves = {name: value for name, value in changed.items() if value.ndim > np.ndim(leaves[name])}
    model = _replaced(model, {name: value for name, value in changed.items() if name not in member_leaves})
    if of_library is not None:
        shared: Any = env.with_model(model) if len(member_leaves) < len(changed) else env  # type: ignore[attr-defined]
        if not member_leaves:
            return shared
        return _of_each(shared, {name: member_leaves[name] for name in leaves if name in member_leaves})
    if not member_leaves:
        return WithParams(env, model)
    first = _replaced(model, {name: value[0] for name, value in member_leaves.items()})
    each = jax.tree_util.tree_map_with_path(
        lambda path, leaf: member_leaves.get(_name(path), np.broadcast_to(leaf, (members, *np.shape(leaf)))), model
    )
    return WithParams(env, first, each)


def _draws(env: Any) -> bool:
    """Whether an environment with parameters draws them at its resets: then these trace to another program."""

    def traced(*params: Any) -> Any:
        return jax.make_jaxpr(lambda key: env.reset(key, *params))(jax.random.key(0))

    by_default, nominal = traced(), traced(env.params)
    has_same_arrays = len(by_default.consts) == len(nominal.consts) and all(
        map(np.array_equal, by_default.consts, nominal.consts)
    )
    return not has_same_arrays or str(by_default.jaxpr) != str(nominal.jaxpr)


def _of_each(env: Any, member_leaves: dict[str, np.ndarray]) -> WithParams:
    """A library's environment whose state carries the leaves that members have of their own, in the model's order."""

    def first(model: Any, rng: jax.Array) -> tuple[Any, Any]:
        """As a `randomization_fn`: the first member's leaves."""
        rows = {name: jnp.broadcast_to(value[0], (len(rng), *value.shape[1:])) for name, value in member_leaves.items()}
        in_axes = jax.tree_util.tree_map_with_path(lambda path, _: 0 if _name(path) in member_leaves else None, model)
        return jax.tree_util.tree_map_with_path(lambda path, leaf: rows.get(_name(path), leaf), model), in_axes

    member_params = list(member_leaves.values())
    return WithParams(env.randomized(first), [leaf[0] for leaf in member_params], member_params)


def _replaced(model: Any, values: dict[str, np.ndarray]) -> Any:
    """The model with other leaves; Python's numbers stay such, so that programs fold them as they fold its own."""

    def leaf(path: Any, old: Any) -> Any:
        new = values.get(_name(path))
        if new is None:
            return old
        return type(old)(new.item()) if isinstance(old, (bool, int, float)) else jnp.asarray(new)

    return jax.tree_util.tree_map_with_path(leaf, model)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _array(name: str, leaf: Any) -> np.ndarray:
    try:
        array = np.asarray(leaf)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if array.dtype.kind not in "fib" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise RlxError(f"{FLAG}: {name} is of type {type(leaf).__name__}; give numbers and arrays of numbers")
    return array


def _checked(name: str, value: np.ndarray, leaves: dict[str, Any], members: int) -> np.ndarray:
    if name not in leaves:
        raise unknown(FLAG, name, leaves)
    leaf = np.asarray(leaves[name])
    if value.shape not in (leaf.shape, (members, *leaf.shape)):
        each = [members, *leaf.shape]
        raise RlxError(
            f"{FLAG} {name}: is {list(value.shape)}; give {list(leaf.shape)} for all, or {each}: a row for each of the"
            f" {members} members, seeds times hyper-parameters"
        )
    return value if isinstance(leaves[name], (bool, int, float)) else value.astype(leaf.dtype)
