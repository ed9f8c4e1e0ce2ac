"""Where the parts of a state lie: on devices `[D, members, shards, ...]`, and gathered on the host without devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlx import parallel


class Layout(NamedTuple):
    """Of one pytree on several devices, each with its part of the shards, or of the members where `split_members`.

    `members` and `shards` are prefixes of the tree: 0 where each has its own, None where all have the same.
    """

    members: Any
    shards: Any
    split_members: bool = False

    def gather(self, tree: Any) -> Any:
        """The tree on the host, `[M, shards, ...]` where each has its own; waits for the devices."""

        def gathered(x: jax.Array, member: bool, shard: bool) -> np.ndarray:
            if self._spread(member, shard):
                return self._join(parallel.fetch_rows(x), member)
            return parallel.fetch(x)

        return self._map(gathered, tree)

    def gathered(self, shapes: Any) -> Any:
        """Shapes and types of what `gather` returns."""

        def shape(x: Any, member: bool, shard: bool) -> jax.ShapeDtypeStruct:
            join = self._spread(member, shard)
            return jax.eval_shape(lambda x: self._join(x, member) if join else x[0], x)

        return self._map(shape, shapes)

    def scatter(self, tree: Any, devices: Sequence[jax.Device]) -> Any:
        """The tree back on the devices, as many as before or not."""
        rows = len(parallel.local(devices))

        def scattered(x: np.ndarray, member: bool, shard: bool) -> jax.Array:
            if not self._spread(member, shard):
                return parallel.replicate(x, devices)
            if self.split_members or not member:
                return parallel.place(np.reshape(x, (rows, -1, *x.shape[1:])), devices)
            by_device = np.reshape(x, (x.shape[0], rows, -1, *x.shape[2:]))
            return parallel.place(by_device.swapaxes(0, 1), devices)

        return self._map(scattered, tree)

    def part(self, tree: Any, member: int) -> Any:
        """One member's part of a tree on the host, `[1, ...]` where members differ."""
        return self._map(lambda x, by_member, _: x[member : member + 1] if by_member else x, tree)

    def join(self, parts: Sequence[Any]) -> Any:
        """The tree on the host that has these parts, one a member."""
        rows = zip(*map(jax.tree.leaves, parts), strict=True)

        def joined(x: np.ndarray, by_member: bool, _: bool) -> np.ndarray:
            every = next(rows)
            return np.concatenate(every) if by_member else x

        return self._map(joined, parts[0])

    def widened(self, shapes: Any, members: int) -> Any:
        """Shapes and types of what `join` makes of as many parts like `shapes`."""

        def wide(x: Any, by_member: bool, _: bool) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((members, *x.shape[1:]) if by_member else x.shape, x.dtype)

        return self._map(wide, shapes)

    def _spread(self, member: bool, shard: bool) -> bool:
        return member if self.split_members else shard

    def _join(self, x: Any, member: bool) -> Any:
        """`[D, ...]` without the devices."""
        if self.split_members or not member:
            return x.reshape(-1, *x.shape[2:])
        return x.swapaxes(0, 1).reshape(x.shape[1], -1, *x.shape[3:])

    def _map(self, function: Callable[[Any, bool, bool], Any], tree: Any) -> Any:
        def flags(prefix: Any) -> Any:
            full = jax.tree.broadcast(prefix, tree, is_leaf=_is_none)
            return jax.tree.map(lambda axis, x: None if x is None else axis is not None, full, tree, is_leaf=_is_none)

        return jax.tree.map(function, tree, flags(self.members), flags(self.shards))


def _is_none(node: Any) -> bool:
    return node is None
