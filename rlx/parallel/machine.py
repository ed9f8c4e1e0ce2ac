"""Memory of this machine, within the limits of the container that the process runs in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")


class Cgroup(NamedTuple):
    """Where one version of Linux's control groups keeps what it counts."""

    controller: str  # in /proc/self/cgroup
    mount: str
    limit: str
    usage: str
    cache: str  # entry of memory.stat: page cache that the kernel frees when memory runs short


VERSIONS = (
    Cgroup("", "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    Cgroup("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(root: Path = ROOT) -> int | None:
    """Bytes that this process can still allocate; None where the system does not say (not Linux)."""
    free = [*_available(root), *_container_free(root)]
    return max(0, min(free)) if free else None


def process_memory(root: Path = ROOT) -> int | None:
    """Bytes of main memory that this process holds; None where the system does not say."""
    try:
        return int((root / "proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None


def _available(root: Path) -> Iterator[int]:
    """What the machine has left."""
    sizes = _numbers(root / "proc/meminfo")
    if "MemAvailable" in sizes:
        yield sizes["MemAvailable"] * 1024


def _container_free(root: Path) -> Iterator[int]:
    """What each control group that limits this process has left; a group's limit holds for those inside it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    paths = {name: path for _, names, path in (line.split(":", 2) for line in lines) for name in names.split(",")}
    for version in VERSIONS:
        if version.controller not in paths:
            continue
        path = Path(paths[version.controller].lstrip("/"))
        for group in (path, *path.parents):  # inside a container the path may be the host's, and only its root exists
            folder = root / version.mount / group
            try:
                limit = int((folder / version.limit).read_text())  # "max" where there is none
                usage = int((folder / version.usage).read_text())
            except (OSError, ValueError):
                continue
            yield limit - usage + _numbers(folder / "memory.stat").get(version.cache, 0)


def _numbers(path: Path) -> dict[str, int]:
    """Names and first numbers of a file's lines; nothing where it cannot be read."""
    try:
        words = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}
