"""The file metrics.jsonl: one object a line, per-seed values as lists."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from rlx.errors import RlxError


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, but for a last one that is being written. Raises RlxError naming a broken one."""
    lines, whole = [], path.read_text()
    for number, text in enumerate(whole.splitlines(), 1):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError as error:
            if whole.endswith(text):
                break  # without its end: the run is writing it, or was killed
            raise RlxError(f"{path}, line {number}: is not JSON ({error.msg}); remove the line") from None
    return lines


def cut(path: Path, run_step: int) -> float:
    """Drops the lines after `run_step` and one that was not finished; returns the seconds that the run had taken."""
    kept = []
    with contextlib.suppress(FileNotFoundError):
        for text in path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                line = json.loads(text)
                if line["run_step"] <= run_step:
                    kept.append((text, line["wall_time_s"]))
    draft = path.with_suffix(".tmp")
    draft.write_text("".join(text + "\n" for text, _ in kept))
    draft.replace(path)
    return kept[-1][1] if kept else 0.0
