"""The page of `benchmarks.ope`: how far every estimator was from the truth, and what choosing by it gained."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rlx.ope import selection
from rlx.statistics import Interval
from rlx.visual import plots

K, DEFAULT = 3, "STAR 50 5"  # policies that SharpeRatio@k chooses, and STAR's default
Row = dict[str, Any]
Measure = Callable[[np.ndarray, np.ndarray, float], float]
MEASURES: dict[str, tuple[str, Measure]] = {
    "Relative MSE": (
        "mean squared error over the variance of the true values: below 1, estimates tell policies apart",
        lambda x, y, _: selection.relative_mse(x, y),
    ),
    "Rank correlation": ("Spearman's; 0 where all estimates are equal", lambda x, y, _: rank(x, y)),
    "Regret@1": (
        "what the policy with the highest estimate is worth less than the best, in shares of the true values' range",
        lambda x, y, _: selection.regret(x, y) / float(np.ptp(y)),
    ),
    f"SharpeRatio@{K}": (
        f"max(best@{K} - J(behaviour), 0) / std@{K}; 0 where the best policy has collected",
        lambda x, y, behaviour: selection.sharpe_ratio(x, y, K, behaviour),
    ),
}


def rank(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.nan_to_num(selection.rank_correlation(x, y)))


def values(row: Row, truth: dict[str, Any]) -> tuple[np.ndarray, float]:
    """True values in the order of the estimates, and that of the behaviour policy."""
    of_task = truth[row["task"]]
    return np.array(list(of_task["values"].values())), of_task["values"][of_task["behaviours"][row["data"]]]


def measured(rows: Iterable[Row], truth: dict[str, Any], name: str, measure: Measure) -> float:
    """One measure of one estimator, averaged over data sets."""
    found = []
    for row in rows:
        true, behaviour = values(row, truth)
        found.append(measure(np.array(row["estimates"][name]), true, behaviour))
    return float(np.mean(found))


def key_of(row: Row) -> tuple[str, str, int, int]:
    """What tells a row from others."""
    return row["task"], row["data"], row["episodes"], row["set"]


def cases(rows: list[Row]) -> dict[tuple[str, str, int], list[Row]]:
    """Data sets by task, behaviour policy and size, in their order."""
    grouped: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row["task"], row["data"], row["episodes"]), []).append(row)
    return grouped


def last_changes(rows: list[Row]) -> list[str]:
    """How much values still changed when their learning ended, case by case."""
    lines = ["| task | data | episodes | change |", "| --- | --- | ---: | ---: |"]
    for (task, quality, episodes), found in cases(rows).items():
        change = float(np.mean([row["change"] for row in found]))
        lines.append(f"| {task} | {quality} | {episodes:,} | {_number(change)} |")
    return lines


def is_star(name: str) -> bool:
    return name.startswith("STAR ")


def shown(rows: list[Row]) -> list[str]:
    """Estimators with a line: of STAR's the default."""
    return [name for name in rows[0]["estimates"] if not is_star(name) or name == DEFAULT]


def tables(results: dict[str, Any]) -> list[str]:
    """A table for each measure and size of data set: estimators by task and behaviour policy."""
    lines: list[str] = []
    grouped = cases(results["rows"])
    for title, (meaning, measure) in MEASURES.items():
        lines += [f"## {title}", "", f"{meaning[0].upper()}{meaning[1:]}.", ""]
        for episodes in sorted({case[2] for case in grouped}):
            columns = {case: rows for case, rows in grouped.items() if case[2] == episodes}
            sets = sorted({len(rows) for rows in columns.values()})
            several = " to ".join(dict.fromkeys([f"{sets[0]}", f"{sets[-1]}"]))
            lines += [f"{episodes:,} episodes, data sets of each case: {several}.", ""]
            lines += ["| estimator | " + " | ".join(f"{task} {quality}" for task, quality, _ in columns) + " |"]
            lines += ["| --- |" + " ---: |" * len(columns)]
            for name in shown(results["rows"]):
                cells = [_number(measured(rows, results["truth"], name, measure)) for rows in columns.values()]
                lines.append(f"| {name.replace(DEFAULT, 'STAR')} | " + " | ".join(cells) + " |")
            lines.append("")
    return lines


