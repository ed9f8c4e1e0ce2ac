"""What a run begins from: another run's policy, or the parts of other agents' runs that its agent adopts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rlx import config
from rlx.config import RunConfig
from rlx.errors import RlxError, say
from rlx.runs import checkpoint, policies
from rlx.settings import flag_of
from rlx.train.loop import Driver
from rlx.train.task import Task


class SourceRun(NamedTuple):
    """A run that gives a part of its policy."""

    name: str  # in messages
    config: RunConfig
    task: Task
    snapshot: Any  # agent and statistics of its members, [members, ...]


def source_run(run: Path) -> SourceRun:
    """The policies that a run in a folder saved last. Raises RlxError where there are none."""
    saved = policies.load(run, range(len(config.members(config.from_json(run / "config.json")))))
    return SourceRun(str(run), saved.config, saved.task, saved.snapshot)


def sources(init_from: str | None) -> dict[str, Path]:
    """The runs that `--init-from` names: one by no name, or by the names of the parts that they give.

    Raises RlxError for a part without a name or a run, and for one that is there twice.
    """
    if not init_from:
        return {}
    if "=" not in init_from or Path(init_from).exists():
        return {"": Path(init_from)}
    runs: dict[str, Path] = {}
    for name, _, run in (part.partition("=") for part in init_from.split(",")):
        if not name or not run:
            raise RlxError(f"--init-from {init_from}: give a run, or of each part its name and run, as in policy=RUN")
        if name in runs:
            raise RlxError(f"--init-from {init_from}: names {name} twice; give each part once")
        runs[name] = Path(run)
    return runs


def configs(init_from: str | None) -> dict[str, RunConfig]:
    """The configurations of the runs that `--init-from` names. Raises RlxError for one that cannot be read."""
    return {name: config.from_json(run / "config.json") for name, run in sources(init_from).items()}


def described(run_config: RunConfig, source_runs: Mapping[str, RunConfig]) -> RunConfig:
    """The configuration with the texts that describe parts of other runs, the `source_runs` by the names of the parts.

    By no name, it is a run of the same agent, which has such texts. Raises RlxError for a text that was given.
    """
    texts = {}
    for name, setting in config.settings(run_config.agent).items():
        if not setting.describes:
            continue
        if getattr(run_config.network, name):
            raise RlxError(
                f"{flag_of(name)}: is written down by --init-from {setting.describes}=RUN; leave it out and give that"
            )
        if "" in source_runs:
            texts[name] = getattr(source_runs[""].network, name, "")
        elif setting.describes in source_runs:
            texts[name] = config.description(source_runs[setting.describes])
    return replace(run_config, network=replace(run_config.network, **texts)) if texts else run_config


def digests(init_from: str | None) -> dict[str, str]:
    """Digests of the policies to begin from, by their runs."""
    places = {str(run): run / "checkpoints" for run in sources(init_from).values()}
    return {run: checkpoint.manifest(place, checkpoint.choose(place, None))["digest"] for run, place in places.items()}


def check_same(content: dict[str, Any], folder: Path) -> None:
    """Raises RlxError where the run in `folder` began from other policies, by the `content` of its config.json."""
    known = content.get("init_from_digests")  # an rlx before this one did not write it
    if known is not None and known != digests(content["init_from"]):
        raise RlxError(f"{content['init_from']}: is not as it was when {folder} began from it; restore it")


def snapshot(driver: Driver, agent: str, init_from: str | None) -> Any:
    """Agent and statistics to begin from, `[M, ...]`; None where no run is named.

    Raises RlxError for a part that the agent does not adopt, or that does not fit.
    """
    runs = sources(init_from)
    if not runs or "" in runs:
        return policies.load_snapshot(runs[""], driver) if runs else None
    return adopted(driver, agent, {name: source_run(run) for name, run in runs.items()})


def check(driver: Driver, agent: str, init_from: str) -> None:
    """Raises what `snapshot` would, and compiles nothing."""
    runs = sources(init_from)
    if "" in runs:
        policies.load_snapshot(runs[""], driver)
        return
    _fitting(driver, agent, {name: source_run(run) for name, run in runs.items()})


def adopted(driver: Driver, agent: str, source_runs: Mapping[str, SourceRun]) -> Any:
    """Agent and statistics with parts of other runs, `[M, ...]`. Raises RlxError for parts that do not fit."""
    others = _fitting(driver, agent, source_runs)
    state = driver.fetch(driver.policy_snapshot(driver.init()))["agent"]
    for name, other in others.items():
        state = jax.device_get(jax.vmap(driver.task.agent.adopts[name])(state, other["agent"]))
    return {"agent": state, "statistics": next(iter(others.values()))["statistics"]}


def _fitting(driver: Driver, agent: str, source_runs: Mapping[str, SourceRun]) -> dict[str, Any]:
    """What each of the runs gives, `[M, ...]`. Raises RlxError where it does not fit the driver's agent."""
    adopts, shapes = driver.task.agent.adopts, driver.policy_snapshot_shapes["agent"]
    others: dict[str, Any] = {}
    for name, run in source_runs.items():
        if name not in adopts:
            parts = ", ".join(adopts) or "nothing"
            raise RlxError(f"--init-from {name}={run.name}: {agent} adopts {parts}, not {name!r}")
        other = _for_members(run, driver)
        adopt = jax.vmap(adopts[name])
        if jax.tree.map(np.shape, jax.eval_shape(adopt, shapes, other["agent"])) != jax.tree.map(np.shape, shapes):
            raise RlxError(f"{run.name}: what {agent} adopts as {name!r} has other sizes; give both the same networks")
        other["statistics"] = other["statistics"].replace(returns=None)  # parts begin with none
        first = next(iter(others.values()), other)
        if not all(jax.tree.leaves(jax.tree.map(np.array_equal, first["statistics"], other["statistics"]))):
            raise RlxError(
                f"{run.name}: saw other observations than the first run of --init-from; use runs on the same data"
            )
        others[name] = other
    return others


