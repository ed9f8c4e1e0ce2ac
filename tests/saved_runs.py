"""Run folders as training leaves them, with random numbers for weights, so that nothing needs to be trained."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlx import config
from rlx.build import make_driver, setup
from rlx.runs import checkpoint, folders, policies
from rlx.train.loop import Driver

SMALL: dict[str, Any] = {"num_seeds": 2, "total_env_steps": 1000}


def make_run(folder: Path, agent: str, env: str, steps: Any = (40,), scale: float = 1.0, **settings: Any) -> Driver:
    """Writes a run of two seeds with checkpoints at `steps`, its matrices times `scale`; returns a driver for it."""
    run_config = config.resolve(agent, env, **SMALL | settings)
    driver = make_driver(setup(replace(run_config, train=replace(run_config.train, **policies.NO_TRAINING))))
    shapes, structure = jax.tree.flatten(driver.policy_snapshot_shapes)
    for step in steps:
        rng = np.random.default_rng(step)
        leaves = [(rng.normal(size=x.shape) * (scale if x.ndim > 2 else 1)).astype(x.dtype) for x in shapes]
        snapshot = jax.tree.unflatten(structure, leaves)
        statistics = snapshot["statistics"]
        snapshot["statistics"] = statistics.replace(variance=np.abs(statistics.variance) + 0.1)
        checkpoint.save(folder / "checkpoints", step, snapshot)
    (folder / "config.json").write_text(json.dumps(config.to_json(run_config)))
    return driver


def make_folder(folder: Path) -> Path:
    """The files of a finished run without a policy, the last line of its metrics torn."""
    (folder / "resume" / "100").mkdir(parents=True)
    (folder / "resume" / "100" / "data").write_bytes(bytes(2**20))
    (folder / "config.json").write_text("{}")
    (folder / "metrics.jsonl").write_text('{"run_step": 100, "eval/return_mean": -3.25}\n{"run_step": 200}\n{"run_st')
    folders.mark(folder, "finished")
    return folder