def star_wins(results: dict[str, Any]) -> list[str]:
    """Whether the best and the median of STAR's variants have less error than every other estimator, case by case.

    H54 is of 12 cases: three tasks, data of the poor and of the good policy, 100 and 1,000 episodes.
    """
    error = MEASURES["Relative MSE"][1]
    lines = ["| task | data | episodes | best of STAR | median of STAR | best of the others |"]
    lines += ["| --- | --- | ---: | ---: | ---: | ---: |"]
    won = {True: np.zeros(3, int), False: np.zeros(3, int)}  # of the 12, of the others: cases, best, median
    for (task, quality, episodes), rows in cases(results["rows"]).items():
        errors = {name: measured(rows, results["truth"], name, error) for name in rows[0]["estimates"]}
        star = np.array([x for name, x in errors.items() if is_star(name)])
        name, other = min(((n, x) for n, x in errors.items() if not is_star(n)), key=lambda pair: pair[1])
        of_twelve = quality != "medium" and episodes <= 1_000
        won[of_twelve] += [1, star.min() < other, np.median(star) < other]
        cells = _number(star.min()), _number(float(np.median(star))), f"{_number(other)} ({name})"
        lines.append(f"| {task} | {quality} | {episodes:,} | " + " | ".join(cells) + " |")
    (total, best, median), others = won[True], won[False]
    words = "Relative MSE. With data of the poor and of the good policy, 100 and 1,000 episodes, the best variant wins"
    words += f" in {best} of {total} cases, the median in {median}."
    words += f" In the other {others[0]} cases, they win in {others[1]} and {others[2]}."
    return [*textwrap.wrap(words, 118), "", *lines, ""]


def picture(results: dict[str, Any], path: Path) -> None:
    """The median relative MSE over all cases, and its quartiles, of every estimator."""
    bars = {}
    for name in shown(results["rows"]):
        error = MEASURES["Relative MSE"][1]
        x = np.log10([measured(rows, results["truth"], name, error) for rows in cases(results["rows"]).values()])
        low, middle, high = np.quantile(np.minimum(x, 3), [0.25, 0.5, 0.75])
        bars[name.replace(DEFAULT, "STAR")] = Interval(float(middle), float(low), float(high))
    plots.save(plots.intervals(bars, "log10 of the relative MSE: median and quartiles of all cases"), path)


def write(results: dict[str, Any], folder: Path) -> Path:
    """`ope.md` and its picture."""
    rows = results["rows"]
    picture(results, folder / "ope.png")
    path = folder / "ope.md"
    seconds = sum(row["seconds"] for row in rows)
    lines = [
        "# Off-policy estimates against the truth",
        "",
        "Made by `python -m benchmarks.ope --out benchmarks/results`, which goes on where it was stopped, with the",
        "data sets that are missing here (`TASKS` of [ope.py](../ope.py) lists them all). Ten",
        "checkpoints of SAC on each task are evaluated from episodes of three of them: of ten, ordered by their true",
        "values, the third, the sixth and the best. Episodes end after 100 steps, gamma is 0.97, and the truth is the",
        "mean of 4,096 simulated episodes, on the hopper of 1,024, which is as much as its simulation on a CPU allows.",
        f"{len(rows)} data sets took {seconds / 60:.0f} minutes of one core. Rows: [ope.json](ope.json).",
        "",
        "![Relative MSE by estimator](ope.png)",
        "",
        "| task | true values of the candidates, by step | poor, medium, good |",
        "| --- | --- | --- |",
    ]
    for task, known in results["truth"].items():
        listed = ", ".join(f"{step}: {value:.4g}" for step, value in known["values"].items())
        collected = ", ".join(known["behaviours"].get(q, "-") for q in ("poor", "medium", "good"))
        lines.append(f"| {task} | {listed} | {collected} |")
    lines += ["", *tables(results)]
    lines += [
        "## Whether values settled",
        "",
        "The largest change of DM over the candidates in the last quarter of the updates, in deviations of the data's",
        "returns, or hundredths of the largest where they hardly vary; `rlx ope` warns above 0.1.",
        "",
        *last_changes(rows),
        "",
    ]
    lines += ["## STAR's family (H54)", ""]
    number = len([name for name in rows[0]["estimates"] if is_star(name)])
    lines += [
        f"{number} variants, of 20, 50 and 100 clusters and windows of 1, 5 and 20 steps. What they err by:",
        "`python -m benchmarks.ope_star`, on the [page](../../docs/ope.md#results) of the documentation.",
        "",
        *star_wins(results),
        *dict.fromkeys(row["made"] for row in rows),
    ]
    path.write_text("\n".join(itertools.chain(lines)).rstrip() + "\n")
    return path


def _number(x: float) -> str:
    return f"{x:.2g}" if abs(x) < 100 else f"{min(x, 1e9):.0f}" if x < 1e5 else f"{x:.0e}"
