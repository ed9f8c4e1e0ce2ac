"""Trains a sweep in its folder, chunk after chunk, and then the best combination on fresh seeds."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlx import config, json_files
from rlx.config import RunConfig
from rlx.errors import say
from rlx.runs import folders, runner, saver, summaries
from rlx.runs.signals import Interrupted, Interrupts
from rlx.sweeps.ranking import Ranked, as_json, rank, table, write_results
from rlx.sweeps.sweep import Sweep, checkpoint_dir, chunk_config, chunks, save

FRESH_SEEDS = 5  # that the printed command confirms the best on


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
        train_part(chunk_config(sweep, part, folder), folder / f"chunk-{i}", quiet, name, interrupts, "sweep")
    ranked = rank(sweep, folder)
    write_results(sweep, folder, ranked)
    if show:
        print("\n".join([table(sweep, ranked), "", *_conclusion(sweep, folder, ranked)]), flush=True)
    if sweep.confirm and not math.isnan(ranked[0].iqm.estimate):
        fresh_config = confirmation(sweep, folder, sweep.confirm)
        summary = train_part(fresh_config, folder / "confirm", quiet, "confirming the best", interrupts, "sweep")
        if show:
            print("\n  ".join([f"on {sweep.confirm} fresh seeds:", *summaries.in_words(summary)]))
        confirmed = {name: summary[name] for name in summary if name.startswith("eval_")}
        save(sweep, folder, {"results": as_json(ranked), "confirmed": confirmed})


def _plan(sweep: Sweep) -> str:
    """What is trained, in a line."""
    count = len(sweep.combinations)
    total = sweep.random or math.prod(len(dimension) for dimension in sweep.space.values())
    repeats = f" ({total - count} repeats left out)" if total > count else ""
    at_once = f"{len(parts)} chunks of {sweep.chunk}" if len(parts := chunks(sweep)) > 1 else "in one program"
    return f"{count} combinations{repeats}, {count * sweep.base.train.num_seeds} members, {at_once}"


def train_part(
    run_config: RunConfig,
    folder: Path,
    quiet: bool,
    name: str,
    interrupts: Interrupts,
    command: str,
    init_from: str | None = None,
) -> dict[str, Any]:
    """The summary of one run of a sweep or study (`command`): trained, resumed or, of a finished one, read."""
    if (folder / "summary.json").is_file():
        return json_files.read(folder / "summary.json")
    remedy = f"go on with `rlx {command} --resume {shlex.quote(str(folder.parent))}`"
    if interrupts.number is not None:  # when the run before had nothing left to save
        raise Interrupted(interrupts.number, f"left before {folder} began; {remedy}")
    try:
        if (folder / "config.json").is_file():
            return runner.resume(folder, {}, quiet, name, interrupts)
        first = folder.parent / "chunk-0"
        same_data_as = first if command == "sweep" and folder != first else None
        with folders.claimed(folder):
            return runner.train(
                run_config,
                folder,
                init_from,
                quiet=quiet,
                part_of=name,
                interrupts=interrupts,
                same_data_as=same_data_as,
            )
    except Interrupted as end:
        raise Interrupted(end.code - 128, f"saved in {folder}; {remedy}") from None


def confirmation(sweep: Sweep, folder: Path, seeds: int) -> RunConfig:
    """The best configuration on new seeds and new starts of evaluations."""
    base, preset = sweep.base, str(folder / "best.json")
    runtime = {name: getattr(base.train, name) for name in saver.RUNTIME} | {
        "checkpoint_dir": checkpoint_dir(sweep, folder)
    }
    fresh = {"seed": base.train.seed + base.train.num_seeds, "eval_seed": base.train.eval_seed + 1}
    return config.resolve(base.agent, base.env, base.backend, preset, **runtime | fresh | {"num_seeds": seeds})


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
