"""Sweeps: combinations of hyper-parameters trained as members of one program or of a few, and the best of them."""

from __future__ import annotations

import csv
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlx import build, config, json_files, statistics
from rlx.analysis import compare
from rlx.config import RunConfig
from rlx.envs import no_env
from rlx.errors import RlxError, say
from rlx.runs import folders, loggers, runner, saver, summaries
from rlx.runs.signals import Interrupted, Interrupts
from rlx.sweeps.space import Dimension, Range, grid, parse_range, sample, take_ranges
from rlx.visual import sweep_plots

SHOWN = 20  # combinations that the table lists
FRESH_SEEDS = 5  # that the printed command confirms the best on
NOT_TUNED = ("seed", "num_seeds", "eval_seed", "checkpoint_dir", *saver.RUNTIME)  # left out of best.json


class Sweep(NamedTuple):
    """What is trained."""

    base: RunConfig  # what all runs have in common; its `hypers` are one value each
    space: dict[str, Dimension]  # of the hyper-parameters that vary
    random: int  # samples; 0 for the grid of all combinations
    combinations: list[dict[str, float]]  # each once
    chunk: int  # combinations that are trained at once
    confirm: int  # fresh seeds on which the best is trained again


class Ranked(NamedTuple):
    """A combination and its greedy returns at the end."""

    combination: dict[str, float]
    returns: np.ndarray  # [S], a mean for each seed; NaN where one is no finite number
    iqm: statistics.Interval  # over seeds


def make(
    agent: str,
    env: str,
    backend: str | None = None,
    preset: str | None = None,
    random: int = 0,
    chunk: int | None = None,
    confirm: int = 0,
    **settings: Any,
) -> Sweep:
    """A sweep over the hyper-parameters with several values, or text such as `"1e-5:1e-3:log"` to sample from.

    With `random` so many combinations are sampled, else all of the values are trained. A value that diverges ends no
    other: updates that are not finite are left out, by default. Raises RlxError where nothing
    varies and, before there is a folder, for what cannot be trained.
    """
    if no_env.is_none(env):
        raise RlxError("--no-env: a sweep ranks by greedy returns, so it needs an environment; name one by --env")
    known = config.settings(agent)
    hypers = [name for name, setting in known.items() if setting.section == "hypers"]
    ranges, rest = take_ranges(known, settings)
    base = config.resolve(agent, env, backend, preset, **{"on_nonfinite": "skip"} | rest)
    space = ranges | {name: values for name, values in base.hypers.items() if len(values) > 1}
    space = {name: space[name] for name in hypers if name in space}
    base = replace(base, hypers={name: values[:1] for name, values in base.hypers.items()})
    _check(space, hypers, random, confirm, chunk)
    rows = sample(space, random, base.train.seed) if random else grid(space)
    combinations = [dict(row) for row in dict.fromkeys(tuple(row.items()) for row in rows)]  # a repeat is no more seeds
    if base.train.spread == "seeds":
        _check_division(base, len(combinations), chunk, confirm)
    loggers.check(base)
    saver.check_place(base, Path())
    return Sweep(base, space, random, combinations, _fitting(base, len(combinations), chunk), confirm)


def _check(space: Mapping[str, Dimension], hypers: Sequence[str], random: int, confirm: int, chunk: int | None) -> None:
    for flag, count, least in (("random", random, 0), ("confirm", confirm, 0), ("chunk", chunk, 1)):
        if count is not None and count < least:
            raise RlxError(f"--{flag} {count}: must be at least {least}")
    if not space:
        raise RlxError(f"nothing to sweep: give several values, or a range, to one of {', '.join(hypers)}")
    ranges = [name for name, dimension in space.items() if isinstance(dimension, Range)]
    if ranges and not random:
        raise RlxError(f"--{ranges[0].replace('_', '-')}: a range goes with --random N, how many samples to train")


def _check_division(base: RunConfig, count: int, chunk: int | None, confirm: int) -> None:
    """Raises RlxError where a run of the sweep has not as many members on every device."""
    devices, seeds, size = base.train.num_devices, base.train.num_seeds, min(chunk or count, count)
    what = f"{count} combinations" if chunk is None else f"--chunk {chunk} of {count} combinations"
    for named, runs_at_once in ((what, size * seeds), (what, count % size * seeds), (f"--confirm {confirm}", confirm)):
        if runs_at_once % devices:
            must = f"must divide over {devices} devices, with --spread seeds"
            raise RlxError(f"{named}: {runs_at_once} runs at once {must}")


