"""Compares runs: final returns with intervals, probability of improvement, and steps and seconds to thresholds."""

from __future__ import annotations

import csv
import io
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlx import config
from rlx.analysis import run_files
from rlx.envs import no_env
from rlx.errors import RlxError, nearest, say
from rlx.runs.folders import status
from rlx.statistics import Interval, bootstrap_interval, interquartile_mean, probability_of_improvement

FORMATS = ("table", "md", "csv")
FEW_SEEDS = 5  # with fewer, a note warns the reader
SHARES = (0.5, 0.9)  # default thresholds, as shares of the way from the first evaluation to the best run's last
EVAL = "eval/return_per_seed"


class Curve(NamedTuple):
    """The S seeds of one combination of a run's hyper-parameters, at T evaluations."""

    name: str
    steps: np.ndarray  # [T] `run_step`: environment steps of one seed (offline: updates)
    wall_s: np.ndarray  # [T] seconds since the run began, of all its seeds together
    values: np.ndarray  # [T, S]


class Row(NamedTuple):
    """The statistics of one curve."""

    name: str
    seeds: int
    steps: int
    wall_s: float
    mean: float  # of the last values
    iqm: Interval  # of the last values
    reached: tuple[tuple[int, float] | None, ...]  # steps and seconds to each threshold


class Comparison(NamedTuple):
    """Several curves in one environment."""

    thresholds: tuple[float, ...]
    rows: list[Row]
    improvement: dict[tuple[str, str], Interval]  # (X, Y): probability that a seed of X ends above one of Y
    default_thresholds: bool  # whether they follow from the curves


def read(folders: Sequence[Path], metric: str = "eval", unfinished: bool = False) -> list[Curve]:
    """The curves of runs, one for each combination of hyper-parameters that a run trained.

    `metric` is `eval`, the greedy return, or a name in metrics.jsonl that has a value for every seed. A curve whose
    last value is not finite is left out with a warning. Raises RlxError for runs that are unfinished (unless
    `unfinished`), lack the metric, are given twice or are of different environments, and where no curve is left.
    """
    summaries: dict[Path, dict[str, Any]] = {}
    for i, folder in enumerate(folders):
        if os.path.realpath(folder) in map(os.path.realpath, folders[:i]):  # Path.resolve raises for a link to itself
            raise RlxError(f"{folder}: is given twice; name each run once")
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
    if (folder / "sweep.json").is_file():
        return f"it is a sweep: give the runs in it, such as {folder / 'chunk-0'}"
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
    for i, label in enumerate(config.told_apart(members)):
        groups.setdefault(" ".join(filter(None, (name, label))), []).append(i)
    return [Curve(label, steps, wall_s, values[:, who]) for label, who in groups.items()]


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


def compare(curves: Sequence[Curve], thresholds: Sequence[float] | None = None) -> Comparison:
    """Last values with 95 % bootstrap intervals over seeds, probabilities of improvement, and when thresholds are met.

    A threshold is met at the first evaluation whose interquartile mean over seeds reaches it. Default thresholds are
    `SHARES` of the way from the lowest first to the highest last interquartile mean, which suits negative returns too.
    Raises RlxError for a threshold that is not finite.
    """
    if thresholds is not None and not np.isfinite(thresholds).all():
        raise RlxError("--thresholds: must be finite numbers")
    iqms = [interquartile_mean(curve.values) for curve in curves]  # [T] each
    by_default = thresholds is None
    if thresholds is None:
        low, high = min(iqm[0] for iqm in iqms), max(iqm[-1] for iqm in iqms)
        thresholds = [low + share * (high - low) for share in SHARES] if high > low else []
    rows = []
    for curve, iqm in zip(curves, iqms, strict=True):
        last = curve.values[-1]
        met = tuple(_first(curve, iqm >= threshold) for threshold in thresholds)
        interval = bootstrap_interval(last)
        steps, wall_s = int(curve.steps[-1]), float(curve.wall_s[-1])
        rows.append(Row(curve.name, len(last), steps, wall_s, float(last.mean()), interval, met))
    improvement = {
        (x.name, y.name): probability_of_improvement(x.values[-1], y.values[-1])
        for x in curves
        for y in curves
        if x.name != y.name
    }
    return Comparison(tuple(map(float, thresholds)), rows, improvement, by_default)


