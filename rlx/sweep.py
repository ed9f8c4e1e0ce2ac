"""Sweeps: combinations of hyper-parameters trained as members of one program or of a few, and the best of them."""

from __future__ import annotations

import csv
import json
import math
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlx import compare, config, experiment, folders, metrics, results, runs, scores, sweep_figures, wholes
from rlx.config import RunConfig
from rlx.errors import RlxError
from rlx.interrupts import Interrupted

SHOWN = 20  # combinations that the table lists
FRESH_SEEDS = 5  # that the printed command confirms the best on
NOT_TUNED = ("seed", "num_seeds", "eval_seed", "checkpoint_dir", *wholes.HOW)  # of how and where: not in best.json


class Range(NamedTuple):
    """Where a hyper-parameter is drawn from."""

    low: float
    high: float
    log: bool  # evenly over its logarithm

    def __str__(self) -> str:
        return f"{self.low:g}:{self.high:g}" + ":log" * self.log


Wish = Range | tuple[float, ...]  # draw from, or one of


class Sweep(NamedTuple):
    """What is trained."""

    base: RunConfig  # everything that all have in common; its `hypers` are one value each
    wishes: dict[str, Wish]  # of the hyper-parameters that vary
    random: int  # draws; 0 for the grid of all combinations
    combinations: list[dict[str, float]]
    chunk: int  # combinations that are trained at once
    confirm: int  # fresh seeds on which the best is trained again


class Judged(NamedTuple):
    """A combination and its greedy returns at the end."""

    combination: dict[str, float]
    returns: np.ndarray  # [S], a mean for each seed; NaN where one is no finite number
    iqm: scores.Interval  # over seeds


def parse_range(flag: str, text: str) -> Range:
    """`1e-5:1e-3:log` or `0.9:0.99`. Raises RlxError for what is no range."""
    low, *rest = text.split(":")
    if len(rest) not in (1, 2) or rest[1:] not in ([], ["log"]):
        raise RlxError(f"{flag} {text}: must be LOW:HIGH, or LOW:HIGH:log to draw evenly over the logarithm")
    found = Range(config.convert(flag, float, low), config.convert(flag, float, rest[0]), len(rest) == 2)
    if found.low >= found.high or (found.log and found.low <= 0):
        raise RlxError(f"{flag} {text}: must begin below its end" + " and over 0" * found.log)
    return found


def make(
    agent: str,
    env: str,
    backend: str | None = None,
    preset: str | None = None,
    random: int = 0,
    chunk: int | None = None,
    confirm: int = 0,
    **given: Any,
) -> Sweep:
    """A sweep over the hyper-parameters that are given several values, or text such as `"1e-5:1e-3:log"` to draw from.

    With `random` so many combinations are drawn, else all of the values are trained. A value that diverges ends no
    other: updates that are not finite are left out, unless something else is asked for. Raises RlxError for what cannot
    be, or where nothing varies.
    """
    known = config.settings(agent)
    hypers = [name for name, setting in known.items() if setting.section == "hypers"]
    wishes: dict[str, Wish] = {}
    for name, value in list(given.items()):
        values = [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)
        flag, single = f"--{name.replace('_', '-')}", name in known and not known[name].many
        if name in hypers and any(isinstance(x, str) and ":" in x for x in values):
            if len(values) > 1:
                raise RlxError(f"{flag} {' '.join(map(str, values))}: give one range, or values without one")
            wishes[name] = parse_range(flag, values[0])
            del given[name]
        elif single and len(values) > 1:
            raise RlxError(f"{flag}: takes one value; only hyper-parameters can be swept: {', '.join(hypers)}")
        elif single:
            given[name] = values[0]
    base = config.resolve(agent, env, backend, preset, **{"on_nonfinite": "skip"} | given)
    wishes |= {name: values for name, values in base.hypers.items() if len(values) > 1}
    wishes = {name: wishes[name] for name in hypers if name in wishes}
    base = replace(base, hypers={name: values[:1] for name, values in base.hypers.items()})
    _check(wishes, hypers, random, confirm, chunk)
    combinations = draw(wishes, random, base.train.seed) if random else grid(wishes)
    size = _fitting(base, len(combinations)) if chunk is None else min(chunk, len(combinations))
    found = Sweep(base, wishes, random, combinations, size, confirm)
    devices, seeds = base.train.num_devices, base.train.num_seeds
    for part in chunks(found):
        if base.train.spread == "seeds" and len(part) * seeds % devices:
            raise RlxError(f"--spread seeds: {len(part) * seeds} runs of a chunk do not divide over {devices} devices")
    return found


