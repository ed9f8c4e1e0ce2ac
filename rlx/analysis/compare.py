"""Statistics between runs, from what they wrote: how good, how sure, how likely one beats another, how soon."""

from __future__ import annotations

import csv
import difflib
import io
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlx import config, json_files
from rlx.errors import RlxError, say
from rlx.runs import metrics
from rlx.runs.folders import standing
from rlx.statistics import Interval, bootstrap_interval, interquartile_mean, probability_of_improvement

FORMATS = ("table", "md", "csv")
ENOUGH = 5  # seeds, below which a reader is warned
SHARES = (0.5, 0.9)  # of the way from the first evaluation to the best run's last: where thresholds stand by default
EVAL = "eval/return_per_seed"


class Curve(NamedTuple):
    """The seeds of one combination of hyper-parameters of a run, at T moments."""

    name: str
    steps: np.ndarray  # [T] as `run_step` counts: environment steps of one seed (offline: updates)
    wall_s: np.ndarray  # [T] seconds since the run began, for all its seeds together
    values: np.ndarray  # [T, S]


class Row(NamedTuple):
    """What is said of one curve."""

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
    improvement: dict[tuple[str, str], Interval]  # (X, Y): how likely a seed of X ends above one of Y
    chosen: bool  # whether the thresholds were given, and do not follow from the curves


def read(folders: Sequence[Path], metric: str = "eval", unfinished: bool = False) -> list[Curve]:
    """The curves of runs, one for each combination of hyper-parameters that a run trained.

    `metric` is `eval`, the greedy return, or a name in metrics.jsonl that has a value for every seed. A curve that ends
    as no finite number is left out, and that is said. Raises RlxError for runs that are not finished (unless those are
    welcome, too), lack the metric, are given twice or are of different environments, and where no curve is left.
    """
    summaries: dict[Path, dict[str, Any]] = {}
    for i, folder in enumerate(folders):
        if folder.resolve() in (other.resolve() for other in folders[:i]):
            raise RlxError(f"{folder}: is given twice; name each run once")
        summaries[folder] = summary_of(folder, unfinished)
        _demand(folder / "summary.json", summaries[folder], "env", "backend", "members")
    first, *others = ((folder, _environment(summary)) for folder, summary in summaries.items())
    for folder, env in others:
        if env != first[1]:
            raise RlxError(f"{folder}: is of {env} but {first[0]} of {first[1]}; compare runs of one environment")
    metric = EVAL if metric == "eval" else metric
    curves = [
        curve
        for (folder, summary), name in zip(summaries.items(), names(folders), strict=True)
        for curve in _curves(folder, name, summary["members"], metric)
    ]
    return _finite(curves, metric)


def summary_of(folder: Path, unfinished: bool) -> dict[str, Any]:
    """A run's summary; of one that is not finished, where those are welcome, what is known of it by then.

    Raises RlxError for one that is not finished, or (where those are welcome) was not evaluated yet.
    """
    if (folder / "summary.json").is_file():
        return json_files.read(folder / "summary.json")
    has_begun = unfinished and (folder / "config.json").is_file()
    if has_begun and any(EVAL in line for line in _written(folder)):
        asked = config.from_json(folder / "config.json")
        return {"agent": asked.agent, "env": asked.env, "backend": asked.backend, "members": config.members(asked)}
    lacking = "evaluation yet" if has_begun else "run" if unfinished else "finished run (no summary.json)"
    found = f"holds no {lacking}" if folder.exists() else "is not there"
    raise RlxError(f"{folder}: {found}; {_remedy(folder)}")


def _remedy(folder: Path) -> str:
    """What to do about a folder without a summary."""
    if (folder / "config.json").is_file():
        if standing(folder).state == "running":
            return "it is still training; wait for it"
        return f"go on with `rlx train --resume {shlex.quote(str(folder))}`"
    if (folder / "sweep.json").is_file():
        return f"it is a sweep: give its parts, such as {folder / 'chunk-0'}"
    return "give folders that `rlx train` made"