def _first(curve: Curve, met: np.ndarray) -> tuple[int, float] | None:
    """Steps and seconds at the first evaluation where `met` `[T]` holds."""
    moment = int(met.argmax())
    return (int(curve.steps[moment]), float(curve.wall_s[moment])) if met[moment] else None


def text(comparison: Comparison, format: str = "table") -> str:
    """A comparison to print: aligned columns, Markdown, or CSV with all digits.

    A threshold never reached is "-", in CSV empty. A single seed has no interval; CSV gives it one of width 0.
    """
    if format == "csv":
        return _csv(comparison)
    layout = _markdown if format == "md" else aligned
    remarks = "\n".join(notes(comparison))
    return "\n\n".join([*(layout(table) for table in tables(comparison)), *([remarks] if remarks else [])])


def notes(comparison: Comparison) -> list[str]:
    """Caveats of a comparison."""
    remarks = []
    fewest = min(row.seeds for row in comparison.rows)
    if 1 < fewest < FEW_SEEDS:
        remarks.append(f"{fewest} seeds are few: intervals and probabilities are rough; use {FEW_SEEDS} or more.")
    if len({row.steps for row in comparison.rows}) > 1:
        remarks.append("The runs are not equally long; mean, IQM and probabilities use the last evaluation of each.")
    if comparison.thresholds and comparison.default_thresholds:
        shares = " and ".join(f"{share:.0%}" for share in SHARES)
        remarks.append(f"Thresholds: {shares} of the way from the lowest first to the highest last IQM of all.")
    return remarks


def tables(comparison: Comparison) -> list[list[list[str]]]:
    """A comparison as tables of cells, headings first: one of the curves and, for several, one of the pairs."""
    columns = [f"{what} to {_number(x)}" for x in comparison.thresholds for what in ("steps", "s")]
    table = [["run", "seeds", "steps", "s", "mean", "IQM", "95 % over seeds", *columns]]
    for row in comparison.rows:
        figures = [str(row.seeds), f"{row.steps:,}", f"{row.wall_s:.1f}", _number(row.mean), _number(row.iqm.estimate)]
        spread = f"{_number(row.iqm.low)} to {_number(row.iqm.high)}" if row.seeds > 1 else "-"
        reached = [cell for met in row.reached for cell in ((f"{met[0]:,}", f"{met[1]:.1f}") if met else ("-", "-"))]
        table.append([row.name, *figures, spread, *reached])
    if len(comparison.rows) == 1:
        return [table]
    pairs = [["P(row ends above column)", *(row.name for row in comparison.rows)]]
    pairs += [[x.name, *(_probability(comparison, x, y) for y in comparison.rows)] for x in comparison.rows]
    return [table, pairs]


def _probability(comparison: Comparison, x: Row, y: Row) -> str:
    if x is y:
        return "-"
    p = comparison.improvement[x.name, y.name]
    return f"{p.estimate:.2f}" + (
        f" ({p.low:.2f} to {p.high:.2f})" if min(x.seeds, y.seeds) > 1 else ""
    )  # one seed has no spread


def _csv(comparison: Comparison) -> str:
    names = [row.name for row in comparison.rows]
    head = ["run", "seeds", "steps", "wall_s", "mean", "iqm", "iqm_low", "iqm_high"]
    head += [f"{what}_to_{threshold:g}" for threshold in comparison.thresholds for what in ("steps", "wall_s")]
    head += [f"above {name}{end}" for name in names for end in ("", " low", " high")]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    for row in comparison.rows:
        cells: list[Any] = [*row[:5], *row.iqm]
        for met in row.reached:
            cells += met or ("", "")
        for name in names:
            cells += comparison.improvement.get((row.name, name), ("", "", ""))
        writer.writerow(cells)
    return buffer.getvalue().rstrip("\n")


def _number(x: float) -> str:
    return f"{x:.1f}" if abs(x) >= 10 else f"{x:.3g}"


def aligned(table: Iterable[Sequence[str]]) -> str:
    """Rows of cells as lines of text: the first column left-aligned, the others right-aligned."""
    rows = list(table)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    )
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _markdown(table: Iterable[Sequence[str]]) -> str:
    head, *rows = table
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
