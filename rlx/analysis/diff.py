"""Where two runs differ: settings, versions, and the first metrics and checkpoint leaves that are not the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlx import config
from rlx.analysis import run_files
from rlx.runs import checkpoint, saver
from rlx.runs.checkpoint import Damaged, Missing

WIDTH = 120  # of a line
SHORT = 20  # least width of a value


def differences(one: Path, other: Path, verbose: bool = False) -> list[str]:
    """Where two runs differ, one line each; none where they are the same. Seconds are ignored, and no array is loaded.

    Lines are short and count what they omit; with `verbose` every number and leaf has a full line. Raises RlxError
    where one is not a run folder.
    """
    return [
        *_of_origins(one, other, verbose),
        *_of_metrics(one, other, verbose),
        *_of_checkpoints(one, other, verbose),
    ]


def _lines(head: str, parts: Sequence[str], verbose: bool) -> list[str]:
    """One line with as many parts as fit, or with `verbose` each part on a line below the head."""
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
    """Two values, to follow `before` in a line; long ones are cut to the part around the first difference."""
    texts = [str(one), str(other)]
    room = max(SHORT, (WIDTH - len(f"{before} and ")) // 2)
    alike = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    begin = max(0, alike - room // 2)
    return " and ".join(text if verbose else _excerpt(text, begin, room) for text in texts)


def _excerpt(text: str, begin: int, room: int) -> str:
    if len(text) <= room:
        return text
    left, right = "..." * (begin > 0), "..." * (begin + room < len(text))
    return left + text[begin : begin + room - len(left + right)] + right


def numbers(line: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics without seconds, which differ in every run."""
    return {name: value for name, value in line.items() if not name.endswith("_s")}


def _of_origins(one: Path, other: Path, verbose: bool) -> Iterator[str]:
    """Settings, versions and hardware."""
    first, second = _origin(one), _origin(other)
    for name in dict.fromkeys([*first, *second]):
        if first.get(name) != second.get(name):
            yield f"{name}: {_pair(f'{name}: ', first.get(name), second.get(name), verbose)}"


def _origin(folder: Path) -> dict[str, Any]:
    saved = config.to_json(config.from_json(folder / "config.json"))
    content = run_files.config(folder)
    saved |= {name: content.get(name) or "none" for name in ("init_from", "data_digest")} | saved.pop("settings")
    saved |= {name: saved[name] or "default" for name in ("log_every", "eval_every")}
    sections = (content.get(name) for name in ("versions", "hardware", "numerics"))
    return saved | {name: value for section in sections if isinstance(section, dict) for name, value in section.items()}


def _of_metrics(one: Path, other: Path, verbose: bool) -> Iterator[str]:
    """The first line in which numbers differ, or from which on only one run has lines."""
    left, right = ([numbers(line) for line in run_files.lines(folder)] for folder in (one, other))
    for first, second in zip(left, right, strict=False):
        steps = first.get("run_step"), second.get("run_step")
        if steps[0] != steps[1]:
            yield f"metrics.jsonl: logged at different steps from {steps[0]} and {steps[1]} on; not compared further"
            return
        if first != second:
            names = dict.fromkeys([*first, *second])
            pairs = {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}
            head = f"metrics.jsonl, step {steps[0]}"
            head += f": {len(pairs)} of {len(names)} numbers differ"
            parts = [f"{name} is {_pair(f'{head}: {name} is ', *pair, verbose)}" for name, pair in pairs.items()]
            yield from _lines(head, parts, verbose)
            return
    if len(left) != len(right):
        longer, lines = (one, left) if len(left) > len(right) else (other, right)
        yield f"metrics.jsonl: only {longer} has step {lines[min(len(left), len(right))].get('run_step')}"


def _of_checkpoints(one: Path, other: Path, verbose: bool) -> Iterator[str]:
    """The first step that both saved and in which a leaf differs, of full checkpoints and of policies."""
    for name, left, right in (
        *_processes(_resume_folder(one), _resume_folder(other)),
        ("checkpoints", checkpoint.locate(one) / "checkpoints", checkpoint.locate(other) / "checkpoints"),
    ):
        for step in sorted({*checkpoint.steps(left)} & {*checkpoint.steps(right)}):
            try:
                first, second = (_digests(folder, step) for folder in (left, right))
            except Missing:  # a live run has removed it
                continue
            except Damaged as error:
                yield f"{error}; resume that run, or leave it out"
                break
            leaves = [leaf for leaf in dict.fromkeys([*first, *second]) if first.get(leaf) != second.get(leaf)]
            if leaves:
                count = f"{len(leaves)} of {len({*first, *second})} leaves differ"
                yield from _lines(f"{name}/{step}: {count}", leaves, verbose)
                break


def _resume_folder(folder: Path) -> Any:
    return saver.place(config.from_json(folder / "config.json"), folder)


def _processes(left: Any, right: Any) -> Iterator[tuple[str, Any, Any]]:
    """The folders of full checkpoints: one, or one for each of several processes."""
    yield "resume", left, right
    if left.exists():
        for path in sorted(left.glob("process-*")):
            yield f"resume/{path.name}", path, right / path.name


def _digests(folder: Any, step: int) -> dict[str, str]:
    leaves = checkpoint.manifest(folder, step)["leaves"]
    return {name: f"{leaf['dtype']} {leaf['shape']} {leaf['sha256']}" for name, leaf in leaves.items()}