def _fitting(base: RunConfig, count: int, chunk: int | None) -> int:
    """How many combinations to train at once: `chunk`, or as many as memory holds, shared out evenly.

    Raises RlxError for an environment, a data set or devices that are not there.
    """
    prepared, seeds, devices = build.setup(base), base.train.num_seeds, base.train.num_devices
    if chunk is not None:
        return min(chunk, count)
    unit = devices // math.gcd(devices, seeds) if base.train.spread == "seeds" else 1  # that every device has as many
    most = build.most_members(prepared, unit * seeds, count * seeds) // seeds
    even = math.ceil(count / math.ceil(count / most))
    return even + -even % unit


def chunks(sweep: Sweep) -> list[list[dict[str, float]]]:
    """The combinations that are trained together."""
    return [sweep.combinations[i : i + sweep.chunk] for i in range(0, len(sweep.combinations), sweep.chunk)]


def chunk_config(sweep: Sweep, part: Sequence[Mapping[str, float]], folder: Path) -> RunConfig:
    """The run of some combinations, in a sweep's folder."""
    varied = {name: tuple(combination[name] for combination in part) for name in sweep.space}
    train = replace(sweep.base.train, checkpoint_dir=_checkpoint_dir(sweep, folder))
    return replace(sweep.base, train=train, hypers=sweep.base.hypers | varied, paired=True)


def _checkpoint_dir(sweep: Sweep, folder: Path) -> str:
    """Of a sweep's own, in the one that was named: every sweep has a chunk-0."""
    base = sweep.base.train.checkpoint_dir
    return f"{base.rstrip('/')}/{folder.resolve().name}" if base else ""


def save(sweep: Sweep, folder: Path, more: Mapping[str, Any] | None = None) -> None:
    """Writes sweep.json."""
    space = {
        name: str(dimension) if isinstance(dimension, Range) else dimension for name, dimension in sweep.space.items()
    }
    content = config.to_json(sweep.base) | {"varied": space} | sweep._asdict() | dict(more or {})
    del content["base"], content["space"]
    json_files.write(folder / "sweep.json", content)


