"""Where XLA may not merge operations: on a CPU, merging can cost more than it saves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import jax
from jax.experimental.xla_metadata import set_xla_metadata

F = TypeVar("F", bound=Callable[..., jax.Array])


def apart(function: F) -> F:
    """`function` of arrays, which XLA for CPUs computes once and by itself; elsewhere it is the function as it was.

    Left alone, XLA merges a cheap step into each step that reads it and computes it again there, element by element in
    the reader's order. That is a loss for random numbers with several readers, and for a transposition, which by itself
    is a blocked copy.
    """
    whole = jax.jit(function)

    def kept(*arguments: jax.Array) -> jax.Array:
        with set_xla_metadata(inlineable="false"):
            return whole(*arguments)

    def call(*arguments: jax.Array) -> jax.Array:
        return cast(jax.Array, jax.lax.platform_dependent(*arguments, cpu=kept, default=function))

    return cast(F, call)