def _check(wishes: Mapping[str, Wish], hypers: Sequence[str], random: int, confirm: int, chunk: int | None) -> None:
    for flag, count, least in (("random", random, 0), ("confirm", confirm, 0), ("chunk", chunk, 1)):
        if count is not None and count < least:
            raise RlxError(f"--{flag} {count}: must be at least {least}")
    if not wishes:
        raise RlxError(f"nothing to sweep: give several values, or a range, to one of {', '.join(hypers)}")
    ranges = [name for name, wish in wishes.items() if isinstance(wish, Range)]
    if ranges and not random:
        raise RlxError(f"--{ranges[0].replace('_', '-')}: a range goes with --random N, how many draws to train")


def grid(wishes: Mapping[str, Wish]) -> list[dict[str, float]]:
    """Every combination of values; the last hyper-parameter varies fastest."""
    rows: list[dict[str, float]] = [{}]
    for name, values in wishes.items():
        rows = [row | {name: value} for row in rows for value in values]
    return rows


def draw(wishes: Mapping[str, Wish], number: int, seed: int) -> list[dict[str, float]]:
    """Random combinations. Each hyper-parameter has a stream of its own: others and more draws change none before.

    Values have six digits, so that they print as they are.
    """
    columns = {}
    for name, wish in wishes.items():
        shares = np.random.default_rng([seed, zlib.crc32(name.encode())]).random(number)
        columns[name] = [_at(wish, float(share)) for share in shares]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _at(wish: Wish, share: float) -> float:
    if not isinstance(wish, Range):
        return wish[int(share * len(wish))]
    low, high, log = wish
    value = low * (high / low) ** share if log else low + share * (high - low)
    return min(max(float(f"{value:.6g}"), low), high)


def _fitting(base: RunConfig, count: int) -> int:
    """How many combinations to train at once: as many as memory holds, shared out evenly."""
    given, seeds = experiment.setup(base), base.train.num_seeds
    most = experiment.most_members(given, seeds, count * seeds) // seeds
    return math.ceil(count / math.ceil(count / most))


def chunks(sweep: Sweep) -> list[list[dict[str, float]]]:
    """The combinations that are trained together."""
    return [sweep.combinations[i : i + sweep.chunk] for i in range(0, len(sweep.combinations), sweep.chunk)]


def chunk_config(sweep: Sweep, part: Sequence[Mapping[str, float]]) -> RunConfig:
    """The run of some combinations."""
    varied = {name: tuple(combination[name] for combination in part) for name in sweep.wishes}
    return replace(sweep.base, hypers=sweep.base.hypers | varied, paired=True)


def save(sweep: Sweep, folder: Path, more: Mapping[str, Any] | None = None) -> None:
    """Writes sweep.json."""
    wishes = {name: str(wish) if isinstance(wish, Range) else wish for name, wish in sweep.wishes.items()}
    content = config.to_json(sweep.base) | {"varied": wishes} | sweep._asdict() | dict(more or {})
    del content["base"], content["wishes"]
    metrics.write_json(folder / "sweep.json", content)


