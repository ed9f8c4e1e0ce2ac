"""New physics every episode (domain randomisation, arXiv 1703.06907): parameters of a model, drawn at every reset.

A `randomization_fn(model, rng [N]) -> (models, in_axes)` is what Brax and MuJoCo Playground call so: leaves of the
model that it draws lead with N, and `in_axes` is 0 at these leaves and None at the others. The drawn leaves are part of
the environment's state, so the pool of initial states holds them, and an auto-reset draws new physics by its gather.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.dynamics import Dynamics
from rlx.errors import RlxError, unknown
from rlx.types import Env, EnvState, Key, fix_types

RandomizationFn = Callable[[Any, jax.Array], tuple[Any, Any]]  # (model, raw keys [N, 2]) -> (models [N], in_axes)
Params = list[jax.Array]  # the leaves of a model that are drawn

DRAW = 2**31 - 3  # folded into the key of a reset for its parameters

FACTORS: dict[str, dict[str, tuple[int, ...] | None]] = {  # leaves of MuJoCo's and Brax's models, and their columns
    "friction": {"geom_friction": (0,), "pair_friction": (0, 1)},  # sliding
    "mass": {"body_mass": None, "body_inertia": None, "link.inertia.mass": None, "link.inertia.i": None},
    "damping": {"dof_damping": None, "dof.damping": None},  # of the joints
    "gain": {"actuator_gainprm": (0,), "actuator_biasprm": (1,), "actuator.gain": None, "actuator.bias_q": None},
}


class Episode(NamedTuple):
    """A library's state with the parameters of its episode."""

    state: Any
    params: Any  # None where they are not drawn


class Randomized(Env, Protocol):
    """An environment whose episodes have parameters of their own, such as masses; they are part of its state."""

    params: Any  # those of the environment as it is: nominal

    def reset(self, key: Key, params: Any = None) -> EnvState:
        """An episode with these parameters; by default with drawn ones."""
        ...


def nominal_params(env: Env) -> Any:
    """The parameters of an environment whose reset takes them; None of any other.

    An attribute `params` of an environment with a plain `reset(key)` is its own affair.
    """
    params = getattr(env, "params", None)
    return params if params is not None and "params" in inspect.signature(env.reset).parameters else None


