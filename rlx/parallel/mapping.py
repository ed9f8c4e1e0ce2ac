"""Programs over groups of devices, means over logical shards, and the placement and transfer of arrays.

A program runs on a group of devices, each holding an equal part of the logical shards. Logical shards are
configuration; devices only partition them: one device maps several shards under the axis `SHARD`, several devices map
them under `DEVICE`, and a mean over both is the same number either way.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

DEVICE = "device"
SHARD = "shard"
Axes = tuple[str, ...]  # what gradients are averaged over: () for one learner, (DEVICE, SHARD) for data-parallel


def pmap(
    function: Callable[..., Any], devices: Sequence[jax.Device], in_axes: Any = 0, donate: tuple[int, ...] = ()
) -> Any:
    """`function` on every device of the group at once, under the axis name DEVICE; arguments lead with `[D, ...]`.

    Its programs are freed with it: after some dozens of runs a process could map no more memory for code.
    """
    mapped = jax.pmap(function, axis_name=DEVICE, devices=devices, in_axes=in_axes, donate_argnums=donate)
    weakref.finalize(mapped, _forget, function).atexit = False
    return mapped


def _forget(function: Callable[..., Any]) -> None:
    """Takes a function that was mapped out of JAX's cache, whose entries hold on to their own keys (jax 0.10.2)."""
    cached = getattr(sys.modules.get("jax._src.pmap"), "_cached_shard_map", None)
    if evict := getattr(cached, "evict_function", None):  # another version of JAX may have no such cache
        evict(function)


def over(
    function: Callable[..., Any],
    shard_axes: tuple[Any, Any],
    member_axes: tuple[Any, Any],
    shards: int,
    members: int,
    axes: Axes,
) -> Callable[..., Any]:
    """`function`, written for one member and one logical shard, over a device's `members` and `shards`.

    `shard_axes` and `member_axes` are (in_axes, out_axes) as of vmap; arguments and results are `[M, shards, ...]`,
    without the axes that are None. `axes` are those that `function` averages over.
    """
    mapped = jax.vmap(function, *shard_axes, axis_name=SHARD, axis_size=shards)
    return along(mapped if SHARD in axes else _one(function, *shard_axes), members, *member_axes)


def along(function: Callable[..., Any], size: int, in_axes: Any = 0, out_axes: Any = 0) -> Callable[..., Any]:
    """`function` over an axis of that size: a vmap, and of a single row what it would be, without tracing it again."""
    return _one(function, in_axes, out_axes) if size == 1 else jax.vmap(function, in_axes, out_axes)


def _one(function: Callable[..., Any], in_axes: Any, out_axes: Any) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        rows = _where(in_axes, arguments, lambda x: jax.lax.squeeze(x, (0,)))
        return _where(out_axes, function(*rows), lambda x: jax.lax.expand_dims(x, (0,)))

    return call


def _where(axes: Any, tree: Any, change: Callable[[jax.Array], jax.Array]) -> Any:
    """The tree, changed where `axes`, a prefix of it, are 0 and not None."""

    def is_none(node: Any) -> bool:
        return node is None

    full = jax.tree.broadcast(axes, tree, is_leaf=is_none)
    return jax.tree.map(lambda axis, x: x if axis is None or x is None else change(x), full, tree, is_leaf=is_none)


def index(axes: Axes) -> jax.Array:
    """This logical shard's global index, [] int32, inside a mapped program; 0 outside of one."""
    return jax.lax.axis_index(axes) if axes else jax.numpy.zeros((), jax.numpy.int32)


def sum(tree: Any, axes: Axes) -> Any:
    """The sum over all logical shards."""
    return jax.lax.psum(tree, axes) if axes else tree


def mean(tree: Any, axes: Axes) -> Any:
    """The mean over all logical shards."""
    return jax.lax.pmean(tree, axes) if axes else tree


