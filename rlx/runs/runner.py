"""Runs in folders: trained, resumed, judged; their configuration, metrics, checkpoints, summary, curve and rollout."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax
import numpy as np

from rlx import config, data, json_files, parallel
from rlx.config import RunConfig
from rlx.errors import RlxError, say, say_compiling
from rlx.experiment import Setup, make_driver, parts, run, setup
from rlx.runs import checkpoint, extend, folders, loggers, metrics, saver, summaries
from rlx.runs.console import Console
from rlx.runs.signals import Interrupted, Interrupts
from rlx.train import report
from rlx.train.loop import Driver, Report, Resumed

CHANGEABLE = (*saver.HOW, *extend.TOTALS)  # settings that a resumed run may be given anew
NO_TRAINING: dict[str, Any] = {  # settings under which judging a run asks for no more room than judging needs
    "driver": "fused",
    "split": "1",
    "dataset": "",
    "offline_steps": 0,
    "total_env_steps": 100,
    "num_devices": 1,
    "members": "auto",
    "num_shards": 1,
    "num_envs": 1,
    "rollout_length": 1,
    "n_step": 1,
    "batch_size": 1,
    "replay_capacity": 1,
    "pool_size": 1,
    "warmup_env_steps": 0,
}


def warn(text: str) -> None:
    """Tells the user what was found and dealt with."""
    say(f"rlx: {text}")


def train(
    run_config: RunConfig,
    folder: Path,
    init_from: str | None = None,
    quiet: bool = False,
    part_of: str = "",
    interrupts: Interrupts | None = None,
    beside: Path | None = None,
) -> dict[str, Any]:
    """Trains a configuration into `folder` and returns the summary; of several processes, the first one writes.

    `part_of` names what the run is a part of: shown with its progress, in place of a summary of its own. `interrupts`
    are entered by who trains other parts too, and `beside` is a part that began before, from the same data set. Raises
    Interrupted where a signal ended it early.
    """
    loggers.check(run_config)
    saver.check_place(run_config, folder)  # before anything is made
    if beside is not None:
        _check_there(run_config.train.dataset)
    given = setup(run_config)
    if given.data is not None and beside is not None:
        _check_data(given.data, run_config.train.dataset, json_files.read(beside / "config.json"))
    driver = make_driver(given, parts(given.config)[0])
    start = Start(learned=_initial(driver, init_from))
    with _listening(interrupts) as interrupts, _claimed(folder, fresh=True):
        if parallel.is_first_process():
            content = config.to_json(given.config) | {"identity": saver.identity(given.config)}
            content |= {"init_from": init_from, "data": given.data.info if given.data else {}}
            content |= {"data_digest": data.digest(given.data) if given.data else ""}
            json_files.write(folder / "config.json", content | summaries.origin())
        return _train(given, driver, start, folder, _console(given, quiet, part_of), interrupts)


def resume(
    folder: Path,
    changes: dict[str, Any],
    quiet: bool = False,
    part_of: str = "",
    interrupts: Interrupts | None = None,
) -> dict[str, Any]:
    """Goes on with a run, from its newest good checkpoint, and returns the summary.

    `changes` are of CHANGEABLE: how it runs, and larger totals. A run without a checkpoint begins again; one that has
    finished is left alone, unless it is to become longer.
    """
    saved = config.from_json(folder / "config.json")
    content = json_files.read(folder / "config.json")
    if content.get("identity") != saver.identity(saved):
        raise RlxError(f"{folder / 'config.json'}: is not as the run wrote it; restore it from a copy")
    finished = (folder / "summary.json").exists()
    wanted = extend.longer(saved, folder, changes)
    if finished and not extend.is_longer(wanted, saved):
        warn(f"{folder}: is finished; {extend.remedy(saved, folder)}")
        return json_files.read(folder / "summary.json")
    names, settings = (saved.agent, saved.env, saved.backend), config.flat(wanted) | changes
    resolved = config.resolve(*names, paired=saved.paired, **settings)
    several = resolved.train.num_devices > 1 or resolved.train.split != "1"
    if several and "members" not in changes:  # they cannot be apart, as they may have been on one device
        resolved = replace(resolved, train=replace(resolved.train, members="vmap"))
    loggers.check(resolved)
    _check_there(saved.train.dataset)
    given = setup(resolved)
    if given.data is not None:
        _check_data(given.data, saved.train.dataset, content)
        given = given._replace(data=given.data._replace(info=_data_info(folder, content) or given.data.info))
    place = saver.place(given.config, folder)
    if finished and not checkpoint.steps(place):
        raise extend.needs_checkpoint(folder)
    with _listening(interrupts) as interrupts, _claimed(folder, fresh=False):
        begun = time.perf_counter()
        found = saver.find(place, warn)
        found_s = time.perf_counter() - begun
        if found is None and finished:
            raise extend.needs_checkpoint(folder)
        given = extend.at_its_pace(given, saved, folder, found)
        if found is None:
            warn(f"{folder}: holds no checkpoint of everything; beginning again")
            driver = make_driver(given, parts(given.config)[0])
            start = Start(learned=_initial(driver, content["init_from"]))
        else:
            driver = make_driver(given, offline=found[1])
            start = _restored(place, found[0], driver, found_s)
            if checkpoint.manifest(place, start.run_step)["about"]["identity"] not in extend.identities(content):
                raise RlxError(f"{place}: holds another run's checkpoints; put back those of {folder}")
            _tell_differences(content, saved, given.config)
        if parallel.is_first_process():
            extend.write(folder, saved, given.config)
        return _train(given, driver, start, folder, _console(given, quiet, part_of), interrupts)


def _check_there(path: str) -> None:
    """Raises RlxError where the data set that a run or sweep began with is gone."""
    if path and not Path(path).exists():
        elsewhere = "" if Path(path).is_absolute() else f", or go where you trained: {Path.cwd()} has none"
        raise RlxError(f"{path}: is gone, the data set that the run began with; put it back{elsewhere}")


def _check_data(found: data.Dataset, path: str, content: dict[str, Any]) -> None:
    """Raises RlxError for another data set than that of the run whose config.json is given."""
    known = content.get("data_digest")  # an rlx before this one did not write it
    if known and data.digest(found) != known:
        raise RlxError(f"{path}: is not the data set that the run began with; put that one back")


def _console(given: Setup, quiet: bool, part_of: str) -> Console:
    return Console(given.config, quiet or not parallel.is_first_process(), part_of)


def _listening(interrupts: Interrupts | None) -> contextlib.AbstractContextManager[Interrupts]:
    return contextlib.nullcontext(interrupts) if interrupts else Interrupts()


class Start(NamedTuple):
    """What a run begins with."""

    learned: Any = None  # of another run
    resumed: Resumed | None = None
    run_step: int = -1  # what was done before
    restore_s: float | None = None  # that finding, verifying and reading it took


def _restored(place: checkpoint.Folder, run_step: int, driver: Driver, found_s: float) -> Start:
    """What a driver goes on with, from a step that took `found_s` to find and verify."""
    begun = time.perf_counter()
    resumed = saver.unpack(place, run_step, driver)
    return Start(resumed=resumed, run_step=run_step, restore_s=found_s + time.perf_counter() - begun)


def is_deterministic(folder: Path) -> bool:
    """Whether a run was asked to be, by --deterministic."""
    return config.from_json(folder / "config.json").train.deterministic


def _tell_differences(content: dict[str, Any], saved: RunConfig, now: RunConfig) -> None:
    """Says what has changed since the run began, so that its bits may differ from those of an uninterrupted one."""
    there, here = ({**c["versions"], **c["hardware"]} for c in (content, summaries.origin()))
    changed = [f"{name} {there[name]} is now {here.get(name)}" for name in there if there[name] != here.get(name)]
    for name in ("num_devices", "split", "members"):
        if (old := getattr(saved.train, name)) != (new := getattr(now.train, name)):
            changed.append(f"{name} {old} is now {new}")
    if changed:
        warn(f"resumed elsewhere ({'; '.join(changed)}): results are as good, but bits may differ")


def _initial(driver: Driver, init_from: str | None) -> Any:
    """Agent and statistics of another run, if one is named."""
    return load(Path(init_from), driver) if init_from else None


@contextlib.contextmanager
def _claimed(folder: Path, fresh: bool) -> Iterator[None]:
    """Claims the folder for the first process's writing, and notes there how the run ends."""
    if not parallel.is_first_process():
        yield
        return
    with folders.claimed(folder, fresh):
        try:
            folders.mark(folder, "running")
            yield
            folders.mark(folder, "finished")
        except Interrupted as end:
            folders.mark(folder, "interrupted", str(end))
            raise
        except BaseException as error:
            with contextlib.suppress(OSError):
                folders.mark(folder, "failed", f"{type(error).__name__}: {error}".splitlines()[0])
            if isinstance(error, OSError) and error.errno:
                remedy = f"make room, then go on with `rlx train --resume {shlex.quote(str(folder))}`"
                raise RlxError(f"{folder}: cannot be written ({error.strerror}); {remedy}") from None
            raise


