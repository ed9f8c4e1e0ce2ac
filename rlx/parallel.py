"""The only file that names devices: programs over device groups, placement, transfers, several hosts.

A program runs on a group of devices, each holding an equal part of the logical shards. Logical shards are
configuration; devices only partition them: one device maps several shards under the axis `SHARD`, several devices map
them under `DEVICE`, and a mean over both is the same number either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rlx.types import RlxError

DEVICE = "device"
SHARD = "shard"
Axes = tuple[str, ...]  # what a mean over "everybody" runs over: () for one learner, (DEVICE, SHARD) for data-parallel


def pick_devices(count: int | None = None) -> list[jax.Device]:
    """The first `count` devices, of all hosts (all of them by default). Raises RlxError if there are fewer."""
    devices = jax.devices()
    if count is None:
        return devices
    if not 1 <= count <= len(devices):
        kind = devices[0].platform
        raise RlxError(f"--num-devices {count}: this machine shows {len(devices)} {kind} device(s); choose 1 to {len(devices)}")
    return devices[:count]


def describe() -> dict[str, Any]:
    """What the run ran on, for config.json and summary.json."""
    first = jax.devices()[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }


def memory_bytes(device: jax.Device) -> int | None:
    """How many bytes of memory the device may use; for a CPU the machine's available memory; None if unknown."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def pmap(function: Callable[..., Any], devices: Sequence[jax.Device], in_axes: Any = 0, donate: tuple[int, ...] = ()) -> Any:
    """`function` on every device of the group at once, under the axis name DEVICE; arguments lead with `[D, ...]`."""
    return jax.pmap(function, axis_name=DEVICE, devices=devices, in_axes=in_axes, donate_argnums=donate)


def index(axes: Axes) -> jax.Array:
    """This logical shard's global index, [] int32, inside a mapped program; 0 outside of one."""
    return jax.lax.axis_index(axes) if axes else jax.numpy.zeros((), jax.numpy.int32)


def sum(tree: Any, axes: Axes) -> Any:  # noqa: A001 -- parallel.sum reads as what it is
    """The sum over all logical shards."""
    return jax.lax.psum(tree, axes) if axes else tree


def mean(tree: Any, axes: Axes) -> Any:
    """The mean over all logical shards."""
    return jax.lax.pmean(tree, axes) if axes else tree


def sharding(devices: Sequence[jax.Device]) -> jax.sharding.NamedSharding:
    """The leading axis spread over the group, one row a device."""
    mesh = jax.sharding.Mesh(np.asarray(devices), (DEVICE,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(DEVICE))


def place(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Puts `[D, ...]` host arrays on the group's devices, row d on device d."""
    where = sharding(devices)
    return jax.tree.map(lambda x: jax.device_put(x, where), tree)


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Puts a copy on every device of the group: leaves `[...]` become `[D, ...]`."""
    return place(jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (len(devices), *np.shape(x))), tree), devices)


def local(tree: Any) -> Any:
    """The first row that this process holds, without leaving its device: `[D, ...]` becomes `[...]`."""
    return jax.tree.map(lambda x: x.addressable_shards[0].data.reshape(x.shape[1:]), tree)


def fetch(tree: Any) -> Any:
    """The first row that this process holds, as NumPy arrays: `[D, ...]` becomes `[...]`. Waits for the device."""
    return jax.tree.map(lambda x: x[0], jax.device_get(jax.tree.map(lambda x: x.addressable_shards[0].data, tree)))


def fetch_all(tree: Any) -> Any:
    """All rows as NumPy arrays, joined: `[D, M, ...]` becomes `[D * M, ...]`. Waits for the devices."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.device_get(tree))
