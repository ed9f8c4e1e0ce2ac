"""Several processes: joining a cluster, numbers and texts on which all processes agree, and leaving when one died."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from rlx.errors import RlxError
from rlx.parallel.mapping import DEVICE, fetch, place, pmap


def process() -> int:
    """Which process this is, from 0."""
    return jax.process_index()


def is_first_process() -> bool:
    """Whether this process prints and writes for the run."""
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
            f"rlx: process {jax.process_index()} stops: another process of this run has ended ({reason});"
            " its own output says why; start all of them again",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


def agree(text: str) -> str:
    """The first process's text, on all of them (up to 4096 bytes)."""
    if not several_processes():
        return text
    from jax.experimental import multihost_utils

    page = np.zeros(4096, np.uint8)
    data = np.frombuffer(text.encode()[: len(page)], np.uint8)
    page[: len(data)] = data
    said = np.asarray(multihost_utils.broadcast_one_to_all(page), np.uint8)
    return bytes(said).rstrip(b"\0").decode()


def sum_over_processes(*numbers: int) -> tuple[int, ...]:
    """Each number added up over all processes; all of them must call this, at the same point of the run."""
    if not several_processes():
        return numbers
    rows = np.zeros((jax.local_device_count(), len(numbers)), np.int32)
    rows[0] = numbers
    return tuple(fetch(_sum_everywhere()(place(rows, jax.devices()))).tolist())


def of_all_processes(number: int) -> list[int]:
    """Every process's number, 0 <= number < 2^60, by process; all of them must ask."""
    high, low = divmod(number, 2**30)
    halves = [x if i == process() else 0 for i in range(jax.process_count()) for x in (high, low)]
    parts = sum_over_processes(*halves)
    return [high * 2**30 + low for high, low in zip(parts[::2], parts[1::2], strict=True)]


@functools.cache
def _sum_everywhere() -> Any:
    return pmap(lambda x: jax.lax.psum(x, DEVICE), jax.devices())