def check_same_shapes(name: str, driver: Driver, snapshot: Any) -> None:
    """Raises RlxError where a policy snapshot is not of the driver's agent, networks and number of members."""
    if jax.tree.map(np.shape, snapshot["agent"]) != jax.tree.map(np.shape, driver.policy_snapshot_shapes["agent"]):
        adopts = driver.task.agent.adopts
        part = f", or give a part alone, as in {next(iter(adopts))}=FOLDER of a run" if adopts else ""
        raise RlxError(f"{name}: is of another agent, other networks or members; begin from one of the same{part}")


def _for_members(run: SourceRun, driver: Driver) -> Any:
    """The policy snapshot of a run, for each of the driver's members; one member serves for any number."""
    members, count = driver.members, len(config.members(run.config))
    if count not in (1, members):
        raise RlxError(f"{run.name}: holds {count} members but {members} are to start; use one, or as many")
    _check_same_inputs(run.name, run.task, driver.task)
    return jax.tree.map(lambda x: np.broadcast_to(x, (members, *x.shape[1:])), jax.device_get(run.snapshot))


def _check_same_inputs(run: str, theirs: Task, ours: Task) -> None:
    """Raises RlxError where a run's agent observes or acts with other numbers than the one that adopts a part of it.

    What else may make its environment another one is said: going on elsewhere can be meant.
    """
    sizes = [(task.env.spec.observation_size, task.env.spec.action_size) for task in (theirs, ours)]
    if sizes[0] != sizes[1]:
        (observed, acted), (here, action) = sizes
        raise RlxError(
            f"{run}: observes {observed} numbers and acts with {acted}, this run {here} and {action};"
            " use a run in the same environment"
        )
    for name in ("normalize_observations", "observation_clip"):
        their, our = getattr(theirs.config, name), getattr(ours.config, name)
        if their != our:
            raise RlxError(f"{flag_of(name)} {our}: {run} has {their}, so it saw other numbers; give both the same")
    wrappers = [" ".join(task.config.wrappers) or "none" for task in (theirs, ours)]
    if wrappers[0] != wrappers[1]:
        say(f"rlx: {run} was trained with --wrappers {wrappers[0]}, this run has {wrappers[1]}")
