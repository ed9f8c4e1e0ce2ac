"""Work-arounds for XLA on a CPU: where not to merge operations, and how much of a batch its caches hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
from jax.experimental.xla_metadata import set_xla_metadata

F = TypeVar("F", bound=Callable[..., jax.Array])


def isolated(function: F) -> F:
    """`function` of arrays, which XLA for CPUs computes once and by itself; elsewhere it is the function as it was.

    Left alone, XLA merges a cheap step into each step that reads it and computes it again there, element by element in
    the reader's order. That is a loss for random numbers with several readers, and for a transposition, which by itself
    is a blocked copy.
    """
    jitted = jax.jit(function)

    def alone(*arguments: jax.Array) -> jax.Array:
        with set_xla_metadata(inlineable="false"):
            return jitted(*arguments)

    def call(*arguments: jax.Array) -> jax.Array:
        return cast(jax.Array, jax.lax.platform_dependent(*arguments, cpu=alone, default=function))

    return cast(F, call)


BLOCK = 128  # rows of simulated physics that the caches of a core hold; see docs/performance.md


def in_blocks(function: Callable[[Any], Any], batch: Any, recompute: bool = False) -> Any:
    """`function(batch)`, computed on a CPU in blocks of BLOCK rows, or a little fewer, one after the other.

    All leaves of argument and result are `[N, ...]`, with N rows. A long function of a large
    batch keeps every value in between in main memory; of a block, in the caches. With `recompute` its gradient computes
    each block again, which can be faster than to read from main memory what was kept.
    """
    rows = jax.tree.leaves(batch)[0].shape[0]
    block = max(size for size in range(1, BLOCK + 1) if rows % size == 0)
    if jax.default_backend() != "cpu" or block == rows or block < BLOCK // 2:
        return function(batch)
    cut = jax.tree.map(lambda x: x.reshape(rows // block, block, *x.shape[1:]), batch)
    function = jax.checkpoint(function) if recompute else function
    return jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:]), jax.lax.map(function, cut))
