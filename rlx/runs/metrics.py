"""The file metrics.jsonl: one object a line, per-seed values as lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rlx import json_files
from rlx.errors import RlxError


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, but for a last one that is being written. Raises RlxError naming a broken one."""
    lines = []
    for number, _, line in _parsed(path):
        if isinstance(line, ValueError):
            raise RlxError(f"{path}, line {number}: is damaged ({line}); remove the line")
        lines.append(line)
    return lines


def _parsed(path: Path) -> Iterator[tuple[int, bytes, dict[str, Any] | ValueError]]:
    """Every line with its number from 1, as an object or as the error."""
    *complete, last = json_files.read_bytes(path).split(b"\n")
    for number, text in enumerate([*complete, last], 1):
        try:
            line = json_files.parse(text)
            if not isinstance(line, dict):
                raise ValueError("no object")
            yield number, text, line
        except ValueError as error:
            if number <= len(complete):  # the last one has no end: the run is writing it, or was killed
                yield number, text, error


def run_step(line: dict[str, Any]) -> int:
    """The step of a line. Raises ValueError where it has none."""
    step = line.get("run_step")
    if not isinstance(step, int) or isinstance(step, bool):
        raise ValueError("no run_step")
    return step


def _check_values(line: dict[str, Any], counts: set[int]) -> None:
    """Raises ValueError where a finished run could not make its summary of a line; `counts` are the seeds so far."""
    for name in ("critic_step", "actor_step"):
        if not isinstance(line.get(name, 0), int):
            raise ValueError(f"{name} is no number")
    if "eval/return_per_seed" in line:
        values = line["eval/return_per_seed"]
        if not isinstance(values, list) or not all(x is None or isinstance(x, (int, float)) for x in values):
            raise ValueError("eval/return_per_seed is no list of numbers")
        counts.add(len(values))
        if len(counts) > 1:
            counts.remove(len(values))
            raise ValueError(f"eval/return_per_seed has {len(values)} values")


def first_update_s(lines: Sequence[dict[str, Any]]) -> float | None:
    """The seconds until a run's first update, None where no line has one."""
    updated = (line for line in lines if line.get("critic_step", 0) + line.get("actor_step", 0) > 0)
    return next((line["wall_time_s"] for line in updated), None)


def cut(path: Path, last: int, warn: Callable[[str], None] = lambda text: None) -> float:
    """Drops the lines after step `last`, an unfinished one and, with a warning, broken ones.

    Returns the seconds that the run had taken.
    """
    texts, seconds, counts = [], 0.0, set[int]()
    for number, text, line in _parsed(path) if path.exists() else ():
        try:
            if isinstance(line, ValueError):
                raise line
            if run_step(line) <= last:
                _check_values(line, counts)
                texts.append(text + b"\n")
                seconds = float(line["wall_time_s"])
        except (ValueError, KeyError, TypeError) as error:
            warn(f"{path}, line {number}: is damaged ({error}); left out")
    with json_files.replacing(path) as draft:
        draft.write(b"".join(texts))
    return seconds
