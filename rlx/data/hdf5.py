"""Groups and arrays of an HDF5 file, inspected before they are read; links out of the file are refused.

By h5py's low-level calls: a Minari set has six arrays an episode, and the plain ones take twice the time.
"""

from __future__ import annotations

import contextlib
import errno
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlx.data.limits import AGAIN, Limits, check_numbers, first_line
from rlx.errors import RlxError

FEW, SMALL = 4096, 2048  # pieces of an array that may be small, and bytes of one that is: HDF5 takes 4 KiB for each


class Array(NamedTuple):
    """An array of numbers inside its file, not read yet."""

    id: Any
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self) -> np.ndarray:
        import h5py

        numbers = np.empty(self.shape, self.dtype)
        self.id.read(h5py.h5s.ALL, h5py.h5s.ALL, numbers)
        return numbers


class Group(NamedTuple):
    """A group, whose members can be looked up."""

    id: Any
    path: Path  # of the file

    def member(self, name: str) -> Group | Array | None:
        """What is at `name`, or at `a/b/c`; None where there is nothing.

        Raises RlxError for whatever would lead out of the file or is no array of numbers.
        """
        import h5py

        first, _, rest = name.partition("/")
        key = first.encode()
        if not self.id.links.exists(key):
            return None
        if self.id.links.get_info(key).type != h5py.h5l.TYPE_HARD:
            raise RlxError(f"{self.path}: {name} is a link and may lead to another file: store the array itself")
        member = h5py.h5o.open(self.id, key)
        if isinstance(member, h5py.h5g.GroupID):
            group = Group(member, self.path)
            return group.member(rest) if rest else group
        if rest or not isinstance(member, h5py.h5d.DatasetID):
            return None
        return _array(self.path, name, member)


def _array(path: Path, name: str, dataset: Any) -> Array:
    import h5py

    if dataset.shape is None:
        raise RlxError(f"{path}: {name} is empty, without even a shape: {AGAIN}")
    created, array = dataset.get_create_plist(), Array(dataset, dataset.shape, dataset.dtype)
    layout = created.get_layout()
    if layout == h5py.h5d.VIRTUAL or created.get_external_count():
        raise RlxError(f"{path}: {name} keeps its numbers in other files: store the array itself")
    if layout == h5py.h5d.CHUNKED and math.prod(created.get_chunk()) > max(math.prod(array.shape), 2**20):
        pieces = list(created.get_chunk())
        raise RlxError(f"{path}: {name} is stored in pieces of {pieces}, larger than itself: {AGAIN}")
    if layout == h5py.h5d.CHUNKED:
        piece = created.get_chunk()
        count = math.prod(-(-length // size) for length, size in zip(array.shape, piece, strict=True))
        if count > FEW and math.prod(piece) * array.dtype.itemsize < SMALL:
            raise RlxError(
                f"{path}: {name} is stored in {count:,} pieces of {list(piece)}, each of which takes kilobytes to read:"
                " store it in larger ones, as h5repack does"
            )
    check_numbers(path, name, array.dtype)
    return array


@contextlib.contextmanager
def open_hdf5(path: Path, limits: Limits) -> Iterator[Group]:
    """The root of an HDF5 file. Raises RlxError where the file is damaged, also later inside the `with`."""
    import h5py

    limits.check_file(path)
    try:
        with h5py.File(path, "r") as file:
            yield Group(h5py.h5g.open(file.id, b"/"), path)
    except OSError as error:
        if "lock" in str(error) or error.errno in (errno.EAGAIN, errno.EACCES, errno.EPERM):
            why = "another program is writing it" if "lock" in str(error) else str(error.strerror)
            raise RlxError(f"{path} cannot be read now ({why}): wait for it, or check its permissions") from None
        raise RlxError(f"{path} is not a complete HDF5 file ({first_line(error)}): {AGAIN}") from None
    except (RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise RlxError(f"{path} is not a complete HDF5 file ({first_line(error)}): {AGAIN}") from None
