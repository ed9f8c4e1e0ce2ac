"""JSON on disk: files are replaced atomically, so a reader sees the old content or the new one, never a part of it.

Whoever can write into a folder may have planted links there, or files that are no JSON of ours: what is written never
follows a symbolic link, and what is read is bounded.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from rlx.errors import RlxError, printable

DEPTH = 64  # containers within containers that a file may have
DIGITS = 19  # of an integer: what fits into 64 bits


def plain(value: Any) -> Any:
    """NumPy values as JSON's own, numbers that JSON does not know (NaN, infinity) as None; also in containers."""
    if isinstance(value, dict):
        return {name: plain(x) for name, x in value.items()}
    if isinstance(value, (np.ndarray, list, tuple)):
        return [plain(x) for x in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def parse(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError, in one line, for invalid JSON and values that rlx never writes."""
    try:
        value = json.loads(
            text, parse_int=_integer, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_object
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is no UTF-8") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if "\\ud" in (text if isinstance(text, str) else text.decode("ascii", "ignore")).lower():
        _check_text(value)
    if isinstance(value, (dict, list)):
        level = [value]
        for _ in range(DEPTH):
            level = [x for node in level for x in _children(node)]
        if level:
            raise ValueError("nested too deeply")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises ValueError for a name that comes twice, of which one value would be lost."""
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} comes twice")
    return value


def _check_text(value: Any) -> None:
    r"""Raises ValueError for a character that nothing can write: half of a surrogate pair, such as \ud800."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair, which is no character") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > DIGITS:
        raise ValueError(f"a number of {len(text.lstrip('-'))} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a number that is not finite, {text[:20]}")
    return value


def read_bytes(path: Path) -> bytes:
    """The content of a plain file. Raises OSError for another: reading a pipe would never end."""
    if not path.is_file() and not path.is_dir() and path.exists():
        raise OSError(errno.EINVAL, "is no plain file", str(path))
    return path.read_bytes()


def read(path: Path) -> dict[str, Any]:
    """The object in a file that `write` wrote. Raises RlxError where it cannot be read."""
    try:
        content = parse(read_bytes(path))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        return content
    except (OSError, ValueError) as error:
        raise RlxError(f"{path}: cannot be read ({printable(str(error))}); restore it from a copy") from None


def write(path: Path, content: dict[str, Any]) -> None:
    """Replaces a file by `content`, atomically."""
    write_text(path, json.dumps(plain(content), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replaces a file by `text`, atomically: the old one stays until all of the text is on the disk."""
    with replacing(path) as draft:
        draft.write(text.encode("utf-8"))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A draft in the folder of `path`, to write to; it takes the place of `path` when it is complete."""
    draft = path.with_suffix(".tmp")
    draft.unlink(missing_ok=True)  # a killed process left it, or it is a link that somebody planted
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            yield file
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()  # a full disk needs the room
        raise


@contextlib.contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """As `replacing`, for a library that opens the file itself: the draft's path, in a new folder of its own."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        yield (draft := Path(folder, path.name))
        draft.replace(path)


def check_place(path: Path, flag: str) -> None:
    """Raises RlxError, which names the `flag`, where no file or folder can be made as `path`; leaves nothing behind.

    Call it before work whose result would be lost.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(path)  # raises for a name that is too long, and under a file
        place = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise RlxError(f"{path}: cannot be written ({error.strerror or error}); choose another {flag}") from None


def open_to_append(path: Path) -> IO[str]:
    """A text file to append to, made where there is none. Raises OSError where it is a symbolic link."""
    return os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666), "a", encoding="utf-8"
    )


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when it is complete. What a killed process left of one is removed first.

    Raises OSError where `path` exists, or cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with contextlib.suppress(OSError), _locked(leftover):
            shutil.rmtree(leftover)
    partial = Path(tempfile.mkdtemp(".partial", f".{path.name}.", path.parent))
    try:
        with _locked(partial):
            partial.chmod(path.parent.stat().st_mode & 0o777)
            yield partial
            partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Locks a folder until the process leaves, or dies. Raises OSError where another process has it."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(number)
