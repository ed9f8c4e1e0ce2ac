"""Where two runs part: what they were asked, what made them, and the first number and state that are not the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlx import checkpoint, config, metrics, wholes
from rlx.checkpoint import Damaged

MOST = 8  # leaves that are named


def differences(one: Path, other: Path) -> list[str]:
    """Where two runs differ, a line each; none where they are the same. Seconds never count, and no array is loaded.

    Raises RlxError where one is no run folder.
    """
    return [*_of_origins(one, other), *_of_metrics(one, other), *_of_checkpoints(one, other)]


def numbers(line: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics without seconds, which no run repeats."""
    return {name: value for name, value in line.items() if not name.endswith("_s")}


def _of_origins(one: Path, other: Path) -> Iterator[str]:
    """Settings, versions and hardware."""
    there, here = _origin(one), _origin(other)
    for name in dict.fromkeys([*there, *here]):
        if there.get(name) != here.get(name):
            yield f"{name}: {there.get(name)} and {here.get(name)}"


def _origin(folder: Path) -> dict[str, Any]:
    saved = config.to_json(config.from_json(folder / "config.json"))
    content = json.loads((folder / "config.json").read_text())
    saved |= {"init_from": content.get("init_from")} | saved.pop("settings")
    return saved | content.get("versions", {}) | content.get("hardware", {})


def _of_metrics(one: Path, other: Path) -> Iterator[str]:
    """The first line in which a number differs, or the one from which only one run goes on."""
    there, here = ([numbers(line) for line in _lines(folder)] for folder in (one, other))
    for first, second in zip(there, here, strict=False):
        if first != second:
            names = [name for name in dict.fromkeys([*first, *second]) if first.get(name) != second.get(name)]
            name, step = names[0], min(first["run_step"], second["run_step"])
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            yield f"metrics.jsonl, step {step}: {name} is {first.get(name)} and {second.get(name)}{more}"
            return
    if len(there) != len(here):
        longer, lines = (one, there) if len(there) > len(here) else (other, here)
        yield f"metrics.jsonl: only {longer} has step {lines[min(len(there), len(here))]['run_step']}"


def _lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return metrics.read(path) if path.exists() else []


def _of_checkpoints(one: Path, other: Path) -> Iterator[str]:
    """The first step that both saved and in which a leaf differs: of everything, and of the policies."""
    for name, there, here in (
        *_parts(_wholes(one), _wholes(other)),
        ("checkpoints", checkpoint.locate(one) / "checkpoints", checkpoint.locate(other) / "checkpoints"),
    ):
        for step in sorted({*checkpoint.steps(there)} & {*checkpoint.steps(here)}):
            try:
                first, second = (_digests(folder, step) for folder in (there, here))
            except Damaged as error:
                yield f"{error}; resume that run, or leave it out"
                break
            names = [leaf for leaf in dict.fromkeys([*first, *second]) if first.get(leaf) != second.get(leaf)]
            if names:
                shown = ", ".join(names[:MOST]) + (", ..." if len(names) > MOST else "")
                yield f"{name}/{step}: {len(names)} of {len({*first, *second})} leaves differ: {shown}"
                break


def _wholes(folder: Path) -> Any:
    return wholes.place(config.from_json(folder / "config.json"), folder)


def _parts(there: Any, here: Any) -> Iterator[tuple[str, Any, Any]]:
    """The folders of checkpoints of everything: one, or one for each of several processes."""
    yield "resume", there, here
    if there.exists():
        for path in sorted(there.glob("process-*")):
            yield f"resume/{path.name}", path, here / path.name


def _digests(folder: Any, step: int) -> dict[str, str]:
    leaves = checkpoint.manifest(folder, step)["leaves"]
    return {name: f"{leaf['dtype']} {leaf['shape']} {leaf['sha256']}" for name, leaf in leaves.items()}
