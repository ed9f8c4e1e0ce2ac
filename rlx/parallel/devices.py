"""Devices: how many there are, groups of them, their memory, and whether they are deterministic."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from rlx.errors import RlxError
from rlx.parallel import machine
from rlx.parallel.mapping import local


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
        available = iter([device for device in jax.devices() if device.process_index == process])
        for group, size in zip(groups, sizes, strict=True):
            group.extend(itertools.islice(available, size))
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


def on_cpu() -> bool:
    """Whether the default backend is a CPU."""
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
    """The memory in use now."""

    used: int  # bytes
    limit: int | None
    of_device: bool  # or, where devices keep no count, by the process

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


def quick_compilation() -> dict[str, Any] | None:
    """Compiler options for a program whose speed does not matter: on a CPU, half to a sixth of the time to compile."""
    if not on_cpu():
        return None
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    # loops made by way of MLIR are better but take longer; from jax 0.11 on there are no others
    return options if jax.__version_info__ >= (0, 11) else options | {"xla_cpu_use_fusion_emitters": False}
