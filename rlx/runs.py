"""Run folders: where a run keeps its configuration, metrics, checkpoints, summary, curve and rollout."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

from rlx import checkpoint, config, metrics, parallel, report
from rlx.config import RunConfig
from rlx.console import Console
from rlx.evaluate import Evaluation, watchable
from rlx.experiment import make_driver, run, settle
from rlx.train.driver import Driver, Report
from rlx.types import RlxError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "distrax", "brax", "gymnax", "orbax-checkpoint", "numpy")
NO_TRAINING: dict[str, Any] = {  # settings under which judging a run asks for no more room than judging needs
    "driver": "fused",
    "split": "1",
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
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def choose_folder(root: Path, name: str | None, run_config: RunConfig, overwrite: bool) -> Path:
    """The folder of a new run, the same for all processes.

    Raises RlxError, in all of them, for a name that leaves the root or a folder that is there already.
    """
    try:
        said = str(_choose_folder(root, name, run_config, overwrite)) if parallel.is_first_process() else ""
    except RlxError as error:
        said = f"!{error}"
    said = parallel.agree(said)
    if said.startswith("!"):
        raise RlxError(said[1:])
    return Path(said)


def _choose_folder(root: Path, name: str | None, run_config: RunConfig, overwrite: bool) -> Path:
    if name is None:
        base = f"{run_config.agent}-{run_config.env.replace(':', '-')}-s{run_config.train.seed}"
        if overwrite or not (root / base).exists():
            return root / base
        return next(folder for i in itertools.count(2) if not (folder := root / f"{base}-{i}").exists())
    if not NAME.fullmatch(name):
        raise RlxError(
            f"--run-name {name!r}: use letters, digits, '.', '_' and '-' only, so that it stays inside {root}"
        )
    folder = root / name
    if folder.exists() and not overwrite:
        raise RlxError(f"{folder}: is there already; choose another --run-name, or --overwrite to replace it")
    return folder


def _clear(folder: Path) -> None:
    """Makes the folder of a new run, in place of an older one. Raises RlxError, and removes nothing, for all else."""
    try:
        if folder.exists():
            if not (folder / "config.json").is_file() and any(folder.iterdir()):
                raise RlxError(f"{folder}: is no run folder, so --overwrite leaves it alone; choose another --run-name")
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise RlxError(f"{folder}: cannot be made ({error.strerror or error}); choose another --run-dir") from None


def origin() -> dict[str, Any]:
    """What made a run: versions, hardware, the commit of a checkout."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    git = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--abbrev=40"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        versions["commit"] = commit
    hardware = parallel.describe() | {"machine": platform.machine(), "system": platform.system()}
    return {"versions": versions | {"python": platform.python_version()}, "hardware": hardware}


def train(run_config: RunConfig, folder: Path, init_from: str | None = None, quiet: bool = False) -> dict[str, Any]:
    """Trains a configuration into `folder` and returns the summary; of several processes, the first one writes."""
    run_config = settle(run_config)
    driver = make_driver(run_config)
    initial = load(Path(init_from), driver) if init_from else None
    writes = parallel.is_first_process()
    if writes:
        _clear(folder)
        metrics.write_json(folder / "config.json", config.to_json(run_config) | origin())
    clock = Clock()
    with Console(run_config, driver, quiet or not writes) as console, _lines(folder, writes) as lines:
        for found, line in run(driver, initial):
            lines.write(json.dumps(line) + "\n")
            lines.flush()
            clock.saw(found, line)
            console.show(line)
            if found.evaluation is not None:
                checkpoint.save(folder / "checkpoints", found.env_step, driver.fetch(driver.learned(found.state)))
    assert found.evaluation is not None  # the last report always evaluates
    summary = summarise(run_config, driver, found, clock)
    if writes:
        draw(folder, run_config, driver, found.evaluation)
        summary["wall_time_s"] = round(metrics.process_age_s(), 2)
        metrics.write_json(folder / "summary.json", summary)
        console.finish(summary, folder)
    return summary


def _lines(folder: Path, writes: bool) -> IO[str]:
    """Where metrics go: metrics.jsonl, or nowhere in the processes that do not write."""
    return (folder / "metrics.jsonl").open("w") if writes else open(os.devnull, "w")


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


def summarise(run_config: RunConfig, driver: Driver, found: Report, clock: Clock) -> dict[str, Any]:
    """summary.json: what the final policy is worth and what it cost."""
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
    driver = make_driver(replace(saved, train=chosen))
    evaluation = driver.fetch(driver.evaluate(driver.place(load(folder, driver, step))))
    per_seed = evaluation.returns.mean(axis=1)
    spread = " ".join(f"{value:.1f}" for value in per_seed)
    return (
        f"{saved.agent} on {saved.env}: return {per_seed.mean():.1f} over {chosen.eval_episodes} episodes"
        f" (per seed: {spread}), mean length {evaluation.lengths.mean():.0f}"
    )