def _train(
    given: Setup, driver: Driver, start: Start, folder: Path, console: Console, interrupts: Interrupts
) -> dict[str, Any]:
    """Trains from wherever the run stands, in the part of `driver`, to its end; returns the summary."""
    writes = parallel.is_first_process()
    keeper, clock = saver.Keeper(given.config, folder), summaries.Clock()
    keeper.forget_after(start.run_step)
    spent_s = metrics.cut(folder / "metrics.jsonl", start.run_step) if writes else 0.0
    for note in (*given.notes, *_notes(given.config)):
        warn(note)
    sink = loggers.Sinks(given.config if writes else None, folder, start.run_step, warn)
    with keeper, sink, console, _lines(folder, writes) as lines:
        for moment in run(given, driver, start.learned, start.resumed, interrupts.asked, console.begin):
            found = moment.report
            line = report.record(found, spent_s + report.process_age_s())
            if found.metrics and found.run_step > start.run_step:
                lines.write(json.dumps(line) + "\n")
                lines.flush()
                clock.saw(found)
                sink.write(line)
                console.show(line)
            if found.evaluation and (diverged := report.nonfinite_episodes(found.evaluation)):
                warn(f"step {found.run_step:,}: {diverged}")
            if found.saves or found.evaluation:
                console.begin("saving")
            keeper.keep(moment)
            if found.ended:
                keeper.wait()
                _leave(folder, found, interrupts)
        console.begin("saving")
        keeper.wait()
        assert found.evaluation is not None  # the last report always evaluates
        if writes:
            summaries.draw(folder, given.config, moment.driver, found.evaluation)
    summary = summaries.summarise(given, moment, clock, keeper)
    if writes:
        summary["wall_time_s"] = round(spent_s + report.process_age_s(), 2)
        written = metrics.read(folder / "metrics.jsonl")  # also those of a run that was resumed after its last update
        summary["time_to_first_update_s"] = next(x["wall_time_s"] for x in written if x["critic_step"] > 0)
        if start.restore_s is not None:
            summary["restore_s"] = round(start.restore_s, 3)
        json_files.write(folder / "summary.json", summary)
        console.finish(summary, folder)
    return summary


