"""What a run folder says of its run, as numbers and as tables: seconds, settings, versions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlx import config, experiment, json_files
from rlx.analysis import compare
from rlx.errors import RlxError
from rlx.runs import folders, metrics
from rlx.visual.markup import Cell


class Run(NamedTuple):
    """What a run folder says."""

    name: str
    folder: Path
    content: dict[str, Any]  # config.json
    summary: dict[str, Any]
    lines: list[dict[str, Any]]  # metrics.jsonl
    unfinished: str = ""  # where it stands, in words


def read(folder: Path, name: str) -> Run:
    """Reads the folder of a run that was evaluated. Raises RlxError where a file is damaged."""
    content = json_files.read(folder / "config.json")
    for key, kind in (("agent", str), ("settings", dict)):
        if not isinstance(content.get(key), kind):
            raise RlxError(f"{folder / 'config.json'}: has no {key!r}; restore it from a copy, or leave the run out")
    lines, summary = metrics.read(folder / "metrics.jsonl"), compare.summary_of(folder, unfinished=True)
    if (folder / "summary.json").is_file():
        return Run(name, folder, content, summary, lines)
    return Run(name, folder, content, summary | {"wall_time_s": lines[-1]["wall_time_s"]}, lines, _stand(folder))


def _stand(folder: Path) -> str:
    """Where an unfinished run stands, in words."""
    found, plan = folders.standing(folder), experiment.final_plan(config.from_json(folder / "config.json"))
    at = f"at step {found.run_step:,} of {plan.run_step(plan.iterations):,}"
    return f"still training, {at}" if found.state == "running" else f"{found.state} {at}"


def time_split(summary: dict[str, Any], lines: Sequence[dict[str, Any]], settings: dict[str, Any]) -> dict[str, float]:
    """Seconds of a run by what its host waited for; they add up to its wall time. Empty where none were recorded."""
    learn = "collect and learn" if settings.get("total_env_steps") else "learn"
    if learn != "learn" and settings.get("offline_steps"):
        learn = "learn, offline and then online"
    names = {"compile_s": "compile", "train_s": learn, "evaluate_s": "evaluate"}
    found = {
        name: sum(line.get(key) or 0.0 for line in lines)
        for key, name in names.items()
        if any(key in line for line in lines)
    }
    if found and "save_blocked_s" in summary:
        found["save"] = float(summary["save_blocked_s"])
    if found and "wall_time_s" in summary:
        found["start and the rest"] = max(0.0, float(summary["wall_time_s"]) - sum(found.values()))
    return found


def busy(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The share of an iteration in which each role of a pipeline worked, by role; empty where one program has no
    roles."""
    told = [line for line in lines if line.get("train/iteration_s")]
    if not told:
        return {}
    roles = [key for key in told[0] if key.startswith("train/busy_")]
    names = {key: key.removeprefix("train/busy_").removesuffix("_s") for key in roles}
    return {
        name: sum(line[key] / line["train/iteration_s"] for line in told) / len(told) for key, name in names.items()
    }


def settings_table(runs: Sequence[Run]) -> tuple[list[list[str]], list[list[str]]]:
    """Settings by run and their defaults, headings first: those that some run changed, and the others.

    An agent that is not known here has no defaults: all its settings count as changed.
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
    told = []
    for run in runs:
        content = run.content
        about = {name: content.get(name) for name in ("agent", "env", "backend", "init_from") if content.get(name)}
        versions = dict(content.get("versions", {}))
        if commit := versions.pop("commit", ""):
            about["commit"] = commit[:12] + "-dirty" * commit.endswith("-dirty")
        told.append(about | versions | content.get("hardware", {}))
    names = list(dict.fromkeys(name for one in told for name in one))
    return [[name, *(str(one.get(name, "-")) for one in told)] for name in names]
