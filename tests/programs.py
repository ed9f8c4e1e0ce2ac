"""Runs at less cost. Drivers with equal programs compile them once in a process: most runs of the suite differ in how
long they are, how often they report and where they write, none of which is compiled. Checkpoints are plain files, as
several processes write them, in a twentieth of Orbax's time; one curve is drawn, and copied to later runs."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from rlx import agents, build, parallel
from rlx.envs.env_params import of_members
from rlx.runs import leaf_files, summaries
from rlx.train import datasets, memory
from rlx.train.config import TrainConfig
from rlx.train.fused import Fused
from rlx.train.plan import Plan, make_offline_plan, make_plan
from rlx.train.task import Tables, Task
from rlx.visual import plots

# What no program depends on, or only by what is in the plan.
RUN: tuple[str, ...] = (
    "total_env_steps",
    "offline_steps",
    "warmup_env_steps",
    "offline_fraction",
    "offline_ratio",
    "ratio",
    "dataset",
)
RUN += ("eval_every", "log_every", "checkpoint_every", "checkpoint_dir", "keep", "checkpoint_replay", "tensorboard")
RUN += ("wandb", "seed", "num_seeds", "scale_rewards")
HOST = ("iterations", "log_iterations", "eval_iterations", "checkpoint_iterations")
KNOWN = ("gymnax:", "brax:", "none:")  # environments that a name and settings make the same each time


def settings_of(train: TrainConfig) -> TrainConfig:
    """The settings without those that no program depends on."""
    default = TrainConfig()
    return replace(train, **{name: getattr(default, name) for name in RUN})


def identity(env: Any, depth: int = 8) -> Any:
    """What two environments have in common that step alike, as far as it can be seen in objects within objects."""
    if depth and isinstance(env, tuple):
        return type(env), *(identity(value, depth - 1) for value in env)
    if depth and hasattr(env, "__dict__") and not isinstance(env, type) and not callable(env):
        return type(env), *((name, identity(value, depth - 1)) for name, value in sorted(vars(env).items()))
    try:
        hash(env)
    except TypeError:
        return id(env)
    return env


def fixed(plan: Plan) -> Plan:
    """The plan without what only the host reads; of the offline part, a program knows whether there was one."""
    return plan._replace(prior=(bool(plan.prior[0]), 0, 0), **dict.fromkeys(HOST, 0))


class Compiled(NamedTuple):
    """What drivers of one kind share."""

    task: Task
    env: Any  # kept, since ids may be part of the key
    drivers: dict[Any, Fused]


class Reuse:
    """Stands in for three functions of `rlx.build`, and for what writes a run's folder."""

    def __init__(self) -> None:
        self.compiled: dict[Any, Compiled] = {}
        self.make_task, self.check_memory = build._task, memory.check
        self.checked: set[tuple[int, int]] = set()  # agents by id, and members
        self.plots = SimpleNamespace(**vars(plots) | {"curve": lambda *drawn: drawn, "save": self.save})
        self.picture = b""

    def task(self, run_setup: build.Setup, placement: build.Placement, offline: bool) -> tuple[Task, Tables | None]:
        config, env = run_setup.config, run_setup.env
        plan = (make_offline_plan if offline else make_plan)(config.train, placement.shards)
        shapes = run_setup.data and jax.tree.map(lambda x: (x.shape, x.dtype), tuple(run_setup.data[:3]))
        key = (
            *(agents.load(config.agent).make, config.network, offline, run_setup.trains, config.env, config.backend),
            *(settings_of(config.train), fixed(plan), str(placement), run_setup.sizes, str(shapes)),
            None if config.env.startswith(KNOWN) and of_members(env) is None else identity(env),
        )
        known = self.compiled.get(key)
        if known is None:
            task, tables = self.make_task(run_setup, placement, offline)
            self.compiled[key] = Compiled(task, env, {})
            return task, tables
        task = known.task._replace(config=config.train, plan=plan)
        dataset = run_setup.data
        if dataset is None or not any(plan.shard_offline):
            return task, None
        gammas = config.hypers.get("gamma", ())
        return task, datasets.to_tables(dataset, run_setup.sizes, config.train, task.columns, gammas)

    def fused(
        self, task: Task, devices: Any, seeds: Any, hypers: Any, schedule: Any, data: Tables | None, env_params: Any
    ) -> Fused:
        if env_params is not None:
            return Fused(task, devices, seeds, hypers, schedule, data, env_params)
        drivers = next((c.drivers for c in self.compiled.values() if c.task.agent is task.agent), {})
        key = len(seeds), tuple(devices), id(schedule)
        if key not in drivers:
            drivers[key] = Fused(task, devices, seeds, hypers, schedule, data, None)
            return drivers[key]
        driver = copy.copy(drivers[key])
        driver.task, driver.data = task, parallel.replicate(data, driver.devices)
        driver.first = driver.place(np.asarray(seeds, np.uint32)), driver.place(hypers)
        return driver

    def check(self, task: Task, members: int, *more: Any) -> None:
        """Traces as much as compiling does."""
        if (id(task.agent), members) not in self.checked:
            self.check_memory(task, members, *more)
            self.checked.add((id(task.agent), members))

    def save(self, drawn: Any, path: Path) -> None:
        """Draws a run's curve the first time."""
        if not self.picture:
            plots.save(plots.curve(*drawn), path)
            self.picture = path.read_bytes()
        path.write_bytes(self.picture)

    @contextmanager
    def __call__(self, orbax: bool = False) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(build, "_task", self.task)
            patch.setattr(build, "Fused", self.fused)
            patch.setattr(memory, "check", self.check)
            patch.setattr(summaries, "plots", self.plots)
            if not orbax:
                patch.setattr(leaf_files, "_write_orbax", leaf_files._write_bytes)
            yield


REUSE = Reuse()
