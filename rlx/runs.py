"""Runs in folders: trained, resumed, judged; their configuration, metrics, checkpoints, summary, curve and rollout."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

from rlx import checkpoint, config, folders, metrics, parallel, report, wholes
from rlx.config import RunConfig
from rlx.console import Console
from rlx.evaluate import Evaluation, watchable
from rlx.experiment import Moment, Setup, make_driver, run, setup
from rlx.interrupts import Interrupted, Interrupts
from rlx.train.driver import Driver, Report, Resumed
from rlx.types import RlxError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "distrax", "brax", "gymnax", "orbax-checkpoint", "numpy")
NO_TRAINING: dict[str, Any] = {  # settings under which judging a run asks for no more room than judging needs
    "driver": "fused",
    "split": "1",
    "dataset": "",
    "offline_steps": 0,
    "total_env_steps": 100,
    "num_devices": 1,
    "num_shards": 1,
    "num_envs": 1,
    "rollout_length": 1,
    "n_step": 1,
    "batch_size": 1,
    "replay_capacity": 1,
    "pool_size": 1,
    "warmup_env_steps": 0,
}
HOW = ("num_devices", "split", "depth", "keep", "on_nonfinite", "checkpoint_every", "checkpoint_replay")  # not what


def warn(text: str) -> None:
    """Tells the user what was found and dealt with."""
    print(f"rlx: {text}", file=sys.stderr, flush=True)


def origin() -> dict[str, Any]:
    """What made a run: versions, hardware, the commit of a checkout."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    git = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--abbrev=40"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        versions["commit"] = commit
    hardware = parallel.describe() | {"machine": platform.machine(), "system": platform.system()}
    return {"versions": versions | {"python": platform.python_version()}, "hardware": hardware}


def identity(run_config: RunConfig) -> str:
    """A digest of what a run computes; how and where it does may change when it is resumed."""
    content = config.to_json(run_config)
    content["settings"] = {name: value for name, value in content["settings"].items() if name not in HOW}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def train(run_config: RunConfig, folder: Path, init_from: str | None = None, quiet: bool = False) -> dict[str, Any]:
    """Trains a configuration into `folder` and returns the summary; of several processes, the first one writes.

    Raises Interrupted where a signal ended it early.
    """
    given = setup(run_config)
    learned = _initial(given, init_from)
    with Interrupts() as interrupts, _claimed(folder, fresh=True):
        if parallel.is_first_process():
            content = config.to_json(given.config) | {"init_from": init_from, "identity": identity(given.config)}
            metrics.write_json(folder / "config.json", content | origin())
        return _train(given, folder, learned, None, -1, quiet, interrupts)


def resume(folder: Path, changes: dict[str, Any], quiet: bool = False) -> dict[str, Any]:
    """Goes on with a run that was interrupted, from its newest good checkpoint, and returns the summary.

    `changes` are settings of `HOW` it runs. A run without a checkpoint begins again; a finished one is left alone.
    """
    saved = config.from_json(folder / "config.json")
    content = json.loads((folder / "config.json").read_text())
    if content.get("identity") != identity(saved):
        raise RlxError(f"{folder / 'config.json'}: is not as the run wrote it; restore it from a copy")
    if (folder / "summary.json").exists():
        warn(f"{folder}: is finished; nothing is left to do")
        return dict(json.loads((folder / "summary.json").read_text()))
    given = setup(config.resolve(saved.agent, saved.env, saved.backend, **(config.flat(saved) | changes)))
    if identity(given.config) != content["identity"]:
        raise RlxError(f"{saved.train.dataset}: is not the data set that the run began with; put that one back")
    with Interrupts() as interrupts, _claimed(folder, fresh=False):
        found = wholes.find(_place(given.config, folder), warn)
        resumed = None
        if found is None:
            warn(f"{folder}: holds no checkpoint of everything; beginning again")
        else:
            step, offline = found
            resumed = offline, wholes.unpack(_place(given.config, folder), step, make_driver(given, offline))
            _tell_differences(content, saved, given.config)
        learned = None if resumed else _initial(given, content["init_from"])
        return _train(given, folder, learned, resumed, found[0] if found else -1, quiet, interrupts)


def is_deterministic(folder: Path) -> bool:
    """Whether a run was asked to be, by --deterministic."""
    return config.from_json(folder / "config.json").train.deterministic


def _tell_differences(content: dict[str, Any], saved: RunConfig, now: RunConfig) -> None:
    """Says what has changed since the run began, so that its bits may differ from those of an uninterrupted one."""
    there, here = ({**c["versions"], **c["hardware"]} for c in (content, origin()))
    changed = [f"{name} {there[name]} is now {here.get(name)}" for name in there if there[name] != here.get(name)]
    for name in ("num_devices", "split"):
        if (old := getattr(saved.train, name)) != (new := getattr(now.train, name)):
            changed.append(f"{name} {old} is now {new}")
    if changed:
        warn(f"resumed elsewhere ({'; '.join(changed)}): results are as good, but bits may differ")