def _notes(run_config: RunConfig) -> list[str]:
    if run_config.train.checkpoint_replay or not run_config.train.total_env_steps:
        return []
    return [
        "replay is not saved: a resumed run collects the warm-up's steps into an empty one before it learns on,"
        " and ends in other bits"
    ]


def _leave(folder: Path, found: Report, interrupts: Interrupts) -> None:
    number = interrupts.number or 15  # of several processes, another one was told
    remedy = f"go on with `rlx train --resume {shlex.quote(str(folder))}`"
    raise Interrupted(number, f"saved at step {found.run_step} in {folder}; {remedy}")


def _lines(folder: Path, writes: bool) -> IO[str]:
    """Where metrics go: metrics.jsonl, or nowhere in the processes that do not write."""
    return (folder / "metrics.jsonl").open("a") if writes else open(os.devnull, "w")


def load(folder: Path, driver: Driver, step: int | None = None) -> Any:
    """Agent and statistics `[M, ...]` that a run saved, for a driver of the same networks.

    One member serves for any number. Raises RlxError where the run's networks are not the driver's.
    """
    saved = config.from_json(folder / "config.json")
    count = len(config.members(saved))
    if count not in (1, driver.members):
        raise RlxError(f"{folder}: holds {count} members but {driver.members} are to start; use one, or as many")
    template = jax.tree.map(lambda x: np.zeros((count, *x.shape[1:]), x.dtype), driver.policy_snapshot_shapes)
    learned = checkpoint.restore(folder / "checkpoints", template, step)
    return jax.tree.map(lambda x: np.broadcast_to(x, (driver.members, *x.shape[1:])), learned)


def _data_info(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """What config.json keeps of the data set's info."""
    return data.check_info(folder / "config.json", content.get("data") or {})


def judge(folder: Path, episodes: int | None, eval_seed: int | None, step: int | None) -> str:
    """Evaluates what a run saved; returns what to print."""
    saved = config.from_json(folder / "config.json")
    if episodes is not None and episodes < 1:
        raise RlxError(f"--episodes {episodes}: must be at least 1")
    given: dict[str, Any] = {"eval_episodes": episodes, "eval_seed": eval_seed}
    if step is not None:
        checkpoint.choose(folder / "checkpoints", step)
    chosen = replace(saved.train, **NO_TRAINING, **{name: value for name, value in given.items() if value is not None})
    driver = make_driver(setup(replace(saved, train=chosen), trains=False))
    learned = driver.place(load(folder, driver, step))
    each = f"each of {driver.members} seeds of " if driver.members > 1 else ""
    say_compiling(f"judging {chosen.eval_episodes} episodes of {each}{folder}")
    evaluation = driver.fetch(driver.evaluate(learned))
    found = summaries.verdict(evaluation.returns, saved, _data_info(folder, json_files.read(folder / "config.json")))
    spread = " ".join(f"{value:.1f}" for value in found["eval_return_per_seed"])
    note = report.nonfinite_episodes(evaluation)
    return "\n".join(
        [
            f"{saved.agent} on {saved.env}: {chosen.eval_episodes} greedy episodes of each of {driver.members} runs",
            *(f"  {line}" for line in summaries.in_words(found)),
            f"  per run {spread}; mean length {evaluation.lengths.mean():.0f}",
            *([f"  {note}"] if note else []),
        ]
    )
