"""What is known of a run when it is over: what made it, what it cost, what it is worth, and the pictures."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from rlx import config, metrics, parallel, report
from rlx.config import RunConfig
from rlx.evaluate import Evaluation, watchable
from rlx.experiment import Moment, Setup
from rlx.train.driver import Driver, Report
from rlx.wholes import Keeper

PACKAGES = ("jax", "jaxlib", "flax", "optax", "distrax", "brax", "gymnax", "orbax-checkpoint", "numpy")


def origin() -> dict[str, Any]:
    """What made a run: versions, hardware, the commit of a checkout."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    git = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--abbrev=40"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        versions["commit"] = commit
    hardware = parallel.describe() | {"machine": platform.machine(), "system": platform.system()}
    return {"versions": versions | {"python": platform.python_version()}, "hardware": hardware}


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