def load(folder: Path) -> Sweep:
    """What `save` wrote. Raises RlxError where there is no sweep, or a damaged one."""
    path = folder / "sweep.json"
    if not path.is_file():
        raise RlxError(f"{folder}: holds no sweep (no sweep.json); give a folder that `rlx sweep` made")
    base, content = config.from_json(path), metrics.read_json(path)
    try:
        wishes = {
            name: parse_range(name, wish) if isinstance(wish, str) else tuple(wish)
            for name, wish in content["varied"].items()
        }
        combinations = [{name: float(row[name]) for name in wishes} for row in content["combinations"]]
        return Sweep(base, wishes, content["random"], combinations, content["chunk"], content["confirm"])
    except (RlxError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RlxError(f"{path}: is damaged ({error}); restore it from a copy") from None


def run(sweep: Sweep, folder: Path, fresh: bool, quiet: bool = False) -> str:
    """Trains what is left of a sweep, writes its results, and returns what to print.

    Raises Interrupted where a signal ended it early.
    """
    with folders.claimed(folder, fresh):
        if fresh:
            save(sweep, folder)
        parts = chunks(sweep)
        members = len(sweep.combinations) * sweep.base.train.num_seeds
        at_once = f"{len(parts)} chunks of {sweep.chunk}" if len(parts) > 1 else "in one program"
        print(f"rlx: {len(sweep.combinations)} combinations, {members} runs, {at_once}", file=sys.stderr, flush=True)
        for i, part in enumerate(parts):
            name = f"chunk-{i} of {len(parts)}" if len(parts) > 1 else "sweep"
            _train(chunk_config(sweep, part), folder / f"chunk-{i}", quiet, name, folder)
        judged = judge(sweep, folder)
        _write(sweep, folder, judged)
        lines = [table(sweep, judged), "", *_verdict(sweep, folder, judged)]
        if sweep.confirm and not math.isnan(judged[0].iqm.estimate):
            fresh_config = confirmation(sweep, folder, sweep.confirm)
            summary = _train(fresh_config, folder / "confirm", quiet, "confirming the best", folder)
            lines += [f"on {sweep.confirm} fresh seeds:", *(f"  {line}" for line in results.in_words(summary))]
            found = {name: summary[name] for name in summary if name.startswith("eval_")}
            save(sweep, folder, {"results": _plain(judged), "confirmed": found})
    return "\n".join(lines)


def _train(run_config: RunConfig, folder: Path, quiet: bool, name: str, of: Path) -> dict[str, Any]:
    """The summary of one run of a sweep, begun, gone on with or read."""
    if (folder / "summary.json").is_file():
        return metrics.read_json(folder / "summary.json")
    try:
        if (folder / "config.json").is_file():
            return runs.resume(folder, {}, quiet, name)
        return runs.train(run_config, folder, quiet=quiet, part_of=name)
    except Interrupted as end:
        raise Interrupted(end.code - 128, f"saved in {folder}; go on with `rlx sweep --resume {of}`") from None


def judge(sweep: Sweep, folder: Path) -> list[Judged]:
    """The combinations of a finished sweep, the best first by interquartile mean over seeds; diverged ones last.

    The 95 % intervals draw seeds, the same for all combinations; one seed has an interval of no width.
    """
    seeds = sweep.base.train.num_seeds
    found = []
    for i, part in enumerate(chunks(sweep)):
        summary = metrics.read_json(folder / f"chunk-{i}" / "summary.json")
        found.append(np.asarray(summary["eval_return_per_seed"], np.float64).reshape(len(part), seeds))
    returns = np.concatenate(found)
    bands = scores.bootstrap_band(returns)
    rows = zip(sweep.combinations, returns, map(scores.Interval, *map(np.ndarray.tolist, bands)), strict=True)
    judged = [Judged(*row) for row in rows]
    return sorted(judged, key=lambda x: -math.inf if math.isnan(x.iqm.estimate) else x.iqm.estimate, reverse=True)


def _plain(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    return [{**x.combination, **x.iqm._asdict(), "returns": x.returns} for x in judged]


def _write(sweep: Sweep, folder: Path, judged: Sequence[Judged]) -> None:
    """sweep.json with results, sweep.csv, sweep.png and best.json."""
    save(sweep, folder, {"results": _plain(judged)})
    first = sweep.base.train.seed
    with (folder / "sweep.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = [f"seed {first + i}" for i in range(sweep.base.train.num_seeds)]
        writer.writerow([*sweep.wishes, "iqm", "iqm_low", "iqm_high", "mean", *names])
        for x in judged:
            writer.writerow([*x.combination.values(), *x.iqm, x.returns.mean(), *x.returns])
    title = f"{sweep.base.agent} on {sweep.base.env}"
    values = np.asarray([x.iqm.estimate for x in judged])
    sweep_figures.draw(folder / "sweep.png", [x.combination for x in judged], values, sweep.random == 0, title)
    text = json.dumps(best_settings(sweep, judged[0].combination), indent=2)
    (folder / "best.json").write_text(text + "\n")


def best_settings(sweep: Sweep, combination: Mapping[str, float]) -> dict[str, Any]:
    """What was swept, and every other setting that is not what `rlx train` takes of itself: a preset."""
    base = sweep.base
    usual = config.resolve(base.agent, base.env)
    there, here = config.flat(usual), config.flat(base)
    found = {name: value for name, value in here.items() if value != there[name] and name not in NOT_TUNED}
    single = {name: found[name][0] for name in base.hypers if name in found}
    backend = {"backend": base.backend} if base.backend != usual.backend else {}
    return backend | found | single | dict(combination)


def confirmation(sweep: Sweep, folder: Path, seeds: int) -> RunConfig:
    """The best configuration on seeds and starts of evaluations that the sweep has not seen."""
    base, preset = sweep.base, str(folder / "best.json")
    how = {name: getattr(base.train, name) for name in wholes.HOW}
    fresh = {"seed": base.train.seed + base.train.num_seeds, "eval_seed": base.train.eval_seed + 1}
    return config.resolve(base.agent, base.env, base.backend, preset, **how | fresh | {"num_seeds": seeds})


def table(sweep: Sweep, judged: Sequence[Judged]) -> str:
    """The best combinations, a line each."""
    seeds = sweep.base.train.num_seeds
    rows = [["", *sweep.wishes, "seeds", "IQM", "95 % interval", "mean"]]
    for i, (combination, returns, iqm) in enumerate(judged[:SHOWN], 1):
        spread = f"{iqm.low:.1f} to {iqm.high:.1f}" if seeds > 1 else "-"
        figures = [f"{iqm.estimate:.1f}", spread, f"{returns.mean():.1f}"]
        if math.isnan(iqm.estimate):
            figures = ["diverged", "-", "-"]
        rows.append([str(i), *(f"{x:g}" for x in combination.values()), str(seeds), *figures])
    more = len(judged) - SHOWN
    return compare.aligned(rows) + (f"\n... and {more} more in sweep.csv" if more > 0 else "")


def _verdict(sweep: Sweep, folder: Path, judged: Sequence[Judged]) -> list[str]:
    """Where the results are, and how far to believe them."""
    lines = [f"{folder}: sweep.csv, sweep.json, sweep.png, best.json"]
    if math.isnan(judged[0].iqm.estimate):
        return [*lines, "every combination diverged"]
    lines.append(f"the best of {len(judged)} is partly luck: its figure is too high")
    if not sweep.confirm:
        base, seeds = sweep.base, max(FRESH_SEEDS, sweep.base.train.num_seeds)
        fresh = f"--seed {base.train.seed + base.train.num_seeds} --num-seeds {seeds}"
        command = f"rlx train {base.agent} --env {base.env} --preset {folder / 'best.json'} {fresh}"
        lines += ["what it is worth on fresh seeds:", f"  {command} --eval-seed {base.train.eval_seed + 1}"]
    return lines
