"""Compares runs: final returns with intervals, probability of improvement, and steps and seconds to thresholds."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlx.analysis.curves import Curve
from rlx.errors import RlxError
from rlx.statistics import Interval, bootstrap_interval, interquartile_mean, probability_of_improvement

FORMATS = ("table", "md", "csv")
FEW_SEEDS = 5  # with fewer, a note warns the reader
SHARES = (0.5, 0.9)  # default thresholds, as shares of the way from the first evaluation to the best run's last


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
    layout = markdown if format == "md" else aligned
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


def markdown(table: Iterable[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table: the first is the head, the first column left-aligned."""
    head, *rows = table
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
