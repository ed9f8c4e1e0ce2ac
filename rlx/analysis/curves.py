"""Learning curves read from the folders of runs, for comparisons and reports."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlx import config
from rlx.analysis import run_files
from rlx.envs import no_env
from rlx.errors import RlxError, nearest, say
from rlx.runs.folders import is_of_several_runs, status

EVAL = "eval/return_per_seed"


class Curve(NamedTuple):
    """The S seeds of one combination of a run's hyper-parameters, at T evaluations."""

    name: str
    steps: np.ndarray  # [T] `run_step`: environment steps of one seed (offline: updates)
    wall_s: np.ndarray  # [T] seconds since the run began, of all its seeds together
    values: np.ndarray  # [T, S]


def read(folders: Sequence[Path], metric: str = "eval", unfinished: bool = False) -> list[Curve]:
    """The curves of runs, one for each combination of hyper-parameters that a run trained.

    `metric` is `eval`, the greedy return, or a name in metrics.jsonl that has a value for every seed. A curve whose
    last value is not finite is left out with a warning. Raises RlxError for runs that are unfinished (unless
    `unfinished`), lack the metric, are named twice or are of different environments, and where no curve is left.
    """
    summaries: dict[Path, dict[str, Any]] = {}
    for i, folder in enumerate(folders):
        if os.path.realpath(folder) in map(os.path.realpath, folders[:i]):  # Path.resolve raises for a link to itself
            raise RlxError(f"{folder}: is named twice; name each run once")
        summaries[folder] = summary_of(folder, unfinished, EVAL if metric == "eval" else metric)
        _check_keys(folder / "summary.json", summaries[folder], "env", "backend", "members")
        if metric in ("eval", EVAL):
            _check_evaluates(folder, str(summaries[folder]["env"]))
    first, *others = ((folder, _environment(summary)) for folder, summary in summaries.items())
    for folder, env in others:
        if env != first[1]:
            raise RlxError(
                f"{folder}: is a run of {env}, and {first[0]} of {first[1]}; compare runs of one environment"
            )
    metric = EVAL if metric == "eval" else metric
    curves = [
        curve
        for (folder, summary), name in zip(summaries.items(), names(folders), strict=True)
        for curve in _curves(folder, name, summary["members"], metric)
    ]
    return _finite(curves, metric)


def is_evaluated(folder: Path) -> bool:
    """Whether a run has a line of metrics with an evaluation."""
    return folder.is_dir() and any(EVAL in line for line in run_files.lines(folder))


def summary_of(folder: Path, unfinished: bool, metric: str = EVAL) -> dict[str, Any]:
    """A run's summary; with `unfinished`, of an unfinished run the part of it that is known already.

    Raises RlxError for a run that is not finished, or (with `unfinished`) has no line with the metric yet.
    """
    if (folder / "summary.json").is_file():
        return run_files.summary(folder)
    has_begun = unfinished and (folder / "config.json").is_file()
    if has_begun:
        run_config = config.from_json(folder / "config.json")
        if metric == EVAL:
            _check_evaluates(folder, run_config.env)
        if any(metric in line for line in run_files.lines(folder)):
            return {
                "agent": run_config.agent,
                "env": run_config.env,
                "backend": run_config.backend,
                "members": config.members(run_config),
            }
    missing = "evaluation yet" if has_begun else "run" if unfinished else "finished run (no summary.json)"
    problem = f"holds no {missing}" if folder.exists() else "does not exist"
    raise RlxError(f"{folder}: {problem}; {_remedy(folder)}")


def _check_evaluates(folder: Path, env: str) -> None:
    """Raises RlxError for a run that has no environment."""
    if no_env.is_none(env):
        raise RlxError(
            f"{folder}: was trained on data without an environment, so there is nothing to evaluate in; see its"
            f" losses by `rlx report {shlex.quote(str(folder))}`, or rlx compare with --metric train/critic_loss"
        )


def _remedy(folder: Path) -> str:
    """What to do about a folder without a summary."""
    if (folder / "config.json").is_file():
        if status(folder).state == "running":
            return "it is still training; wait until it has finished"
        return f"resume it with `rlx train --resume {shlex.quote(str(folder))}`"
    if is_of_several_runs(folder):
        parts = [path.parent for path in sorted(folder.glob("*/config.json"))] or [folder / "chunk-0"]
        return f"it is a sweep or study: give the runs in it, such as {parts[0]}"
    return "give folders that `rlx train` made"


def _finite(curves: Sequence[Curve], metric: str) -> list[Curve]:
    """The curves whose last values are finite; warns of others. Raises RlxError where there is none."""
    finite = [curve for curve in curves if np.isfinite(curve.values[-1]).all()]
    if not finite:
        raise RlxError(f"{curves[0].name}: the last {metric} is not finite; there is no curve to compare")
    for curve in curves:
        if bad := int((~np.isfinite(curve.values[-1])).sum()):
            seeds = f"{bad} of {curve.values.shape[1]} seeds"
            say(f"rlx: {curve.name}: the last {metric} of {seeds} is not finite; left out")
    return finite


def names(folders: Sequence[Path]) -> list[str]:
    """Names of runs in a comparison: their folders' names, or full paths where two have the same name."""
    short = [folder.resolve().name for folder in folders]
    return [str(folder) if short.count(name) > 1 else name for folder, name in zip(folders, short, strict=True)]


def _environment(summary: dict[str, Any]) -> str:
    return str(summary["env"]) + (f" ({summary['backend']})" if summary["backend"] else "")


def _curves(folder: Path, name: str, members: list[dict[str, float]], metric: str) -> list[Curve]:
    lines = _lines(folder, metric, len(members))
    steps, wall_s = (np.asarray([line[key] for line in lines]) for key in ("run_step", "wall_time_s"))
    values = np.asarray([line[metric] for line in lines], np.float64)  # None, not a finite number, becomes NaN
    groups: dict[str, list[int]] = {}
    for i, label in enumerate(config.member_labels(members)):
        groups.setdefault(" ".join(filter(None, (name, label))), []).append(i)
    return [Curve(label, steps, wall_s, values[:, members_of_group]) for label, members_of_group in groups.items()]


def _lines(folder: Path, metric: str, members: int) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl with the metric. Raises RlxError, with the closest name, where there is none."""
    path, lines = folder / "metrics.jsonl", run_files.lines(folder)
    known = {key for line in lines for key, value in line.items() if isinstance(value, list) and len(value) == members}
    if metric not in known:
        close = nearest(metric, sorted(known), cutoff=0.0)
        hint = f"did you mean {close!r}?" if close else "it has no metric with a value per seed"
        raise RlxError(f"{folder}: has no {metric!r} per seed in metrics.jsonl; {hint}")
    with_metric = [line for line in lines if isinstance(line.get(metric), list) and len(line[metric]) == members]
    for line in with_metric:
        _check_keys(path, line, "run_step", "wall_time_s")
    return with_metric


def _check_keys(path: Path, content: dict[str, Any], *keys: str) -> None:
    """Raises RlxError where a file lacks a key, as files of an older rlx may."""
    missing = next((key for key in keys if key not in content), None)
    if missing is not None:
        raise RlxError(f"{path}: has no {missing!r}, since an older rlx wrote it; train again, or leave the run out")