class Randomization:
    """The leaves of a model that a `randomization_fn` draws."""

    def __init__(self, model: Any, randomization_fn: RandomizationFn) -> None:
        self._model = jax.tree.map(jnp.asarray, model)
        self._draw = randomization_fn
        key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))[None])
        drawn = jax.tree.leaves(jax.eval_shape(lambda key: self._draw(self._model, key)[0], key))
        leaves = jax.tree.leaves(self._model)
        self._drawn = [new.ndim > old.ndim for new, old in zip(drawn, leaves, strict=True)]
        if not any(self._drawn):
            raise RlxError("randomization_fn: draws no leaf of the model; its result must lead with the axis of rng")
        self.params: Params = fix_types(self._chosen(leaves))

    def draw(self, key: Key) -> Params:
        """The leaves of one episode."""
        models, in_axes = self._draw(self._model, jax.random.key_data(jax.random.fold_in(key, DRAW))[None])
        each = jax.vmap(lambda model: model, in_axes=(in_axes,), axis_size=1)(models)
        return [
            leaf[0].astype(like.dtype)
            for leaf, like in zip(self._chosen(jax.tree.leaves(each)), self.params, strict=True)
        ]

    def model(self, params: Params) -> Any:
        """The model with these leaves."""
        leaves, values = jax.tree.leaves(self._model), iter(params)
        chosen = [next(values) if drawn else leaf for leaf, drawn in zip(leaves, self._drawn, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(self._model), chosen)

    def _chosen(self, leaves: Sequence[Any]) -> list[Any]:
        return [leaf for leaf, drawn in zip(leaves, self._drawn, strict=True) if drawn]


def check_read(dynamics: Dynamics) -> None:
    """Raises RlxError where parameters are drawn that no step reads."""
    if dynamics.state.params is not None and not dynamics.carries(_mark_params):
        raise RlxError("--randomize: no step reads what is drawn, so that it changes nothing; draw something else")


def _mark_params(flags: Episode) -> Episode:
    return flags._replace(params=jax.tree.map(lambda _: True, flags.params))


def with_model(env: Any, attribute: str, model: Any) -> Any:
    """A library's environment, or a wrapper of one (`env.env`), with another model; `env` stays as it is.

    Programs are traced on several threads, so the model is not put in place for a while, as Brax's own wrapper does.
    """
    env = copy.copy(env)
    if attribute not in vars(env) and "env" in vars(env):
        env.env = with_model(env.env, attribute, model)
    else:
        setattr(env, attribute, model)
    return env


def parse(texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """`["mass=0.8:1.2"]` as `{"mass": (0.8, 1.2)}`. Raises RlxError for anything else, also an invalid range."""
    ranges: dict[str, tuple[float, float]] = {}
    for text in texts:
        name, _, bounds = text.partition("=")
        low, colon, high = bounds.partition(":")
        try:
            ranges[name] = float(low), float(high if colon else low)
        except ValueError:
            raise RlxError(f"--randomize {text}: must be a name and a range of factors, as mass=0.8:1.2") from None
        if not (math.isfinite(sum(ranges[name])) and 0 <= ranges[name][0] <= ranges[name][1]):
            raise RlxError(f"--randomize {text}: must be two numbers of 0 or more, the lower one first")
    return ranges


def factors(ranges: Mapping[str, tuple[float, float]]) -> RandomizationFn:
    """A `randomization_fn` that multiplies what each name stands for by one number, uniform in its range.

    Names are those of FACTORS, or fields of the model itself. Raises RlxError, when it is called, for a name that the
    model lacks, or of which all numbers are 0.
    """

    def randomization_fn(model: Any, rng: jax.Array) -> tuple[Any, Any]:
        parts = [(*ranges[name], _leaves(model, name)) for name in sorted(ranges)]

        def draw(key: jax.Array) -> dict[str, jax.Array]:
            leaves: dict[str, jax.Array] = {}
            for i, (low, high, named) in enumerate(parts):
                factor = jax.random.uniform(jax.random.fold_in(key, i), minval=low, maxval=high)
                for path, columns in named.items():
                    leaf = _at(model, path)
                    leaves[path] = leaf * factor if columns is None else leaf.at[:, columns].multiply(factor)
            return leaves

        in_axes = jax.tree.map(lambda _: None, model)
        for path, leaf in jax.vmap(draw)(rng).items():
            model, in_axes = _replaced(model, path, leaf), _replaced(in_axes, path, 0)
        return model, in_axes

    return randomization_fn


def _leaves(model: Any, name: str) -> dict[str, tuple[int, ...] | None]:
    """What a name stands for in a model: paths, and columns of each. Raises RlxError where that is nothing, or 0."""
    named = FACTORS.get(name, {name: None})
    numbers = {path: columns for path, columns in named.items() if _is_number(_at(model, path))}
    if not numbers:
        known = [known for known, paths in FACTORS.items() if any(_is_number(_at(model, path)) for path in paths)]
        raise unknown("--randomize", name, known or [field for field in vars(model) if _is_number(_at(model, field))])
    leaves = [_at(model, path) for path in numbers]
    if not any(isinstance(leaf, jax.core.Tracer) or np.asarray(leaf).any() for leaf in leaves):
        raise RlxError(f"--randomize {name}: is 0 everywhere in this model, so that no factor changes it; leave it out")
    return numbers


def _is_number(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size > 0


def _at(model: Any, path: str) -> Any:
    """What is at a path of attributes; None where nothing is."""
    for attribute in path.split("."):
        model = getattr(model, attribute, None)
    return model


def _replaced(model: Any, path: str, leaf: Any) -> Any:
    first, _, rest = path.partition(".")
    return model.replace(**{first: _replaced(getattr(model, first), rest, leaf) if rest else leaf})
