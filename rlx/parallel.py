"""The only file that names devices: programs over device groups, placement, transfers, several hosts.

A program runs on a group of devices, each holding an equal part of the logical shards. Logical shards are
configuration; devices only partition them: one device maps several shards under the axis `SHARD`, several devices map
them under `DEVICE`, and a mean over both is the same number either way.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlx import machine
from rlx.errors import RlxError

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
        remedy = "leave it out" if len(devices) == 1 else f"choose 1 to {len(devices)}"
        if kind == "cpu" and count > 0:
            remedy += f", or set XLA_FLAGS=--xla_force_host_platform_device_count={count} to cut this CPU up"
        raise RlxError(f"--num-devices {count}: this machine shows {len(devices)} {kind} device(s); {remedy}")
    return devices[:count]


def split_devices(sizes: Sequence[int]) -> list[list[jax.Device]]:
    """Groups of devices: every process gives `sizes[i]` of its own to group i."""
    groups: list[list[jax.Device]] = [[] for _ in sizes]
    for process in range(jax.process_count()):
        own = iter([device for device in jax.devices() if device.process_index == process])
        for group, size in zip(groups, sizes, strict=True):
            group.extend(itertools.islice(own, size))
    return groups


def device_count() -> int:
    """Devices of all processes together."""
    return jax.device_count()


def local_devices() -> list[jax.Device]:
    """Devices of this process."""
    return jax.local_devices()


def local_device_count() -> int:
    """Devices of this process."""
    return jax.local_device_count()


def process() -> int:
    """Which process this is, from 0."""
    return jax.process_index()


def is_first_process() -> bool:
    """Whether this process speaks for the run."""
    return jax.process_index() == 0


def several_processes() -> bool:
    """Whether the run spans several processes."""
    return jax.process_count() > 1


JOIN_S = 120  # to wait for the other processes at the start


def join_cluster(address: str | None, processes: int | None, index: int | None) -> None:
    """Joins the other processes of this run; all three are None where the cluster knows (TPU pod, Slurm, MPI, GKE).

    A process that dies is noticed after at most 30 s. Raises RlxError for an address that cannot be; if the others are
    not reached in time, ends the process with one line, since jax would abort it.
    """
    missing = [value is None for value in (address, processes, index)]
    if any(missing) and not all(missing):
        raise RlxError(
            "--coordinator, --num-processes and --process-id: give all three, or none where the cluster tells"
        )
    if address is not None:
        _check_address(address)
    waiting = threading.Timer(JOIN_S, _not_joined, (address,))
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            address,
            processes,
            index,
            initialization_timeout=2 * JOIN_S,
            heartbeat_timeout_seconds=30,
            shutdown_timeout_seconds=60,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RlxError(
            f"--distributed: could not join the other processes ({reason}); give --coordinator HOST:PORT,"
            " --num-processes and --process-id"
        ) from None
    finally:
        waiting.cancel()


def _check_address(address: str) -> None:
    """Raises RlxError for what is not HOST:PORT of a host that is known here."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise RlxError(f"--coordinator {address}: must be HOST:PORT, with a port from 1 to 65535")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except (OSError, UnicodeError):
        raise RlxError(f"--coordinator {address}: no host of this name is known; give that of process 0") from None


