"""A library's reset and step, cut down to the leaves of its state that later steps read.

Libraries of physics keep a hundred arrays, of which a step reads a dozen. Only these are carried, so states, pools and
programs shrink. Which ones they are is read from the traced step, by eliminating dead code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr

Packed = list[jax.Array]  # the leaves of a library's state that are carried
Function = Callable[..., tuple[Any, Any]]


class Dynamics:
    """`reset(key, params)` and `step(state, *rest)` of a library, which return its next state and what is observed.

    `mark` of a state of False returns it with True for leaves to carry in any case. `rest` are shapes and types of
    the other arguments, `params` those of the parameters of an episode, which the state may hold; None without.
    """

    def __init__(
        self, reset: Function, step: Function, mark: Callable[[Any], Any], *rest: Any, params: Any = None
    ) -> None:
        self.state, self.first_observed = jax.eval_shape(reset, jax.eval_shape(lambda: jax.random.key(0)), params)
        always = jax.tree.leaves(mark(jax.tree.map(lambda _: False, self.state)))
        self._carried = _leaves_read(step, self.state, rest, always)
        self.reset = jax.jit(self._packing(reset))
        self.step = jax.jit(self._packing(lambda packed, *rest: step(self.unpack(packed), *rest)))

    def carries(self, mark: Callable[[Any], Any]) -> bool:
        """Whether any leaf is carried that `mark` of a state of False makes True."""
        chosen = jax.tree.leaves(mark(jax.tree.map(lambda _: False, self.state)))
        return any(chosen and carried for chosen, carried in zip(chosen, self._carried, strict=True))

    def unpack(self, packed: Packed) -> Any:
        """The library's state; leaves that no step reads are zero."""
        leaves, values = jax.tree.leaves(self.state), iter(packed)
        filled = [next(values) if carried else _zeros(x) for x, carried in zip(leaves, self._carried, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(self.state), filled)

    def _packing(self, function: Function) -> Function:
        """The function with a state of carried leaves as its result."""

        def packing(*arguments: Any) -> tuple[Packed, Any]:
            state, observed = function(*arguments)
            return [x for x, carried in zip(jax.tree.leaves(state), self._carried, strict=True) if carried], observed

        return packing


def _leaves_read(step: Function, state: Any, rest: tuple[Any, ...], always: list[bool]) -> list[bool]:
    """Which leaves decide what steps show, now or later, or are wanted; those without a number in them never."""
    traced, (_, observed) = jax.make_jaxpr(step, return_shape=True)(state, *rest)
    shown = [True] * len(jax.tree.leaves(observed))
    read = always
    while True:
        _, inputs = dce_jaxpr(traced.jaxpr, read + shown)
        wider = [a or b for a, b in zip(read, inputs[: len(read)], strict=True)]
        if wider == read:
            return [carried and x.size > 0 for carried, x in zip(read, traced.in_avals, strict=False)]
        read = wider


def _zeros(shape: jax.ShapeDtypeStruct) -> jax.Array:
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), shape.shape)
    return jnp.zeros(shape.shape, shape.dtype)
