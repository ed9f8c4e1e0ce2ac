"""Files of one checkpoint step: a table of arrays written and read, and what digests are taken of."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from rlx import parallel

LEAVES = "default"  # Orbax's folder in a step
PROCESS_LEAVES = "process"  # where one of several processes keeps its leaves


def write(place: epath.Path, leaves: dict[str, np.ndarray]) -> None:
    """Writes a table into the new folder `place`; each of several processes writes its own table."""
    _write_bytes(place, leaves) if parallel.several_processes() else _write_orbax(place, leaves)


def read(place: epath.Path, names: list[str], wanted: dict[str, Any]) -> dict[str, Any]:
    """The leaves `wanted`, with their shapes and types; `names` are those of all leaves, as written."""
    if (place / PROCESS_LEAVES).exists():
        return _read_bytes(place, names, wanted)
    return _read_orbax(place, wanted)


def _orbax() -> Any:
    """The library, imported late: that costs a quarter of a second that `--help` need not pay.

    On a full disk it reports each failed write in tracebacks of its own: by its log, and from threads that outlive
    their event loop. `save` reports the error once.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL + 1)
    import orbax.checkpoint as ocp

    if not isinstance(sys.unraisablehook, _QuietAboutLoops):
        sys.unraisablehook = _QuietAboutLoops(sys.unraisablehook)
    return ocp


class _QuietAboutLoops:
    """A hook for exceptions that no code can catch, which leaves out those of closed event loops."""

    def __init__(self, hook: Callable[[Any], Any]) -> None:
        self._hook = hook

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self._hook(unraisable)


def _write_orbax(place: epath.Path, leaves: dict[str, np.ndarray]) -> None:
    ocp = _orbax()
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save((place / LEAVES).resolve(), args=ocp.args.StandardSave(leaves))


def _read_orbax(place: epath.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    ocp = _orbax()
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        return dict(checkpointer.restore((place / LEAVES).resolve(), args=ocp.args.StandardRestore(wanted)))


def _write_bytes(place: epath.Path, leaves: dict[str, np.ndarray]) -> None:
    """Of several processes, this one's leaves as bytes, one file each.

    Orbax would have all processes meet, in collectives that get between those of the training that goes on; and it
    writes the first process's host arrays only.
    """
    (place / PROCESS_LEAVES).mkdir(parents=True)
    for i, leaf in enumerate(leaves.values()):
        (place / PROCESS_LEAVES / str(i)).write_bytes(np.ascontiguousarray(leaf).tobytes())


def _read_bytes(place: epath.Path, names: list[str], wanted: dict[str, Any]) -> dict[str, Any]:
    files = {name: place / PROCESS_LEAVES / str(i) for i, name in enumerate(names)}
    return {
        name: np.frombuffer(files[name].read_bytes(), leaf.dtype).reshape(leaf.shape) for name, leaf in wanted.items()
    }


def walk(place: epath.Path) -> list[epath.Path]:
    return [file for path in place.iterdir() for file in (walk(path) if path.is_dir() else [path])]


def digest(leaf: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data).hexdigest()


def digest_file(path: epath.Path) -> str:
    """The digest of a plain file; empty for anything else, since reading a pipe would never end."""
    if path.exists() and not path.is_file():
        return ""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()


def reason(error: BaseException) -> str:
    """An exception's message in one line; of a full disk or a quota, that."""
    text = f"{error}"
    for sign, reason in (
        ("No space left", "no space left on the disk"),
        ("Disk quota exceeded", "the disk quota is exceeded"),
        ("File too large", "the file is larger than is allowed"),
    ):
        if sign in text:
            return reason
    return (text.strip().splitlines() or [type(error).__name__])[0][:200]