def _not_joined(address: str | None) -> None:
    at = f" at {address}" if address else ""
    print(
        f"rlx: --distributed: the processes did not find each other{at} within {JOIN_S} s;"
        " start all of them, with the address of process 0",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """Of several processes, leaves at once with a clear line when a computation fails because another one died.

    Leaving in the ordinary way would wait for the dead process.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not several_processes():
            raise
        reason = str(error).strip().splitlines()[0]
        print(
            f"rlx: process {jax.process_index()} stops: another process of this run is gone ({reason});"
            " its own output says why; start all of them again",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


def agree(text: str) -> str:
    """What the first process says, on all of them (up to 4096 bytes)."""
    if not several_processes():
        return text
    from jax.experimental import multihost_utils

    page = np.zeros(4096, np.uint8)
    data = np.frombuffer(text.encode()[: len(page)], np.uint8)
    page[: len(data)] = data
    said = np.asarray(multihost_utils.broadcast_one_to_all(page), np.uint8)
    return bytes(said).rstrip(b"\0").decode()


def sum_over_processes(*numbers: int) -> tuple[int, ...]:
    """Each number added up over all processes; all of them must ask, at the same point of the run."""
    if not several_processes():
        return numbers
    rows = np.zeros((jax.local_device_count(), len(numbers)), np.int32)
    rows[0] = numbers
    return tuple(fetch(_sum_everywhere()(place(rows, jax.devices()))).tolist())


def of_all_processes(number: int) -> list[int]:
    """Every process's number, 0 <= number < 2^60, by process; all of them must ask."""
    high, low = divmod(number, 2**30)
    own = [x if i == process() else 0 for i in range(jax.process_count()) for x in (high, low)]
    told = sum_over_processes(*own)
    return [high * 2**30 + low for high, low in zip(told[::2], told[1::2], strict=True)]


@functools.cache
def _sum_everywhere() -> Any:
    return pmap(lambda x: jax.lax.psum(x, DEVICE), jax.devices())


def on_cpu() -> bool:
    """Whether programs run on a CPU unless told otherwise."""
    return jax.default_backend() == "cpu"


def describe() -> dict[str, Any]:
    """What the run ran on, for config.json and summary.json."""
    first = jax.devices()[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }


def memory_bytes(devices: Sequence[jax.Device]) -> int | None:
    """Bytes free on each of the devices; those of a CPU share the machine's memory. None where it is not known."""
    device = local(devices)[0]
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    if device.platform != "cpu":  # some allocators for GPUs keep no count, and the machine's memory is not theirs
        return None
    free = machine.free_memory()
    return None if free is None else free // jax.local_device_count()


class Memory(NamedTuple):
    """What is held now."""

    used: int  # bytes
    limit: int | None
    of_device: bool  # or, where devices keep no count, by the whole process

    def __str__(self) -> str:
        limit = "" if self.limit is None else f" of {self.limit / 2**30:.1f}"
        return f"{self.used / 2**30:.1f}{limit} GiB " + ("on the first device" if self.of_device else "of the process")


def memory_in_use() -> Memory | None:
    """Bytes in use on this process's first device, or by the process; None where it is not known. Waits for nothing."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_in_use" in stats:
        return Memory(int(stats["bytes_in_use"]), stats.get("bytes_limit"), of_device=True)
    used = machine.process_memory()
    return None if used is None else Memory(used, None, of_device=False)


DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def ask_for_determinism() -> None:
    """Has a GPU give the same bits every time; call it before anything touches a device. A CPU does so anyway."""
    if DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()


def is_deterministic() -> bool:
    """Whether the same program gives the same bits every time, here."""
    return jax.default_backend() != "gpu" or DETERMINISTIC in os.environ.get("XLA_FLAGS", "")


def pmap(
    function: Callable[..., Any], devices: Sequence[jax.Device], in_axes: Any = 0, donate: tuple[int, ...] = ()
) -> Any:
    """`function` on every device of the group at once, under the axis name DEVICE; arguments lead with `[D, ...]`."""
    return jax.pmap(function, axis_name=DEVICE, devices=devices, in_axes=in_axes, donate_argnums=donate)


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
        given = _where(in_axes, arguments, lambda x: jax.lax.squeeze(x, (0,)))
        return _where(out_axes, function(*given), lambda x: jax.lax.expand_dims(x, (0,)))

    return call


def _where(axes: Any, tree: Any, change: Callable[[jax.Array], jax.Array]) -> Any:
    """The tree, changed where `axes`, a prefix of it, are 0 and not None."""

    def is_none(node: Any) -> bool:
        return node is None

    full = jax.tree.broadcast(axes, tree, is_leaf=is_none)
    return jax.tree.map(lambda axis, x: x if axis is None or x is None else change(x), full, tree, is_leaf=is_none)


def quick_compilation() -> dict[str, Any] | None:
    """Compiler options for a program whose speed does not matter: on a CPU, half to a sixth of the time to compile."""
    if not on_cpu():
        return None
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    # loops made by way of MLIR are better but take longer; from jax 0.11 on there are no others
    return options if jax.__version_info__ >= (0, 11) else options | {"xla_cpu_use_fusion_emitters": False}


def index(axes: Axes) -> jax.Array:
    """This logical shard's global index, [] int32, inside a mapped program; 0 outside of one."""
    return jax.lax.axis_index(axes) if axes else jax.numpy.zeros((), jax.numpy.int32)


def sum(tree: Any, axes: Axes) -> Any:
    """The sum over all logical shards."""
    return jax.lax.psum(tree, axes) if axes else tree


def mean(tree: Any, axes: Axes) -> Any:
    """The mean over all logical shards."""
    return jax.lax.pmean(tree, axes) if axes else tree


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
