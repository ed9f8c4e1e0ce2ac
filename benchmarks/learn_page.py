"""The table, the pictures and the page of `make bench-learn`, from the runs that it kept."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import tables
from benchmarks.learn_settings import TASKS
from rlx.statistics import bootstrap_interval
from rlx.visual import plots

Curve = list[dict[str, float]]
Runs = list[dict[str, Any]]


def first(curve: Curve, goal: float) -> dict[str, float] | None:
    """The evaluation that first reached `goal`."""
    return next((point for point in curve if point["value"] >= goal), None)


def table(runs: Runs) -> str:
    """A row for each task and side: final return, steps made, and seconds and steps to the goal, over seeds."""
    head = [
        "task",
        "side",
        "seeds",
        "return at the end",
        "steps made",
        "goal",
        "reached",
        "seconds to it",
        "steps to it",
    ]
    lines = [tables.line(head), tables.line(["---"] * len(head))]
    for task in _in_order({run["task"] for run in runs}, TASKS):
        for side in dict.fromkeys(run["side"] for run in runs if run["task"] == task):
            lines.append(tables.line(_row(task, side, [r for r in runs if (r["task"], r["side"]) == (task, side)])))
    return "\n".join(lines)


def _row(task: str, side: str, runs: Runs) -> list[str]:
    curves, goal = [run["curve"] for run in runs if run["curve"]], TASKS[task].goal
    if not curves:
        return [task, side, f"{len(runs)}", "no evaluation in time", "-", f"{goal:,.0f}", f"0 of {len(runs)}", "-", "-"]
    reached = [point for point in (first(curve, goal) for curve in curves) if point]
    final = [curve[-1]["value"] for curve in curves]
    cells = [
        task,
        side,
        f"{len(runs)}",
        _interval(final),
        _median([c[-1]["env_steps"] for c in curves]),
        f"{goal:,.0f}",
    ]
    times = [_median([point[what] for point in reached]) for what in ("cpu_s", "env_steps")]
    return [*cells, f"{len(reached)} of {len(runs)}", *times]


def _interval(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:,.0f}"
    interval = bootstrap_interval(values)
    return f"{interval.estimate:,.0f} ({interval.low:,.0f} to {interval.high:,.0f})"


def _median(values: list[float]) -> str:
    """Median and range; nothing for no values."""
    if len(values) < 2:
        return f"{values[0]:,.0f}" if values else "-"
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def _in_order(names: set[str], order: Any) -> list[str]:
    return [name for name in order if name in names]


def series(runs: Runs, what: str, points: int = 60) -> list[plots.Series]:
    """Every side's returns `[T, S]` at common moments of `what`, cpu_s or env_steps: those of the last evaluation."""
    made = []
    for side in dict.fromkeys(run["side"] for run in runs):
        curves = [run["curve"] for run in runs if run["side"] == side and run["curve"]]
        if not curves:
            continue
        begin, end = max(c[0][what] for c in curves), min(c[-1][what] for c in curves)
        moments = np.linspace(begin, max(begin, end), points if len(curves) > 1 else 2)
        if len(curves) == 1:
            moments = np.array([point[what] for point in curves[0]])
        last = [[np.searchsorted([p[what] for p in c], m, side="right") - 1 for m in moments] for c in curves]
        returns = [[c[max(i, 0)]["value"] for i in of] for c, of in zip(curves, last, strict=True)]
        made.append(plots.Series(side, moments, np.transpose(returns)))
    return made


def write(runs: Runs, folder: Path) -> Path:
    """The page and its pictures, of each task's returns against seconds and against steps; returns the page's path."""
    tasks = _in_order({run["task"] for run in runs}, TASKS)
    parts = [
        "# Learning, beside peers\n",
        "Made by `make bench-learn`; benchmarks/README.md says how. The return is that of 32 greedy episodes at the\n"
        "last evaluation before the time was over or, for `-ppo-cpu`, the steps were made; over several seeds the\n"
        "interquartile mean (the mean of fewer than four) with its 95 % bootstrap interval, little worth with so few\n"
        "seeds. Seconds are of the processor, on one core, and count from the process's start, compiling and\n"
        "evaluations included: medians and ranges over the seeds that reached the goal.\n",
        table(runs),
        "",
        *dict.fromkeys(tables.origin_of(run["made"]) for run in runs),
        "",
    ]
    for task in tasks:
        own = [run for run in runs if run["task"] == task]
        minutes = sorted({run["minutes"] for run in own})
        parts.append(f"## {task}, {' and '.join(f'{m:g}' for m in minutes)} minutes a run\n")
        for what, counted in (("cpu_s", "seconds"), ("env_steps", "environment steps")):
            lines = series(own, what)
            if lines:
                name = f"learn-{task}-{counted.split()[-1]}.png"
                plots.save(plots.curve(lines, counted, f"{task}: return against {counted}"), folder / name)
                parts.append(f"![{task}: return against {counted}]({name})")
        parts += ["", *_settings(own), ""]
    page = folder / "learn.md"
    page.write_text("\n".join(parts))
    return page


def _settings(runs: Runs) -> list[str]:
    """The settings of each side, once, and the returns of every run."""
    used = {run["side"]: run["settings"] for run in runs}
    lines = [f"- {side}: `{json.dumps(settings)}`" for side, settings in used.items()]
    for run in runs:
        course = ", ".join(f"{p['value']:.0f} at {p['env_steps']:,} ({p['cpu_s']:.0f} s)" for p in run["curve"])
        lines.append(f"- {run['side']}, seed {run['seed']}: {course or 'no evaluation in time'}")
    return lines
