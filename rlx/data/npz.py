"""Arrays of an npz file, read after archive and headers have been held against each other."""

from __future__ import annotations

import io
import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

from rlx.data.limits import AGAIN, Limits, check_numbers, declared_bytes, first_line
from rlx.errors import RlxError

HEADER = 10_000  # bytes, as NumPy allows
DAMAGE: tuple[type[Exception], ...] = (  # all that zipfile and NumPy raise for bytes that are not theirs
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError, SyntaxError),
    *(
        EOFError,
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        MemoryError,
    ),
)
DEFLATE_RATIO = 1032  # deflate cannot shrink anything further (zlib's technical details)


def read_npz(path: Path, names: Iterable[str], limits: Limits) -> dict[str, np.ndarray]:
    """Those of the named arrays that the file has. Raises RlxError for damage, pickles and bombs, before reading."""
    limits.check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = {name: archive.getinfo(f"{name}.npy") for name in names if f"{name}.npy" in archive.NameToInfo}
            limits.check_memory(path, sum(_npy_bytes(archive, path, info) for info in wanted.values()))
            return {name: _read_npy(archive, info) for name, info in wanted.items()}
    except DAMAGE as error:
        raise RlxError(f"{path} is not a complete npz file ({first_line(error)}): {AGAIN}") from None


def names_in(path: Path, limits: Limits) -> set[str]:
    """The names of the arrays in the file. Raises RlxError for damage."""
    limits.check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
    except DAMAGE as error:
        raise RlxError(f"{path} is not a complete npz file ({first_line(error)}): {AGAIN}") from None


def _npy_bytes(archive: zipfile.ZipFile, path: Path, info: zipfile.ZipInfo) -> int:
    """The bytes of an array by its own header, which must agree with the archive's."""
    name = info.filename.removesuffix(".npy")
    with archive.open(info) as file:
        shape, dtype = _npy_header(file)
        check_numbers(path, name, dtype)
        size = declared_bytes(shape, dtype)
        if file.tell() + size != info.file_size or info.file_size > DEFLATE_RATIO * max(info.compress_size, 1):
            raise RlxError(
                f"{path}: {name} declares {size:,} bytes, its archive {info.file_size:,} packed into "
                f"{info.compress_size:,}, which cannot be: {AGAIN}"
            )
    return size


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    start = file.read(12)
    long = start[6:7] == b"\x02"
    length = struct.unpack("<I" if long else "<H", start[8 : 12 if long else 10])[0]
    if length > HEADER:
        raise ValueError(f"a header of {length:,} bytes")
    head = io.BytesIO(start + file.read(max(0, length + 10 + 2 * long - 12)))
    version = np.lib.format.read_magic(head)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise ValueError(f"arrays of version {version}")
    shape, _, dtype = read[version](head)
    if any(size < 0 for size in shape):
        raise ValueError(f"an array of shape {shape}")
    return shape, dtype


def _read_npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