def _written(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return metrics.read(path) if path.is_file() else []


def _finite(curves: Sequence[Curve], metric: str) -> list[Curve]:
    """The curves whose seeds all ended as finite numbers; says which do not. Raises RlxError where none does."""
    kept = [curve for curve in curves if np.isfinite(curve.values[-1]).all()]
    if not kept:
        raise RlxError(f"{curves[0].name}: {metric} ended as no finite number; there is no curve to compare")
    for curve in curves:
        if bad := int((~np.isfinite(curve.values[-1])).sum()):
            seeds = f"{bad} of {curve.values.shape[1]} seeds"
            say(f"rlx: {curve.name}: {metric} of {seeds} ended as no finite number; left out")
    return kept


def names(folders: Sequence[Path]) -> list[str]:
    """What runs are called beside each other: their folders' names, or whole paths where two have one name."""
    found = [folder.resolve().name for folder in folders]
    return [str(folder) if found.count(name) > 1 else name for folder, name in zip(folders, found, strict=True)]


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
    """The lines of metrics.jsonl that have the metric. Raises RlxError, with the nearest name, where none has."""
    path, lines = folder / "metrics.jsonl", _written(folder)
    known = {key for line in lines for key, value in line.items() if isinstance(value, list) and len(value) == members}
    if metric not in known:
        close = difflib.get_close_matches(metric, sorted(known), n=1, cutoff=0.0)
        hint = f"the nearest is {close[0]!r}" if close else "it has no number for each seed at all"
        raise RlxError(f"{folder}: has no {metric!r} for each seed in metrics.jsonl; {hint}")
    found = [line for line in lines if metric in line]
    _demand(path, found[0], "run_step", "wall_time_s")
    return found


def _demand(path: Path, content: dict[str, Any], *keys: str) -> None:
    """Raises RlxError where a file lacks a key, as those of an rlx before it had that one do."""
    missing = next((key for key in keys if key not in content), None)
    if missing is not None:
        raise RlxError(f"{path}: has no {missing!r}, an older rlx wrote it; train again, or leave the run out")


def compare(curves: Sequence[Curve], thresholds: Sequence[float] | None = None) -> Comparison:
    """Last values with 95 % bootstrap intervals over seeds, improvement of each on each, and when thresholds are met.

    A threshold is met at the first moment whose interquartile mean over seeds is no lower. By default they stand at
    `SHARES` of the way from the lowest first to the highest last interquartile mean, so that returns may be negative.
    Raises RlxError for a threshold that is no finite number.
    """
    if thresholds is not None and not np.isfinite(thresholds).all():
        raise RlxError("--thresholds: must be finite numbers, returns that a run might reach")
    middles = [interquartile_mean(curve.values) for curve in curves]  # [T] each
    chosen = thresholds is not None
    if thresholds is None:
        low, high = min(middle[0] for middle in middles), max(middle[-1] for middle in middles)
        thresholds = [low + share * (high - low) for share in SHARES] if high > low else []
    rows = []
    for curve, middle in zip(curves, middles, strict=True):
        last = curve.values[-1]
        met = tuple(_first(curve, middle >= threshold) for threshold in thresholds)
        found = bootstrap_interval(last)
        steps, wall_s = int(curve.steps[-1]), float(curve.wall_s[-1])
        rows.append(Row(curve.name, len(last), steps, wall_s, float(last.mean()), found, met))
    improvement = {
        (x.name, y.name): probability_of_improvement(x.values[-1], y.values[-1])
        for x in curves
        for y in curves
        if x.name != y.name
    }
    return Comparison(tuple(map(float, thresholds)), rows, improvement, chosen)


def _first(curve: Curve, met: np.ndarray) -> tuple[int, float] | None:
    """Steps and seconds at the first moment where `met` `[T]`."""
    moment = int(met.argmax())
    return (int(curve.steps[moment]), float(curve.wall_s[moment])) if met[moment] else None


def text(found: Comparison, format: str = "table") -> str:
    """A comparison to print: aligned columns, Markdown, or CSV with all digits.

    What was never reached is "-", in CSV empty. One seed alone has no interval; CSV gives it one of no width.
    """
    if format == "csv":
        return _csv(found)
    lay = _markdown if format == "md" else aligned
    said = "\n".join(notes(found))
    return "\n\n".join([*(lay(table) for table in tables(found)), *([said] if said else [])])


def notes(found: Comparison) -> list[str]:
    """What to know before a comparison is believed."""
    said = []
    fewest = min(row.seeds for row in found.rows)
    if 1 < fewest < ENOUGH:
        said.append(f"{fewest} seeds are few: an interval or a chance from them is rough; {ENOUGH} or more say more.")
    if len({row.steps for row in found.rows}) > 1:
        said.append("The runs are not equally long; mean, IQM and chances are of the last evaluation of each.")
    if found.thresholds and not found.chosen:
        shares = " and ".join(f"{share:.0%}" for share in SHARES)
        said.append(f"Thresholds: {shares} of the way from the lowest first to the highest last IQM of all.")
    return said


def tables(found: Comparison) -> list[list[list[str]]]:
    """A comparison as rows of cells, headings first: what is said of each curve, and of several, each pair."""
    columns = [f"{what} to {_number(x)}" for x in found.thresholds for what in ("steps", "s")]
    table = [["run", "seeds", "steps", "s", "mean", "IQM", "95 % over seeds", *columns]]
    for row in found.rows:
        figures = [str(row.seeds), f"{row.steps:,}", f"{row.wall_s:.1f}", _number(row.mean), _number(row.iqm.estimate)]
        spread = f"{_number(row.iqm.low)} to {_number(row.iqm.high)}" if row.seeds > 1 else "-"
        reached = [cell for met in row.reached for cell in ((f"{met[0]:,}", f"{met[1]:.1f}") if met else ("-", "-"))]
        table.append([row.name, *figures, spread, *reached])
    if len(found.rows) == 1:
        return [table]
    pairs = [["P(row ends above column)", *(row.name for row in found.rows)]]
    pairs += [[x.name, *(_chance(found, x, y) for y in found.rows)] for x in found.rows]
    return [table, pairs]


def _chance(found: Comparison, x: Row, y: Row) -> str:
    if x is y:
        return "-"
    p = found.improvement[x.name, y.name]
    return f"{p.estimate:.2f}" + (
        f" ({p.low:.2f} to {p.high:.2f})" if min(x.seeds, y.seeds) > 1 else ""
    )  # one seed has no spread


def _csv(found: Comparison) -> str:
    names = [row.name for row in found.rows]
    head = ["run", "seeds", "steps", "wall_s", "mean", "iqm", "iqm_low", "iqm_high"]
    head += [f"{what}_to_{threshold:g}" for threshold in found.thresholds for what in ("steps", "wall_s")]
    head += [f"above {name}{end}" for name in names for end in ("", " low", " high")]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    for row in found.rows:
        cells: list[Any] = [*row[:5], *row.iqm]
        for met in row.reached:
            cells += met or ("", "")
        for name in names:
            cells += found.improvement.get((row.name, name), ("", "", ""))
        writer.writerow(cells)
    return buffer.getvalue().rstrip("\n")


def _number(x: float) -> str:
    return f"{x:.1f}" if abs(x) >= 10 else f"{x:.3g}"


def aligned(table: Iterable[Sequence[str]]) -> str:
    """Rows of cells as lines of text: the first column to the left, others to the right."""
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
