"""A run's saved policies, loaded to act: for evaluation, pages and export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx import config
from rlx.config import RunConfig
from rlx.errors import RlxError
from rlx.experiment import make_driver, setup
from rlx.runs import checkpoint, runner
from rlx.train.steps import Task


class SavedPolicy(NamedTuple):
    """What some members of a run saved at one step."""

    config: RunConfig
    members: list[dict[str, float]]  # seed and hyper-parameters of every member of the run
    step: int
    task: Task  # agent and environment; made for acting, not for training
    snapshot: Any  # agent and statistics of the chosen members, [M, ...]


def load(folder: Path, members: Sequence[int] = (0,), step: int | None = None, **train: Any) -> SavedPolicy:
    """Loads policies of the run in `folder`, by default from its last checkpoint.

    `train` are settings of the evaluation, such as `eval_episodes`. Raises RlxError where there is no such run,
    checkpoint or member, or where the checkpoint cannot be read.
    """
    run_config = config.from_json(folder / "config.json")
    every_member = config.members(run_config)
    for member in members:
        if not 0 <= member < len(every_member):
            valid = f"0 to {len(every_member) - 1}" if len(every_member) > 1 else "0 alone"
            raise RlxError(f"--member {member}: {folder} has {valid}; choose one of those")
    step = checkpoint.choose(folder / "checkpoints", step)
    acting = replace(run_config, train=replace(run_config.train, **runner.NO_TRAINING | train))
    driver = make_driver(setup(acting, trains=False))
    snapshot = jax.tree.map(lambda x: jnp.asarray(x[list(members)]), runner.load(folder, driver, step))
    return SavedPolicy(run_config, every_member, step, driver.task, snapshot)
