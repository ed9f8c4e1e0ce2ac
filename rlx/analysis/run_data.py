"""The contents of a run folder, as numbers and tables: seconds, settings, versions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlx import build, config
from rlx.analysis import curves, run_files
from rlx.errors import RlxError
from rlx.runs import folders
from rlx.visual.markup import Cell


class Run(NamedTuple):
    """The contents of a run folder."""

    name: str
    folder: Path
    content: dict[str, Any]  # config.json
    summary: dict[str, Any]
    lines: list[dict[str, Any]]  # metrics.jsonl
    unfinished: str = ""  # its state and step, in words; empty for a finished run


def read(folder: Path, name: str, is_evaluated: bool = True) -> Run:
    """Reads the folder of a run that was evaluated, or has learned. Raises RlxError where a file is damaged."""
    summary = curves.summary_of(folder, True, curves.EVAL if is_evaluated else "run_step")
    content = run_files.config(folder)
    for key in ("agent", "settings"):
        if key not in content:
            raise RlxError(f"{folder / 'config.json'}: has no {key!r}; restore it from a copy, or leave the run out")
    lines = run_files.lines(folder)
    if (folder / "summary.json").is_file():
        return Run(name, folder, content, summary, lines)
    spent = {"wall_time_s": lines[-1]["wall_time_s"]} if "wall_time_s" in lines[-1] else {}
    return Run(name, folder, content, summary | spent, lines, _progress(folder))


def _progress(folder: Path) -> str:
    """State and step of an unfinished run, in words."""
    status, plan = folders.status(folder), build.final_plan(config.from_json(folder / "config.json"))
    if status.run_step is None:
        raise RlxError(status.damage or f"{folder}: has no readable status.json; restore it, or leave the run out")
    at = f"at step {status.run_step:,} of {plan.run_step(plan.iterations):,}"
    return f"still training, {at}" if status.state == "running" else f"{status.state} {at}"


def time_split(summary: dict[str, Any], lines: Sequence[dict[str, Any]], settings: dict[str, Any]) -> dict[str, float]:
    """Seconds of a run by what the host waited for; their sum is the wall time. Empty where none were recorded."""
    learn = "collect and learn" if settings.get("total_env_steps") else "learn"
    if learn != "learn" and settings.get("offline_steps"):
        learn = "learn, offline and then online"
    names = {"compile_s": "compile", "train_s": learn, "evaluate_s": "evaluate"}
    seconds = {
        name: sum(line.get(key) or 0.0 for line in lines)
        for key, name in names.items()
        if any(key in line for line in lines)
    }
    if seconds and "save_blocked_s" in summary:
        seconds["save"] = float(summary["save_blocked_s"])
    if seconds and "wall_time_s" in summary:
        seconds["start and other"] = max(0.0, float(summary["wall_time_s"]) - sum(seconds.values()))
    return seconds


def busy(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The share of an iteration in which each role of a pipeline worked; empty for other drivers."""
    timed = [line for line in lines if line.get("train/iteration_s")]
    if not timed:
        return {}
    roles = [key for key in timed[0] if key.startswith("train/busy_")]
    logged = [line for line in timed if all(line.get(key) is not None for key in roles)]
    names = {key: key.removeprefix("train/busy_").removesuffix("_s") for key in roles}
    return {
        name: sum(line[key] / line["train/iteration_s"] for line in logged) / len(logged) for key, name in names.items()
    }


def settings_table(runs: Sequence[Run]) -> tuple[list[list[str]], list[list[str]]]:
    """Settings by run and their defaults, headings first: those that some run changed, and the rest.

    An unknown agent has no defaults: all its settings count as changed.
    """
    defaults = [_defaults(run.content["agent"]) for run in runs]
    head = ["setting", *(run.name for run in runs), "default"]
    changed, rest = [head], [head]
    for name in dict.fromkeys(name for run in runs for name in run.content["settings"]):
        row, usual = [name], [_text(known[name]) for known in defaults if name in known]
        for run, known in zip(runs, defaults, strict=True):
            text = _text(run.content["settings"][name]) if name in run.content["settings"] else "-"
            is_default = text == "-" or (name in known and text == _text(known[name]))
            row.append(text if is_default else Cell(text))
        row.append(" / ".join(dict.fromkeys(usual)) or "-")
        (changed if any(isinstance(text, Cell) for text in row) else rest).append(row)
    return changed, rest


def _defaults(agent: str) -> dict[str, Any]:
    try:
        return {name: setting.default for name, setting in config.settings(agent).items()}
    except RlxError:
        return {}


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(_text, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def origin_table(runs: Sequence[Run]) -> list[list[str]]:
    """Agent, environment, versions and hardware: a row each, with a cell for every run."""
    columns = []
    for run in runs:
        content = run.content
        origin = {name: content.get(name) for name in ("agent", "env", "backend", "init_from") if content.get(name)}
        versions = dict(content.get("versions", {}))
        if commit := versions.pop("commit", ""):
            origin["commit"] = commit[:12] + "-dirty" * commit.endswith("-dirty")
        columns.append(origin | versions | content.get("hardware", {}))
    names = list(dict.fromkeys(name for column in columns for name in column))
    return [[name, *(str(column.get(name, "-")) for column in columns)] for name in names]
