"""A library's reset and step: traced once, cut down to what later steps read.

Libraries of physics keep a hundred arrays, of which a step reads a dozen. Only these are carried, so states, pools and
programs shrink. jax.jit would trace a step again inside pmap, most of a second for an ant, so the trace is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr

Packed = list[jax.Array]  # the leaves of a library's state that are carried
Function = Callable[..., tuple[Any, Any]]


class Dynamics:
    """`reset(key)` and `step(state, *rest)` of a library, which return its next state and what is seen of it.

    `mark`, given a state of False, returns it with True for leaves to carry in any case. `rest` are shapes and types of
    the other arguments.
    """

    def __init__(self, reset: Function, step: Function, mark: Callable[[Any], Any], *rest: Any) -> None:
        self._reset, self._step = jax.jit(reset), jax.jit(step)  # for arguments of other types
        self._given = jax.eval_shape(lambda: jax.random.key(0)), rest
        first, (self.state, self.first_seen) = jax.make_jaxpr(reset, return_shape=True)(self._given[0])
        later, (_, self._seen) = jax.make_jaxpr(step, return_shape=True)(self.state, *rest)
        always = jax.tree.leaves(mark(jax.tree.map(lambda _: False, self.state)))
        shown = [True] * len(jax.tree.leaves(self._seen))
        self._carried = _read(later, always, shown)
        self._first = _Cut(first, self._carried + [True] * len(jax.tree.leaves(self.first_seen)))
        self._later = _Cut(later, self._carried + shown)

    def reset(self, key: jax.Array) -> tuple[Packed, Any]:
        """The first state's leaves that are carried, and what is seen of it."""
        if not _alike(key, self._given[0]):
            state, seen = self._reset(key)
            return self._pack(state), seen
        return self._parted(self._first([key]), self.first_seen)

    def step(self, packed: Packed, *rest: Any) -> tuple[Packed, Any]:
        """The next state's leaves that are carried, and what is seen of it."""
        if not _alike(rest, self._given[1]):
            state, seen = self._step(self.unpack(packed), *rest)
            return self._pack(state), seen
        return self._parted(self._later([*self._filled(packed), *jax.tree.leaves(rest)]), self._seen)

    def unpack(self, packed: Packed) -> Any:
        """The library's state; leaves that no step reads are zero."""
        return jax.tree.unflatten(jax.tree.structure(self.state), [_zero_if_shape(x) for x in self._filled(packed)])

    def _filled(self, packed: Packed) -> list[Any]:
        """All leaves; those that are not carried are shapes."""
        rest = iter(packed)
        return [next(rest) if kept else x for x, kept in zip(jax.tree.leaves(self.state), self._carried, strict=True)]

    def _pack(self, state: Any) -> Packed:
        return [x for x, kept in zip(jax.tree.leaves(state), self._carried, strict=True) if kept]

    def _parted(self, results: list[jax.Array], seen: Any) -> tuple[Packed, Any]:
        count = sum(self._carried)
        return list(results[:count]), jax.tree.unflatten(jax.tree.structure(seen), results[count:])


class _Cut:
    """A traced function of flat arguments, of which only the `wanted` results are computed."""

    def __init__(self, traced: ClosedJaxpr, wanted: list[bool]) -> None:
        jaxpr, self._read = dce_jaxpr(traced.jaxpr, wanted)
        self._run = jax.jit(jaxpr_as_fun(ClosedJaxpr(jaxpr, traced.consts)))

    def __call__(self, arguments: list[Any]) -> list[jax.Array]:
        return self._run(*(_zero_if_shape(x) for x, read in zip(arguments, self._read, strict=True) if read))


def _read(step: ClosedJaxpr, always: list[bool], shown: list[bool]) -> list[bool]:
    """Which leaves decide what steps show, now or later, or are wanted; those without a number in them never."""
    found = always
    while True:
        _, read = dce_jaxpr(step.jaxpr, found + shown)
        wider = [a or b for a, b in zip(found, read[: len(found)], strict=True)]
        if wider == found:
            return [kept and x.size > 0 for kept, x in zip(found, step.in_avals, strict=False)]
        found = wider


def _alike(given: Any, known: Any) -> bool:
    """Whether arguments have the shapes and types of others."""

    def kinds(tree: Any) -> list[Any]:
        return [(jnp.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(tree)]

    return kinds(given) == kinds(known)


def _zero_if_shape(leaf: Any) -> jax.Array:
    """Zeros in place of a shape."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
    return jnp.zeros(leaf.shape, leaf.dtype)
