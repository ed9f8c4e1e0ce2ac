"""Observations with named parts, as one flat vector.

A library's dictionary of vectors becomes one vector, entries in the order of their names; `Spec.parts` names the
ranges. Images are not supported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rlx.errors import RlxError


def flatten(observation: Any) -> jax.Array:
    """An observation, or a dictionary of them, as one float32 vector `[O]`."""
    if isinstance(observation, Mapping):
        return jnp.concatenate([flatten(observation[name]) for name in sorted(observation)])
    return jnp.ravel(jnp.asarray(observation, jnp.float32))


def parts(observation: Any) -> dict[str, tuple[int, int]]:
    """The ranges that `flatten` gives the entries of a dictionary (of arrays or shapes); none for anything else.

    Raises RlxError for an entry that is an image, or not of numbers.
    """
    if not isinstance(observation, Mapping):
        return {}
    ranges, start = {}, 0
    for name in sorted(observation):
        shape = getattr(observation[name], "shape", None)
        if shape is None or len(shape) > 1:
            what = "no array" if shape is None else f"an image or a table, {list(shape)}"
            raise RlxError(f"observation {name!r} is {what}: rlx takes vectors alone")
        ranges[str(name)] = (start, start := start + math.prod(shape))
    return ranges


def size(observation: Any) -> int:
    """The numbers in an observation, or a dictionary of them (of arrays or shapes)."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(observation))
