"""The table of a finished study: a row for each task, with every agent and the policies that collected the data."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlx import config, json_files, statistics
from rlx.analysis import compare
from rlx.errors import RlxError
from rlx.sweeps import bandit
from rlx.sweeps.study import Cell, Study, save


class Result(NamedTuple):
    """What an agent is worth on a task, after a number of evaluations."""

    task: str
    digest: str  # of the data set, or empty
    agent: str
    settings: int  # that were trained
    evaluations: int  # episodes that chose among them; 0 of one setting
    unit: str  # score (random 0, expert 100) or return
    iqm: statistics.Interval  # over seeds, resampled
    mean: float
    data: float | None  # what the policies that collected the data returned as they acted then
    greedy: float | None  # and the best of them, greedily
    per_seed: list[float]
    chosen: list[float]  # how often each setting was, over seeds


def results(study: Study, folder: Path) -> list[Result]:
    """Every agent on every task at every number of evaluations, by the last policies of its run."""
    return [_result(study, cell, folder, count) for count in study.evaluations or (0,) for cell in study.cells]


def _result(study: Study, cell: Cell, folder: Path, count: int) -> Result:
    path = folder / cell.name / "summary.json"
    summary = json_files.read(path)
    seeds, settings = cell.config.train.num_seeds, len(config.combinations(cell.config))
    try:
        returns = np.asarray(summary["eval_returns"], np.float64).reshape(settings, seeds, -1)
        unit, scale = _scale(folder / cell.name)
        known = [summary.get(name) for name in ("behaviour_return", "behaviour_greedy_return")]
        data, greedy = (None if x is None else float(scale(x)) for x in known)
    except (KeyError, TypeError, ValueError):
        raise RlxError(f"{path}: lacks returns of {settings * seeds} members; restore it from a copy") from None
    scaled = scale(returns)
    if settings == 1:
        per_seed, chosen = scaled[0].mean(axis=1).tolist(), np.ones(1)
    else:
        every = [bandit.tuned(scaled[:, seed], count, seed) for seed in range(seeds)]
        per_seed, chosen = [worth for worth, _ in every], np.mean([share for _, share in every], axis=0)
    band = statistics.bootstrap_band([per_seed])
    iqm = statistics.Interval(*(float(x[0]) for x in band))
    spent, mean = count if settings > 1 else 0, float(np.mean(per_seed))
    about = (cell.task, study.digests[cell.task], cell.agent, settings, spent, unit)
    return Result(*about, iqm, mean, data, greedy, per_seed, chosen.tolist())


def _scale(folder: Path) -> tuple[str, Callable[[Any], Any]]:
    """A cell's unit: normalised by the data set's references where it was collected in the cell's environment."""
    summary, known = (json_files.read(folder / name) for name in ("summary.json", "config.json"))
    if "eval_score_mean" not in summary:
        return "return", lambda x: x
    random, expert = (float(known["data"][f"{name}_return"]) for name in ("random", "expert"))
    return "score", lambda x: statistics.normalised(x, random, expert)


def write(study: Study, folder: Path, rows: Sequence[Result]) -> None:
    """study.json with results, study.csv and study.md."""
    kept = [result._asdict() | {"iqm": result.iqm._asdict()} for result in rows]
    save(study, folder, {"results": kept})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = ["task", "digest", "agent", "settings", "evaluations", "unit", "iqm", "iqm_low", "iqm_high", "mean"]
    writer.writerow([*names, "data", "greedy_behaviour", "per_seed"])
    for x in rows:
        writer.writerow([*x[:6], *x.iqm, x.mean, x.data, x.greedy, " ".join(map(str, x.per_seed))])
    json_files.write_text(folder / "study.csv", buffer.getvalue())
    json_files.write_text(folder / "study.md", text(study, rows, compare.markdown) + "\n")


def text(study: Study, rows: Sequence[Result], layout: Callable[..., str] = compare.aligned) -> str:
    """One table for each number of evaluations, and what the figures mean."""
    size = len(study.cells)
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    tables = []
    for count, part in zip(study.evaluations or (0,), parts, strict=True):
        title = f"settings chosen by {count} evaluation episodes\n\n" if count else ""
        tables.append(title + layout(_rows(part)))
    return "\n\n".join([*tables, "\n".join(_notes(study, rows))])


def _rows(part: Sequence[Result]) -> list[list[str]]:
    agents = list(dict.fromkeys(result.agent for result in part))
    has_data = any(result.digest for result in part)
    rows = [["data set", "", "data", "best policy, greedy", *agents] if has_data else ["environment", "", *agents]]
    for task in dict.fromkeys(result.task for result in part):
        of_task = [result for result in part if result.task == task]
        known = ["-" if x is None else f"{x:.1f}" for x in (of_task[0].data, of_task[0].greedy)] if has_data else []
        rows.append([task, of_task[0].unit, *known, *map(_cell, of_task)])
    rivals = [result for result in part if result.greedy is not None]
    if rivals:
        above = [sum(x.iqm.estimate > x.greedy for x in rivals if x.agent == agent) for agent in agents]  # type: ignore[operator]
        total = len(rivals) // len(agents)
        rows.append(["sets above the greedy policy", "", "", "", *(f"{count} of {total}" for count in above)])
    return rows


def _cell(result: Result) -> str:
    if math.isnan(result.iqm.estimate):
        return "diverged"
    spread = f" ({result.iqm.low:.1f} to {result.iqm.high:.1f})" if len(result.per_seed) > 1 else ""
    return f"{result.iqm.estimate:.1f}{spread}"


def _notes(study: Study, rows: Sequence[Result]) -> list[str]:
    seeds = sorted({len(result.per_seed) for result in rows})
    lines = [
        f"Interquartile means over {' or '.join(map(str, seeds))} seeds of the last policies, with 95 % bootstrap"
        " intervals over seeds" + "; score: random 0, expert 100" * any(x.unit == "score" for x in rows) + ".",
    ]
    steps = {cell.task: cell.config.train.total_env_steps for cell in study.cells}
    lines += [f"{count:,} steps in the environment on {task}." for task, count in steps.items() if count]
    lines += [f"{cell.agent} on {cell.task} began from {cell.init_from}." for cell in study.cells if cell.init_from]
    several = {result.agent: result.settings for result in rows if result.settings > 1}
    if several:
        counts = ", ".join(f"{agent} among {count}" for agent, count in several.items())
        lines.append(f"Settings: {counts}, chosen by a UCB bandit for each seed and evaluated on other episodes.")
    versions = ", ".join(f"{name} {digest[:12]}" for name, digest in study.digests.items() if digest)
    return [*lines, f"Versions of the data: {versions}."] if versions else lines
