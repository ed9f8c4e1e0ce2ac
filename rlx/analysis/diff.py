"""Where two runs part: what they were asked, what made them, and the first numbers and states that are not the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlx import config
from rlx.runs import checkpoint, metrics, saver
from rlx.runs.checkpoint import Damaged

WIDTH = 120  # of a line
SHORT = 20  # of a value, of which that much is always shown


def differences(one: Path, other: Path, verbose: bool = False) -> list[str]:
    """Where two runs differ, a line each; none where they are the same. Seconds never count, and no array is loaded.

    Lines are short, and count what they leave out; with `verbose` every number and leaf has one, in full. Raises
    RlxError where one is no run folder.
    """
    return [
        *_of_origins(one, other, verbose),
        *_of_metrics(one, other, verbose),
        *_of_checkpoints(one, other, verbose),
    ]


def _lines(head: str, parts: Sequence[str], verbose: bool) -> list[str]:
    """One line with as many parts as it holds, or each part below the head."""
    if verbose:
        return [f"{head}:", *(f"  {part}" for part in parts)]
    line, left = f"{head}: {parts[0]}", ", ..."
    for part in parts[1:]:
        if len(f"{line}, {part}{left}") > WIDTH:
            line += left
            break
        line += f", {part}"
    return [line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."]


def _pair(before: str, one: Any, other: Any, verbose: bool) -> str:
    """Two values, to stand after what is `before` in a line; of long ones what is about the first sign that differs."""
    texts = [str(one), str(other)]
    room = max(SHORT, (WIDTH - len(f"{before} and ")) // 2)
    alike = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    begin = max(0, alike - room // 2)
    return " and ".join(text if verbose else _about(text, begin, room) for text in texts)


def _about(text: str, begin: int, room: int) -> str:
    if len(text) <= room:
        return text
    left, right = "..." * (begin > 0), "..." * (begin + room < len(text))
    return left + text[begin : begin + room - len(left + right)] + right


def numbers(line: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics without seconds, which no run repeats."""
    return {name: value for name, value in line.items() if not name.endswith("_s")}


def _of_origins(one: Path, other: Path, verbose: bool) -> Iterator[str]:
    """Settings, versions and hardware."""
    there, here = _origin(one), _origin(other)
    for name in dict.fromkeys([*there, *here]):
        if there.get(name) != here.get(name):
            yield f"{name}: {_pair(f'{name}: ', there.get(name), here.get(name), verbose)}"


def _origin(folder: Path) -> dict[str, Any]:
    saved = config.to_json(config.from_json(folder / "config.json"))
    content = json.loads((folder / "config.json").read_text())
    saved |= {name: content.get(name) or "none" for name in ("init_from", "data_digest")} | saved.pop("settings")
    saved |= {name: saved[name] or "left open" for name in ("log_every", "eval_every")}
    return saved | content.get("versions", {}) | content.get("hardware", {})


def _of_metrics(one: Path, other: Path, verbose: bool) -> Iterator[str]:
    """The first line in which numbers differ, or the one from which only one run goes on."""
    there, here = ([numbers(line) for line in _written(folder)] for folder in (one, other))
    for first, second in zip(there, here, strict=False):
        steps = first["run_step"], second["run_step"]
        if steps[0] != steps[1]:
            yield f"metrics.jsonl: lines are of other steps from {steps[0]} and {steps[1]} on; not compared further"
            return
        if first != second:
            known = dict.fromkeys([*first, *second])
            found = {name: (first.get(name), second.get(name)) for name in known if first.get(name) != second.get(name)}
            head = f"metrics.jsonl, step {steps[0]}"
            head += f": {len(found)} of {len(known)} numbers differ"
            told = [f"{name} is {_pair(f'{head}: {name} is ', *pair, verbose)}" for name, pair in found.items()]
            yield from _lines(head, told, verbose)
            return
    if len(there) != len(here):
        longer, lines = (one, there) if len(there) > len(here) else (other, here)
        yield f"metrics.jsonl: only {longer} has step {lines[min(len(there), len(here))]['run_step']}"


def _written(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return metrics.read(path) if path.exists() else []


def _of_checkpoints(one: Path, other: Path, verbose: bool) -> Iterator[str]:
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
                count = f"{len(names)} of {len({*first, *second})} leaves differ"
                yield from _lines(f"{name}/{step}: {count}", names, verbose)
                break


def _wholes(folder: Path) -> Any:
    return saver.place(config.from_json(folder / "config.json"), folder)


def _parts(there: Any, here: Any) -> Iterator[tuple[str, Any, Any]]:
    """The folders of checkpoints of everything: one, or one for each of several processes."""
    yield "resume", there, here
    if there.exists():
        for path in sorted(there.glob("process-*")):
            yield f"resume/{path.name}", path, here / path.name


def _digests(folder: Any, step: int) -> dict[str, str]:
    leaves = checkpoint.manifest(folder, step)["leaves"]
    return {name: f"{leaf['dtype']} {leaf['shape']} {leaf['sha256']}" for name, leaf in leaves.items()}