def _initial(given: Setup, init_from: str | None) -> Any:
    """Agent and statistics of another run, if one is named."""
    if init_from is None:
        return None
    return load(Path(init_from), make_driver(given, offline=given.config.train.offline_steps > 0))


@contextlib.contextmanager
def _claimed(folder: Path, fresh: bool) -> Iterator[None]:
    """Claims the folder for the first process's writing, and notes there how the run ends."""
    if not parallel.is_first_process():
        yield
        return
    with folders.claimed(folder, fresh):
        folders.mark(folder, "running")
        try:
            yield
        except Interrupted as end:
            folders.mark(folder, "interrupted", str(end))
            raise
        except BaseException as error:
            with contextlib.suppress(OSError):
                folders.mark(folder, "failed", f"{type(error).__name__}: {error}".splitlines()[0])
            raise
        folders.mark(folder, "finished")


def _place(run_config: RunConfig, folder: Path) -> checkpoint.Folder:
    """Where a run keeps its checkpoints of everything; each of several processes its own."""
    base = run_config.train.checkpoint_dir
    root = checkpoint.locate(base) / folder.name if base else checkpoint.locate(folder) / "resume"
    return root / f"process-{parallel.process()}" if parallel.several_processes() else root


def _train(
    given: Setup,
    folder: Path,
    learned: Any,
    resumed: tuple[bool, Resumed] | None,
    begun_at: int,
    quiet: bool,
    interrupts: Interrupts,
) -> dict[str, Any]:
    """Trains from wherever the run stands, at run_step `begun_at`, to its end; returns the summary."""
    writes = parallel.is_first_process()
    keeper, clock = Keeper(given.config, folder), Clock()
    keeper.forget_after(begun_at)
    spent_s = metrics.cut(folder / "metrics.jsonl", begun_at) if writes else 0.0
    for note in given.notes:
        warn(note)
    with Console(given.config, quiet or not writes) as console, _lines(folder, writes) as lines:
        for moment in run(given, learned, resumed, interrupts.asked):
            found = moment.report
            line = metrics.record(found, spent_s + metrics.process_age_s())
            if found.metrics and found.run_step > begun_at:
                lines.write(json.dumps(line) + "\n")
                lines.flush()
                clock.saw(found, line)
                console.show(line)
            keeper.keep(moment)
            if found.ended:
                keeper.wait()
                _leave(folder, found, interrupts)
    keeper.wait()
    assert found.evaluation is not None  # the last report always evaluates
    summary = summarise(given, moment, clock, keeper)
    if writes:
        draw(folder, given.config, moment.driver, found.evaluation)
        summary["wall_time_s"] = round(spent_s + metrics.process_age_s(), 2)
        metrics.write_json(folder / "summary.json", summary)
        console.finish(summary, folder)
    return summary


def _leave(folder: Path, found: Report, interrupts: Interrupts) -> None:
    number = interrupts.number or 15  # of several processes, another one was told
    raise Interrupted(number, f"saved at step {found.run_step} in {folder}; go on with `rlx train --resume {folder}`")


