"""Any data set by its path: the format follows from the content, never from a name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlx.data import arrays, d4rl, minari_format
from rlx.data.dataset import Dataset, check
from rlx.data.limits import AGAIN, DEFAULT, PICKLED, Limits, printable
from rlx.data.quality import describe
from rlx.errors import RlxError

HDF5, ZIP, NPY, GZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"\x93NUMPY", b"\x1f\x8b"
KINDS = "a Dataset, a path, or a dict of arrays"
GIVE = "give a Minari folder, a D4RL .hdf5, or an .npz of arrays as D4RL's or OGBench's"


def read(path: Path | str, limits: Limits = DEFAULT) -> Dataset:
    """The data set at a path: a Minari folder, a D4RL HDF5 file or an npz file of arrays, recognised by its content.

    Raises RlxError where there is none, and for files that are damaged or hostile (see `rlx.data.limits`).
    """
    if not isinstance(path, (str, Path)):
        raise RlxError(f"path: is of type {type(path).__name__}; give the path of a data set")
    path = Path(path)
    if path.is_dir():
        if minari_format.find(path) is None and not minari_format.is_old(path):
            raise RlxError(f"{path} holds no data set: give {_inside(path)}")
        return minari_format.read(path, limits)
    if not path.exists():
        raise RlxError(f"{path} does not exist: {GIVE}")
    start = _first_bytes(path, limits)
    if start.startswith(HDF5):
        if path.name == minari_format.MAIN and minari_format.find(path.parent) == path.parent:
            return minari_format.read(path.parent, limits)
        if path.name == minari_format.MAIN and minari_format.is_old(path.parent):
            raise minari_format.old_format(path)
        return d4rl.read(path, limits)
    if start.startswith(ZIP):
        return arrays.read(path, limits)
    raise RlxError(f"{path} {_looks_like(start)}")


def as_dataset(source: Any) -> Dataset:
    """A `Dataset` of a data set, the path of one, or a dict of arrays. Raises RlxError, in one line, for others."""
    if isinstance(source, Dataset):
        check(source)
        return source
    if isinstance(source, (str, Path)):
        return read(source)
    if isinstance(source, Mapping):
        return arrays.from_arrays(source)
    raise RlxError(f"dataset: is of type {type(source).__name__}, which holds no transitions; give {KINDS}")


def _first_bytes(path: Path, limits: Limits) -> bytes:
    limits.check_file(path)
    try:
        with open(path, "rb") as file:
            return file.read(len(HDF5))
    except OSError as error:
        raise RlxError(f"{path} cannot be read ({error.strerror}): check its permissions") from None


def _inside(folder: Path) -> str:
    """What to give instead of a folder: a file in it that may be a data set, if there is one."""
    names = sorted(printable(file.name) for file in folder.iterdir() if file.suffix in (".hdf5", ".h5", ".npz"))
    return f"one of its files, {', '.join(names[:5])}" if names else GIVE.removeprefix("give ")


def _looks_like(start: bytes) -> str:
    if not start:
        return f"is empty: {AGAIN}"
    if start[0] == 0x80 and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return PICKLED
    if start.startswith(NPY):
        return "is a single array and no data set: put observations, actions, terminals ... into one .npz"
    if start.startswith(GZIP):
        return "is packed by gzip: unpack it first"
    return f"is no data set: {GIVE}"


def info(path: Path | str, limits: Limits = DEFAULT) -> list[str]:
    """The lines of `describe` for the data set at a path."""
    return describe(read(path, limits))


def convert(path: Path | str, out: Path | str, limits: Limits = DEFAULT) -> Dataset:
    """Reads any data set and writes it as a Minari one into the new folder `out`; returns it."""
    dataset = read(path, limits)
    minari_format.write(dataset, Path(out))
    return dataset