def varying(tree: Any, axes: Axes) -> Any:
    """The tree as each shard's own, so that gradients by it are the shard's, and `mean` averages them.

    In shard_map with check_vma jax sums gradients by what all shards share; elsewhere this changes nothing.
    """
    zero = jax.numpy.zeros((), jax.numpy.int32)
    tracked = tuple(axis for axis in axes if jax.typeof(zero + jax.lax.axis_index(axis)) != jax.typeof(zero))
    if not tracked:  # pmap, vmap, or shard_map without the check
        return tree
    return jax.tree.map(lambda x: jax.lax.pcast(x, tracked, to="varying"), tree)


def local(devices: Sequence[jax.Device]) -> list[jax.Device]:
    """Those of the group's devices that belong to this process, in order.

    pmap hands a process only its own rows: with several processes every `[D, ...]` in rlx counts the local devices.
    """
    return [device for device in devices if device.process_index == jax.process_index()]


def sharding(devices: Sequence[jax.Device]) -> jax.sharding.NamedSharding:
    """The leading axis spread over this process's part of the group, one row a device."""
    mesh = jax.sharding.Mesh(np.asarray(local(devices)), (DEVICE,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(DEVICE))


def place(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Puts `[D, ...]` host arrays on the group's devices, row d on device d."""
    where = sharding(devices)
    return jax.tree.map(lambda x: jax.device_put(x, where), tree)


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Puts a copy on every device of the group: leaves `[...]` become `[D, ...]`."""
    rows = len(local(devices))
    return place(jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (rows, *np.shape(x))), tree), devices)


def _assemble(like: jax.Array, rows: Sequence[jax.Array], devices: Sequence[jax.Device]) -> jax.Array:
    """A `[D, ...]` array on the group from the `[1, ...]` rows that lie on this process's devices."""
    shape = (len(rows), *like.shape[1:])
    return jax.make_array_from_single_device_arrays(shape, sharding(devices), list(rows))


def broadcast(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """What is the same on all devices of one group, `[D, ...]`, copied to those of another, without the host."""
    leaves, structure = jax.tree.flatten(tree)
    rows = [x.addressable_shards[0].data for x in leaves]
    copies = [jax.device_put(rows, device) for device in local(devices)]
    arrays = [_assemble(x, [copy[i] for copy in copies], devices) for i, x in enumerate(leaves)]
    return jax.tree.unflatten(structure, arrays)


def deal(pieces: Sequence[Any], devices: Sequence[jax.Device]) -> tuple[Any, ...]:
    """Shares pieces of one group out to another, in order, without the host.

    Device i of the one group holds row i of every piece, so the pieces' global order is (device, piece). The other
    group's devices take equal runs of them: the result is a tuple of as many pieces as each of them gets.
    """
    structure = jax.tree.structure(pieces[0])
    parts = [jax.tree.leaves(piece) for piece in pieces]
    targets = local(devices)
    # rows in global order: [rows][leaf]
    rows = [
        [leaf.addressable_shards[i].data for leaf in part]
        for i in range(len(parts[0][0].addressable_shards))
        for part in parts
    ]
    each = len(rows) // len(targets)
    moved = [jax.device_put(rows[d * each : (d + 1) * each], device) for d, device in enumerate(targets)]
    dealt = []
    for slot in range(each):
        arrays = [_assemble(like, [run[slot][i] for run in moved], devices) for i, like in enumerate(parts[0])]
        dealt.append(jax.tree.unflatten(structure, arrays))
    return tuple(dealt)


def fetch(tree: Any) -> Any:
    """The first row that this process holds, as NumPy arrays: `[D, ...]` becomes `[...]`. Waits for the device."""
    return jax.tree.map(lambda x: x[0], jax.device_get(jax.tree.map(lambda x: x.addressable_shards[0].data, tree)))


def fetch_rows(tree: Any) -> Any:
    """All rows that this process holds as NumPy arrays, `[D, ...]`. Waits for the devices."""
    return jax.device_get(tree)