def load(folder: Path) -> Sweep:
    """What `save` wrote. Raises RlxError where there is no sweep, or a damaged one."""
    path = folder / "sweep.json"
    if not path.is_file():
        raise RlxError(f"{folder}: holds no sweep (no sweep.json); give a folder that `rlx sweep` made")
    base, content = config.from_json(path), json_files.read(path)
    try:
        space = {
            name: parse_range(name, dimension) if isinstance(dimension, str) else tuple(dimension)
            for name, dimension in content["varied"].items()
        }
        combinations = [{name: float(row[name]) for name in space} for row in content["combinations"]]
        random, chunk, confirm = (config.convert(name, int, content[name]) for name in ("random", "chunk", "confirm"))
        if not combinations:
            raise ValueError("no combinations")
        _check(space, list(base.hypers), random, confirm, chunk)
        sweep = Sweep(base, space, random, combinations, chunk, confirm)
        every = config.flat(chunk_config(sweep, combinations, folder)) | {"num_seeds": 1}
        config.resolve(base.agent, base.env, base.backend, paired=True, **every)  # refuses what is no setting
        return sweep
    except (RlxError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RlxError(f"{path}: is damaged ({error}); restore it from a copy") from None


def begin(sweep: Sweep, folder: Path, quiet: bool = False, show: bool = True) -> None:
    """Trains a new sweep in `folder`, which is claimed; what the folder held is removed.

    Results are written and, with `show`, printed, before those of the confirmation.
    Raises Interrupted where a signal ended it early.
    """
    with Interrupts() as interrupts:
        folders.empty(folder, folders.SWEEP)
        save(sweep, folder)
        _run(sweep, folder, quiet, show, interrupts)


def resume(sweep: Sweep, folder: Path, quiet: bool = False, show: bool = True) -> None:
    """Trains what is left of a sweep, or shows a finished one again; see `begin`."""
    with Interrupts() as interrupts, folders.claimed(folder, folders.SWEEP):
        _run(sweep, folder, quiet, show, interrupts)


def _run(sweep: Sweep, folder: Path, quiet: bool, show: bool, interrupts: Interrupts) -> None:
    parts = chunks(sweep)
    if not quiet:
        say(f"rlx: {_plan(sweep)}")
    for i, part in enumerate(parts):
        name = f"chunk-{i} of {len(parts)}" if len(parts) > 1 else "sweep"
        _train(chunk_config(sweep, part, folder), folder / f"chunk-{i}", quiet, name, interrupts)
    ranked = rank(sweep, folder)
    _write(sweep, folder, ranked)
    if show:
        print("\n".join([table(sweep, ranked), "", *_conclusion(sweep, folder, ranked)]), flush=True)
    if sweep.confirm and not math.isnan(ranked[0].iqm.estimate):
        fresh_config = confirmation(sweep, folder, sweep.confirm)
        summary = _train(fresh_config, folder / "confirm", quiet, "confirming the best", interrupts)
        if show:
            print("\n  ".join([f"on {sweep.confirm} fresh seeds:", *summaries.in_words(summary)]))
        confirmed = {name: summary[name] for name in summary if name.startswith("eval_")}
        save(sweep, folder, {"results": _plain(ranked), "confirmed": confirmed})


def _plan(sweep: Sweep) -> str:
    """What is trained, in a line."""
    count = len(sweep.combinations)
    total = sweep.random or math.prod(len(dimension) for dimension in sweep.space.values())
    repeats = f" ({total - count} repeats left out)" if total > count else ""
    at_once = f"{len(parts)} chunks of {sweep.chunk}" if len(parts := chunks(sweep)) > 1 else "in one program"
    return f"{count} combinations{repeats}, {count * sweep.base.train.num_seeds} runs, {at_once}"


def _train(run_config: RunConfig, folder: Path, quiet: bool, name: str, interrupts: Interrupts) -> dict[str, Any]:
    """The summary of one run of a sweep: trained, resumed or, of a finished one, read."""
    if (folder / "summary.json").is_file():
        return json_files.read(folder / "summary.json")
    remedy = f"go on with `rlx sweep --resume {shlex.quote(str(folder.parent))}`"
    if interrupts.number is not None:  # when the run before had nothing left to save
        raise Interrupted(interrupts.number, f"left before {folder} began; {remedy}")
    try:
        if (folder / "config.json").is_file():
            return runner.resume(folder, {}, quiet, name, interrupts)
        first = folder.parent / "chunk-0"
        beside = first if folder != first else None
        with folders.claimed(folder):
            return runner.train(run_config, folder, quiet=quiet, part_of=name, interrupts=interrupts, beside=beside)
    except Interrupted as end:
        raise Interrupted(end.code - 128, f"saved in {folder}; {remedy}") from None


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


def _plain(ranked: Sequence[Ranked]) -> list[dict[str, Any]]:
    return [{**x.combination, **x.iqm._asdict(), "returns": x.returns} for x in ranked]


def _write(sweep: Sweep, folder: Path, ranked: Sequence[Ranked]) -> None:
    """sweep.json with results, sweep.csv, sweep.png and best.json."""
    save(sweep, folder, {"results": _plain(ranked)})
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


def confirmation(sweep: Sweep, folder: Path, seeds: int) -> RunConfig:
    """The best configuration on seeds and starts of evaluations that the sweep has not seen."""
    base, preset = sweep.base, str(folder / "best.json")
    runtime = {name: getattr(base.train, name) for name in saver.RUNTIME} | {
        "checkpoint_dir": _checkpoint_dir(sweep, folder)
    }
    fresh = {"seed": base.train.seed + base.train.num_seeds, "eval_seed": base.train.eval_seed + 1}
    return config.resolve(base.agent, base.env, base.backend, preset, **runtime | fresh | {"num_seeds": seeds})


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


def _conclusion(sweep: Sweep, folder: Path, ranked: Sequence[Ranked]) -> list[str]:
    """Where the results are, and how far to believe them."""
    lines = [f"{folder}: sweep.csv, sweep.json, sweep.png, best.json"]
    if math.isnan(ranked[0].iqm.estimate):
        return [*lines, "every combination diverged"]
    lines.append(f"the best of {len(ranked)} is partly luck: its figure is too high")
    if not sweep.confirm:
        base, seeds = sweep.base, max(FRESH_SEEDS, sweep.base.train.num_seeds)
        fresh = f"--seed {base.train.seed + base.train.num_seeds} --num-seeds {seeds}"
        preset = shlex.quote(str(folder / "best.json"))
        command = f"rlx train {base.agent} --env {base.env} --preset {preset} {fresh}"
        lines += ["what it is worth on fresh seeds:", f"  {command} --eval-seed {base.train.eval_seed + 1}"]
    return lines
