"""The combinations of a finished sweep, ranked by their greedy returns: a table, files, and the best as a preset."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlx import config, json_files, statistics
from rlx.analysis import compare
from rlx.errors import RlxError
from rlx.runs import saver
from rlx.sweeps.sweep import Sweep, chunks, save
from rlx.visual import sweep_plots

SHOWN = 20  # combinations that the table lists
NOT_TUNED = ("seed", "num_seeds", "eval_seed", "checkpoint_dir", *saver.RUNTIME)  # left out of best.json


class Ranked(NamedTuple):
    """A combination and its greedy returns at the end."""

    combination: dict[str, float]
    returns: np.ndarray  # [S], a mean for each seed; NaN where one is no finite number
    iqm: statistics.Interval  # over seeds


def rank(sweep: Sweep, folder: Path) -> list[Ranked]:
    """The combinations of a finished sweep, the best first by interquartile mean over seeds; diverged ones last.

    The 95 % intervals resample seeds, the same for all combinations; one seed has an interval of no width.
    """
    seeds = sweep.base.train.num_seeds
    per_chunk = []
    for i, part in enumerate(chunks(sweep)):
        path = folder / f"chunk-{i}" / "summary.json"
        try:
            values = np.asarray(json_files.read(path)["eval_return_per_seed"], np.float64)
            per_chunk.append(values.reshape(len(part), seeds))
        except (KeyError, TypeError, ValueError):
            raise RlxError(
                f"{path}: has no return of each of {len(part) * seeds} runs; restore it from a copy"
            ) from None
    returns = np.concatenate(per_chunk)
    bands = statistics.bootstrap_band(returns)
    rows = zip(sweep.combinations, returns, map(statistics.Interval, *map(np.ndarray.tolist, bands)), strict=True)
    ranked = [Ranked(*row) for row in rows]
    return sorted(ranked, key=lambda x: -math.inf if math.isnan(x.iqm.estimate) else x.iqm.estimate, reverse=True)


def as_json(ranked: Sequence[Ranked]) -> list[dict[str, Any]]:
    return [{**x.combination, **x.iqm._asdict(), "returns": x.returns} for x in ranked]


def write_results(sweep: Sweep, folder: Path, ranked: Sequence[Ranked]) -> None:
    """sweep.json with results, sweep.csv, sweep.png and best.json."""
    save(sweep, folder, {"results": as_json(ranked)})
    first = sweep.base.train.seed
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [f"seed {first + i}" for i in range(sweep.base.train.num_seeds)]
    writer.writerow([*sweep.space, "iqm", "iqm_low", "iqm_high", "mean", *names])
    for x in ranked:
        writer.writerow([*x.combination.values(), *x.iqm, x.returns.mean(), *x.returns])
    json_files.write_text(folder / "sweep.csv", buffer.getvalue())
    title = f"{sweep.base.agent} on {sweep.base.env}"
    values = np.asarray([x.iqm.estimate for x in ranked])
    sweep_plots.draw(folder / "sweep.png", [x.combination for x in ranked], values, sweep.random == 0, title)
    json_files.write(folder / "best.json", best_settings(sweep, ranked[0].combination))


def best_settings(sweep: Sweep, combination: Mapping[str, float]) -> dict[str, Any]:
    """What was swept, and every other setting that is not the default of `rlx train`: a preset."""
    base = sweep.base
    usual = config.resolve(base.agent, base.env)
    defaults = config.flat(usual)
    changed = {
        name: value for name, value in config.flat(base).items() if value != defaults[name] and name not in NOT_TUNED
    }
    single = {name: changed[name][0] for name in base.hypers if name in changed}
    backend = {"backend": base.backend} if base.backend != usual.backend else {}
    return backend | changed | single | dict(combination)


def table(sweep: Sweep, ranked: Sequence[Ranked]) -> str:
    """The best combinations, a line each."""
    seeds = sweep.base.train.num_seeds
    rows = [["", *sweep.space, "seeds", "IQM", "95 % interval", "mean"]]
    for i, (combination, returns, iqm) in enumerate(ranked[:SHOWN], 1):
        spread = f"{iqm.low:.1f} to {iqm.high:.1f}" if seeds > 1 else "-"
        figures = [f"{iqm.estimate:.1f}", spread, f"{returns.mean():.1f}"]
        if math.isnan(iqm.estimate):
            figures = ["diverged", "-", "-"]
        rows.append([str(i), *(f"{x:g}" for x in combination.values()), str(seeds), *figures])
    more = len(ranked) - SHOWN
    return compare.aligned(rows) + (f"\n... and {more} more in sweep.csv" if more > 0 else "")
