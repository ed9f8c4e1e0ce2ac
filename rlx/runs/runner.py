"""Runs in folders: trained and resumed; their configuration, metrics, checkpoints, summary, curve and rollout."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlx import config, data, json_files, parallel
from rlx.build import Setup, check_env_of_run, make_driver, parts, setup
from rlx.config import RunConfig
from rlx.runs import (
    checkpoint,
    extend,
    folders,
    initial,
    loggers,
    origin,
    resume_checks,
    saver,
)
from rlx.runs.console import Console
from rlx.runs.recording import Follower, Start, marked, record, warn
from rlx.runs.signals import Interrupts
from rlx.train.loop import Driver
from rlx.types import Env
from rlx.user_files import code_of

CHANGEABLE = (*saver.RUNTIME, *extend.TOTALS)  # settings that may change when a run is resumed


def train(
    run_config: RunConfig,
    folder: Path,
    init_from: str | None = None,
    quiet: bool = False,
    part_of: str = "",
    interrupts: Interrupts | None = None,
    same_data_as: Path | None = None,
    env: Env | None = None,
    follower: Follower | None = None,
) -> dict[str, Any]:
    """Trains a configuration into `folder`, which is claimed, and returns the summary.

    What the folder held is removed once nothing can be refused any more. Of several processes, the first one writes.
    `part_of` names what the run is a part of: shown with its progress, in place of a summary of its own. `interrupts`
    are entered by callers that train other parts too, and `same_data_as` is the folder of one that began before. `env`
    is the environment where the configuration only names it. Raises Interrupted where a signal or the `follower` ended
    it early.
    """
    run_config = initial.described(run_config, initial.configs(init_from))
    loggers.check(run_config)
    saver.check_place(run_config, folder)
    if same_data_as is not None:
        resume_checks.check_data_exists(run_config.train.dataset)
        for line in origin.changed_files(json_files.read(same_data_as / "config.json"), run_config):
            warn(line)
    prepared = setup(run_config, env)
    if prepared.data is not None and same_data_as is not None:
        resume_checks.check_same_data(
            prepared.data, run_config.train.dataset, json_files.read(same_data_as / "config.json")
        )
    driver = make_driver(prepared, parts(prepared.config)[0])
    start = Start(snapshot=initial.snapshot(driver, run_config.agent, init_from))
    with _listening(interrupts, follower) as interrupts:
        if parallel.is_first_process():
            folders.empty(folder)
        with marked(folder):
            if parallel.is_first_process():
                write_config(folder, prepared, init_from)
            console = _console(prepared, quiet, part_of, follower)
            return record(prepared, driver, start, folder, console, interrupts, follower)


def write_config(folder: Path, prepared: Setup, init_from: str | None = None) -> None:
    """Writes config.json, which makes a folder a run's."""
    content = config.to_json(prepared.config) | {"identity": saver.identity(prepared.config)}
    content |= {"files": code_of(prepared.config)}
    content |= {"init_from": init_from, "init_from_digests": initial.digests(init_from)}
    content |= {"data": prepared.data.info if prepared.data else {}}
    content |= {"data_digest": data.digest(prepared.data) if prepared.data else ""}
    json_files.write(folder / "config.json", content | origin.describe())


def resume(
    folder: Path,
    changes: dict[str, Any],
    quiet: bool = False,
    part_of: str = "",
    interrupts: Interrupts | None = None,
    env: Env | None = None,
    follower: Follower | None = None,
) -> dict[str, Any]:
    """Goes on with a run, from its newest intact checkpoint, and returns the summary.

    `changes` are of CHANGEABLE: how it runs, and larger totals. A run without a checkpoint begins again; one that has
    finished is left alone, unless it is to become longer.
    """
    saved, _ = resume_checks.read(folder)
    if (folder / "summary.json").exists() and not extend.is_longer(extend.longer(saved, folder, changes), saved):
        warn(f"{folder}: is finished; {extend.remedy(saved, folder)}")
        if parallel.is_first_process() and folders.status(folder).noted != "finished":
            with folders.claimed(folder):  # a kill came after the summary
                folders.mark(folder, "finished")
        return json_files.read(folder / "summary.json")
    with _listening(interrupts, follower) as interrupts, _claimed(folder):
        saved, content = resume_checks.read(folder)  # once more, now that no other process writes there
        resumed = _resumed_setup(saved, content, folder, changes, env)
        prepared, driver, start = _start(resumed, saved, content, folder)
        with marked(folder):
            if parallel.is_first_process():
                extend.write(folder, saved, prepared.config)
            console = _console(prepared, quiet, part_of, follower)
            return record(prepared, driver, start, folder, console, interrupts, follower)


