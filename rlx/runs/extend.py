"""Longer runs: one that has finished, or was interrupted, goes on to a larger total."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlx import build, config, json_files
from rlx.build import Setup
from rlx.config import RunConfig
from rlx.errors import RlxError
from rlx.runs import folders, saver
from rlx.settings import flag_of

TOTALS = ("total_env_steps", "offline_steps")  # a resumed run may be given larger ones
INTERVALS = ("log_every", "eval_every")  # that follow from a total where they were left open


def remedy(saved: RunConfig, folder: Path) -> str:
    """How to go on with a run that has finished."""
    name = TOTALS[not saved.train.total_env_steps]
    command = f"rlx train --resume {shlex.quote(str(folder))} {flag_of(name)} N"
    return f"to make it longer: `{command}`, with N over {getattr(saved.train, name)}"


def longer(saved: RunConfig, folder: Path, changes: Mapping[str, Any]) -> RunConfig:
    """The run's configuration with the larger totals among `changes`; `saved` itself where none is larger.

    A total that the run has already changes nothing, so that the command which made it longer may be repeated. A
    schedule that ended with the run is left open again. Raises RlxError for a smaller total, or one that this run
    cannot have.
    """
    settings = config.flat(saved) | {name: changes[name] for name in TOTALS if name in changes}
    wanted = config.resolve(saved.agent, saved.env, saved.backend, paired=saved.paired, **settings)
    if not is_longer(wanted, saved):
        return saved
    for name in TOTALS:
        old, new = getattr(saved.train, name), getattr(wanted.train, name)
        if new < old:
            raise RlxError(f"{flag_of(name)} {new}: is less than the run's {old}; give more, or leave it out")
        if name == "offline_steps" and new > old and saved.train.total_env_steps:
            raise RlxError(
                f"{flag_of(name)} {new}: the run goes on in its environment; raise --total-env-steps instead"
            )
    if folders.is_of_several_runs(folder.parent):
        raise RlxError(
            f"{folder}: is part of a sweep or study, whose runs are all as long; begin another run by --init-from"
        )
    planned = build.planned(saved)
    unset = {name: 0 for name, steps in planned.items() if getattr(saved.network, name) == steps}
    if unset:
        wanted = replace(wanted, network=replace(wanted.network, **unset))
    return wanted


def is_longer(wanted: RunConfig, saved: RunConfig) -> bool:
    """Whether a configuration has other totals than the run's."""
    return any(getattr(wanted.train, name) != getattr(saved.train, name) for name in TOTALS)


def needs_checkpoint(folder: Path) -> RlxError:
    """The error for a finished run that cannot continue: starting it again would discard what it has learnt."""
    return RlxError(f"{folder}: holds no full checkpoint to go on from; begin another run by --init-from")


def at_same_intervals(prepared: Setup, saved: RunConfig, folder: Path, newest: tuple[int, bool] | None) -> Setup:
    """A longer run as it goes on from its newest checkpoint, with notes on where that differs from one run.

    Where the part that becomes longer has begun, its log points and evaluations stay as far apart as they were: at log
    points the pools of initial states are refreshed, so other ones would give other bits.
    """
    run, notes = prepared.config, []
    if newest is None or not is_longer(run, saved):
        return prepared
    begun = not newest[1] or run.train.offline_steps > saved.train.offline_steps
    if begun and (intervals := _intervals(saved)):
        run = replace(run, train=replace(run.train, **intervals))
        flags = " ".join(f"{flag_of(name)} {steps}" for name, steps in intervals.items())
        notes.append(f"{folder}: logs and evaluates as often as before, as by {flags}")
    if run.network != saved.network:
        notes.append(f"{folder}: schedules now end at the new end, so learning rates that fall are higher from here")
    return prepared._replace(config=run, notes=(*prepared.notes, *notes))


def _intervals(saved: RunConfig) -> dict[str, Any]:
    """Steps between log points and between evaluations, where they follow from the total."""
    plan = build.final_plan(saved)
    steps = (plan.log_iterations * plan.iteration_steps, plan.eval_iterations * plan.iteration_steps)
    return {name: every for name, every in zip(INTERVALS, steps, strict=True) if not getattr(saved.train, name)}


def write(folder: Path, saved: RunConfig, run: RunConfig) -> None:
    """Makes a run's folder a longer run's; how and where it runs stays as config.json had it.

    The summary goes first: a kill before config.json is replaced leaves the shorter run without its summary, which
    resuming makes again.
    """
    if not is_longer(run, saved):
        return
    changed = {name: getattr(run.train, name) for name in (*TOTALS, *INTERVALS)}
    extended = replace(saved, train=replace(saved.train, **changed), network=run.network)
    content = json_files.read(folder / "config.json")
    shorter = {"identity": content["identity"]} | {name: getattr(saved.train, name) for name in TOTALS}
    content |= config.to_json(extended) | {"identity": saver.identity(extended)}
    (folder / "summary.json").unlink(missing_ok=True)
    json_files.write(folder / "config.json", content | {"extended": [*content.get("extended", []), shorter]})


def identities(content: Mapping[str, Any]) -> set[str]:
    """Of a run and of the shorter ones that it was, from its config.json: it may go on from their checkpoints."""
    shorter = [run for run in content.get("extended", []) if isinstance(run, dict)]
    return {content["identity"], *(str(run.get("identity")) for run in shorter)}
