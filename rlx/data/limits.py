"""Checks before a file from an untrusted source is read: sizes, links out of it, and everything that could run code.

Arrays are read only after their declared shapes have been added up, nothing is ever unpickled, and of a file's names
only those that a reader asks for are looked at. Whatever is wrong raises RlxError in one line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlx.errors import RlxError
from rlx.parallel import machine

GIB = 2**30
UNKNOWN = 64 * GIB  # of free memory, where the system does not say
NUMBERS = "biuf"  # kinds of types: bool, signed and unsigned integers, floats
JSON_BYTES = 16 * 2**20
AGAIN = "download or copy it again"
PICKLED = "holds pickled Python objects, which can run code when they are opened: store plain arrays of numbers"


class Limits(NamedTuple):
    """What a reader may take; None means half of the memory that is free, because reading makes copies."""

    file_bytes: int = 64 * GIB
    memory_bytes: int | None = None

    def check_memory(self, path: Path, declared: int) -> None:
        """Raises RlxError if arrays of so many bytes do not fit."""
        free = machine.free_memory()
        half = (UNKNOWN if free is None else free) // 2
        allowed = half if self.memory_bytes is None else self.memory_bytes
        declared = min(declared, 2**80)  # what a float holds: files declare what they like
        if declared > allowed:
            raise RlxError(
                f"{path} declares arrays of {declared / GIB:,.1f} GiB, and {allowed / GIB:,.1f} GiB are allowed here: "
                "split it, or read it on a machine with more memory"
            )

    def check_file(self, path: Path) -> None:
        """Raises RlxError unless there is a plain file (a pipe would never end) that is not too large."""
        if not path.is_file():
            raise RlxError(f"{path} is no file: give the path of a data set")
        if (size := path.stat().st_size) > self.file_bytes:
            raise RlxError(f"{path} has {size / GIB:,.1f} GiB; at most {self.file_bytes / GIB:,.1f} are read: split it")


DEFAULT = Limits()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a small JSON file. Raises RlxError for anything else."""
    Limits(file_bytes=JSON_BYTES).check_file(path)
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RlxError(f"{path} is no JSON ({first_line(error)}): {AGAIN}") from None
    if not isinstance(content, dict):
        raise RlxError(f"{path} holds no JSON object: {AGAIN}")
    return content


def printable(text: Any, length: int = 100) -> str:
    """Untrusted text as one line without control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:length])


def first_line(error: BaseException) -> str:
    return printable((str(error).splitlines() or [type(error).__name__])[0])


def check_numbers(path: Path, name: str, dtype: np.dtype) -> None:
    """Raises RlxError if an array's type is not of plain numbers."""
    if dtype.hasobject and dtype.metadata is None:  # h5py's text has metadata that says so
        raise RlxError(f"{path}: {name} {PICKLED}")
    if dtype.kind not in NUMBERS:
        raise RlxError(f"{path}: {name} holds {dtype} instead of numbers: store plain arrays of numbers")


def declared_bytes(shape: Sequence[int], dtype: np.dtype) -> int:
    """In Python's own numbers, which do not overflow."""
    return math.prod(shape) * dtype.itemsize