class Keeper:
    """Saves what a run learns, on a thread of its own: policies at evaluations, everything at checkpoints."""

    def __init__(self, run_config: RunConfig, folder: Path) -> None:
        self.train, self.identity = run_config.train, identity(run_config)
        self.policies, self.wholes = checkpoint.locate(folder) / "checkpoints", _place(run_config, folder)
        self.digest: str | None = None  # of everything, at the last checkpoint
        self.blocked_s, self.count = 0.0, 0
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def forget_after(self, run_step: int) -> None:
        """Removes what a resumed run will make again."""
        for folder in (self.policies, self.wholes):
            checkpoint.remove_after(folder, run_step)

    def keep(self, moment: Moment) -> None:
        """Copies what is due here off the device and begins to save it. Raises RlxError where the last save failed."""
        found, driver = moment.report, moment.driver
        if self._pending is not None and self._pending.done():
            self.wait()
        if not found.saves and found.evaluation is None:
            return
        begun = time.perf_counter()
        learned = jax.tree.map(np.array, driver.fetch(driver.learned(found.state))) if found.evaluation else None
        whole = wholes.pack(driver, found, self.train.checkpoint_replay) if found.saves else None
        self.wait()
        self._pending = self._thread.submit(self._save, learned, whole, found.run_step, wholes.about(moment))
        self.blocked_s += time.perf_counter() - begun
        self.count += found.saves

    def wait(self) -> None:
        """Until nothing is being saved. Raises RlxError where it failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _save(self, learned: Any, whole: Any, run_step: int, about: dict[str, Any]) -> None:
        """The policy first: a run that goes on from here does not evaluate again."""
        if learned is not None and parallel.is_first_process() and run_step not in checkpoint.steps(self.policies):
            checkpoint.save(self.policies, run_step, learned)
        if whole is not None and run_step not in checkpoint.steps(self.wholes):
            about = about | {"identity": self.identity}
            self.digest = checkpoint.save(self.wholes, run_step, whole, about)
            checkpoint.prune(self.wholes, self.train.keep)


def _lines(folder: Path, writes: bool) -> IO[str]:
    """Where metrics go: metrics.jsonl, or nowhere in the processes that do not write."""
    return (folder / "metrics.jsonl").open("a") if writes else open(os.devnull, "w")


class Clock:
    """Adds up the seconds that reports tell of."""

    def __init__(self) -> None:
        self.first_update_s: float | None = None
        self.steps = self.updates = 0
        self.seconds = 0.0
        self._last: Report | None = None

    def saw(self, found: Report, line: dict[str, Any]) -> None:
        """Rates leave out the first stretch, which holds the warm-up."""
        if self._last is not None:
            self.steps += found.env_step - self._last.env_step
            self.updates += found.critic_step - self._last.critic_step
            self.seconds += found.train_s
        if self.first_update_s is None and found.critic_step > 0:
            self.first_update_s = line["wall_time_s"]
        self._last = found


def summarise(given: Setup, moment: Moment, clock: Clock, keeper: Keeper) -> dict[str, Any]:
    """summary.json: what the final policy is worth and what it cost."""
    run_config, driver, found = given.config, moment.driver, moment.report
    assert found.evaluation is not None
    seconds = max(clock.seconds, 1e-9)
    result = metrics.evaluation_summary(found.evaluation)
    return {
        "agent": run_config.agent,
        "env": run_config.env,
        "backend": run_config.backend,
        "driver": run_config.train.driver,
        "split": run_config.train.split,
        "members": config.members(run_config),
        "env_steps": found.env_step,
        "critic_steps": found.critic_step,
        "actor_steps": found.actor_step,
        "eval_return_mean": result["eval/return_mean"],
        "eval_return_per_seed": result["eval/return_per_seed"],
        "eval_episodes": run_config.train.eval_episodes,
        "compile_s": round(sum(program.compile_s for program in driver.programs), 2),
        "time_to_first_update_s": clock.first_update_s,
        "env_steps_per_s": round(clock.steps * driver.members / seconds, 1),
        "updates_per_s": round(clock.updates * driver.members / seconds, 1),
        "save_blocked_s": round(keeper.blocked_s, 3),
        "saves": keeper.count,
        "digest": keeper.digest,
        "device": parallel.describe(),
    }


def draw(folder: Path, run_config: RunConfig, driver: Driver, evaluation: Evaluation) -> None:
    """curve.png from metrics.jsonl, and rollout.html with the first episodes of the first member."""
    title = f"{run_config.agent} on {run_config.env}"
    lines = [line for line in metrics.read(folder / "metrics.jsonl") if "eval/return_per_seed" in line]
    returns = np.asarray([line["eval/return_per_seed"] for line in lines])
    steps = np.asarray([line["env_step"] for line in lines])
    report.curve(folder / "curve.png", [report.Series(run_config.agent, steps, returns)], title)
    scene = watchable(driver.task.env)
    shown = "observations" if scene is None else "poses"
    episodes = []
    recording = {name: film[0] for name, film in evaluation.recording.items()}
    for i in range(recording["reward"].shape[1]):
        end = int(evaluation.lengths[0, i])
        episode = {"rewards": recording["reward"][:end, i], "actions": recording["action"][:end, i]}
        episodes.append(episode | {shown: recording["view"][:end, i], "return": evaluation.returns[0, i]})
    report.rollout_page(folder / "rollout.html", scene, episodes, title)


def load(folder: Path, driver: Driver, step: int | None = None) -> Any:
    """Agent and statistics `[M, ...]` that a run saved, for a driver of the same networks.

    One member serves for any number. Raises RlxError where the run's networks are not the driver's.
    """
    saved = config.from_json(folder / "config.json")
    count = len(config.members(saved))
    if count not in (1, driver.members):
        raise RlxError(f"{folder}: holds {count} members but {driver.members} are to start; use one, or as many")
    shapes = driver.learned(driver.shapes)
    template = jax.tree.map(lambda x: np.zeros((count, *x.shape[2:]), x.dtype), shapes)
    learned = checkpoint.restore(folder / "checkpoints", template, step)
    return jax.tree.map(lambda x: np.broadcast_to(x, (driver.members, *x.shape[1:])), learned)


def judge(folder: Path, episodes: int | None, eval_seed: int | None, step: int | None) -> str:
    """Evaluates what a run saved; returns the line to print."""
    saved = config.from_json(folder / "config.json")
    if episodes is not None and episodes < 1:
        raise RlxError(f"--episodes {episodes}: must be at least 1")
    given: dict[str, Any] = {"eval_episodes": episodes, "eval_seed": eval_seed}
    chosen = replace(saved.train, **NO_TRAINING, **{name: value for name, value in given.items() if value is not None})
    driver = make_driver(setup(replace(saved, train=chosen)))
    evaluation = driver.fetch(driver.evaluate(driver.place(load(folder, driver, step))))
    per_seed = evaluation.returns.mean(axis=1)
    spread = " ".join(f"{value:.1f}" for value in per_seed)
    return (
        f"{saved.agent} on {saved.env}: return {per_seed.mean():.1f} over {chosen.eval_episodes} episodes"
        f" (per seed: {spread}), mean length {evaluation.lengths.mean():.0f}"
    )
