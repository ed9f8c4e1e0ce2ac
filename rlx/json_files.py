"""JSON on disk: files are replaced as one, so a reader sees the old content or the new, never a part."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from rlx.errors import RlxError


def plain(value: Any) -> Any:
    """NumPy values as JSON's own, numbers that JSON does not know (NaN, infinity) as None; also in containers."""
    if isinstance(value, dict):
        return {name: plain(x) for name, x in value.items()}
    if isinstance(value, (np.ndarray, list, tuple)):
        return [plain(x) for x in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def read(path: Path) -> dict[str, Any]:
    """The object that `write` wrote. Raises RlxError where it cannot be read."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RlxError(f"{path}: cannot be read ({error}); restore it from a copy") from None


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes `content` atomically, by way of a temporary file beside `path`."""
    write_text(path, json.dumps(plain(content), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes `text` atomically: what was there before stays until all of the text is on the disk."""
    draft = path.with_suffix(".tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()  # a full disk needs the room
        raise