def _resumed_setup(
    saved: RunConfig, content: dict[str, Any], folder: Path, changes: dict[str, Any], env: Env | None
) -> Setup:
    """A run's configuration with the changes that it is resumed with. Raises RlxError for what cannot go on."""
    origin.check_x64(content, folder)
    check_env_of_run(saved, env, folder)
    for line in origin.changed_files(content, saved):
        warn(line)
    settings = config.flat(extend.longer(saved, folder, changes)) | changes
    resolved = config.resolve(saved.agent, saved.env, saved.backend, paired=saved.paired, **settings)
    several = resolved.train.num_devices > 1 or resolved.train.split != "1"
    if several and "members" not in changes:  # members cannot have a thread each, as they may have had on one device
        resolved = replace(resolved, train=replace(resolved.train, members="vmap"))
    loggers.check(resolved)
    saver.check_place(resolved, folder)
    resume_checks.check_data_exists(saved.train.dataset)
    prepared = setup(resolved, env)
    if prepared.data is not None:
        resume_checks.check_same_data(prepared.data, saved.train.dataset, content)
        prepared = prepared._replace(
            data=prepared.data._replace(info=resume_checks.data_info(folder, content) or prepared.data.info)
        )
    return prepared


def _start(prepared: Setup, saved: RunConfig, content: dict[str, Any], folder: Path) -> tuple[Setup, Driver, Start]:
    """The run as it goes on: from its newest intact checkpoint or, where there is none, from its beginning."""
    finished, place = (folder / "summary.json").exists(), saver.place(prepared.config, folder)
    if finished and not checkpoint.steps(place):
        raise extend.needs_checkpoint(folder)
    begun = time.perf_counter()
    newest = saver.find_newest(place, warn)
    if newest is None and finished:
        raise extend.needs_checkpoint(folder)
    prepared = extend.at_same_intervals(prepared, saved, folder, newest)
    if newest is None:
        warn(f"{folder}: holds no full checkpoint; beginning again")
        driver = make_driver(prepared, parts(prepared.config)[0])
        initial.check_same(content, folder)
        return prepared, driver, Start(snapshot=initial.snapshot(driver, saved.agent, content["init_from"]))
    run_step, offline = newest
    resume_checks.check_same_run(place, run_step, content, folder)
    search_s = time.perf_counter() - begun
    driver = make_driver(prepared, offline)
    begun = time.perf_counter()
    resumed = saver.unpack(place, run_step, driver)
    if differences := origin.differences(content, saved, prepared.config):
        warn(f"resumed elsewhere ({'; '.join(differences)}): results are as good, but bits may differ")
    return prepared, driver, Start(None, resumed, run_step, search_s + time.perf_counter() - begun)


def _console(prepared: Setup, quiet: bool, part_of: str, follower: Follower | None) -> Console:
    if follower is not None:
        return follower.console(prepared.config)
    return Console(prepared.config, quiet or not parallel.is_first_process(), part_of)


def _listening(
    interrupts: Interrupts | None, follower: Follower | None
) -> contextlib.AbstractContextManager[Interrupts]:
    if follower is not None:
        return follower.interrupts
    return contextlib.nullcontext(interrupts) if interrupts else Interrupts()


def is_deterministic(folder: Path) -> bool:
    """Whether a run was made with --deterministic."""
    return config.from_json(folder / "config.json").train.deterministic


def _claimed(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Claims the folder where this process is the one that writes."""
    return folders.claimed(folder) if parallel.is_first_process() else contextlib.nullcontext()
