"""Running a configuration: builds agent, environment and driver, trains, and yields what there is to see."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from rlx import agents, envs, normalize, parallel
from rlx.config import RunConfig, members, resolve
from rlx.evaluate import Evaluation
from rlx.metrics import process_age_s, record
from rlx.train import driver as host
from rlx.train import memory, roles
from rlx.train.driver import Driver, Report
from rlx.train.fused import SEQUENTIAL, Fused
from rlx.train.pipelined import Groups, Pipelined
from rlx.train.settings import make_plan, parse_split
from rlx.train.tick import LAGGED
from rlx.types import Env, Key, RlxError, State


class Result(NamedTuple):
    """What `fit` returns. Arrays of several members (seeds times hyper-parameter values) lead with `[M, ...]`."""

    state: State  # of the agent, on the host, [M, ...]
    statistics: normalize.Statistics  # of the observations, [M, ...]
    act: Callable[..., np.ndarray]  # (observation [..., O], member=0) -> greedy action [..., A]
    metrics: list[dict[str, Any]]  # as the lines of metrics.jsonl
    evaluation: Evaluation  # of the final policy, [M, N]
    config: RunConfig


def make_task(config: RunConfig, env: Env, devices: int, shards: int) -> roles.Task:
    """Binds agent, environment and settings for `shards` logical shards. Raises RlxError for sizes that cannot be."""
    train = config.train
    if train.spread == "seeds" and len(members(config)) % devices:
        raise RlxError(f"--spread seeds: {len(members(config))} runs do not divide over {devices} devices")
    plan = make_plan(train, shards)
    axes = (parallel.DEVICE, parallel.SHARD) if train.spread == "data" else (parallel.SHARD,)
    agent = agents.load(config.agent).make(config.network, env.spec, axes)
    return roles.Task(agent, env, envs.vectorise(env, plan.shard_envs, plan.shard_pool), train, plan, axes)


def make_driver(config: RunConfig) -> Driver:
    """The driver, ready to run; nothing is compiled or allocated yet. Raises RlxError where memory cannot hold it."""
    train = config.train
    split = None
    if train.driver == "pipelined" and train.split != "1":
        split = parse_split(train.split, parallel.local_device_count())
    groups = parallel.split_devices(split) if split else [parallel.pick_devices(train.num_devices)] * 3
    devices = [device for group in groups for device in group] if split else groups[0]
    unit = math.lcm(*map(len, groups)) if train.spread == "data" else 1
    shards = train.num_shards or unit
    if shards % unit:
        raise RlxError(f"--num-shards {shards}: must be a multiple of {unit}, so that every device holds as many")
    if split and train.spread != "data":
        raise RlxError("--spread seeds: does not go with a split; use --split 1 or --driver fused")
    env = envs.make(config.env, backend=config.backend)
    task = make_task(config, env, len(devices), shards)
    everyone = members(config)
    names = [name for name in everyone[0] if name != "seed"]
    hypers = agents.load(config.agent).Hypers(
        **{name: np.asarray([member[name] for member in everyone], np.float32) for name in names}
    )
    seeds = np.asarray([member["seed"] for member in everyone])
    memory.check(task, len(seeds), groups)
    if split:
        return Pipelined(task, Groups(*groups), seeds, hypers)
    return Fused(task, devices, seeds, hypers, SEQUENTIAL if train.driver == "fused" else LAGGED)


def run(driver: Driver, learned: Any = None) -> Iterator[tuple[Report, dict[str, Any]]]:
    """Trains, from `learned` if given; yields every report with its line for metrics.jsonl."""
    for report in host.train(driver, learned):
        yield report, record(report, process_age_s())


def greedy(driver: Driver, learned: Any) -> Callable[..., np.ndarray]:
    """The greedy policy as a plain function of raw observations: `(observation [..., O], member=0) -> [..., A]`."""
    task = driver.task

    @jax.jit
    def act(learned: Any, observation: jax.Array, key: Key) -> jax.Array:
        policy = task.agent.acting(learned["agent"])
        return task.agent.act_greedy(policy, roles.observed(task, learned["statistics"], observation), key)[0]

    def policy(observation: Any, member: int = 0) -> np.ndarray:
        one = jax.tree.map(lambda x: x[member], learned)
        return np.asarray(act(one, np.asarray(observation, np.float32), jax.random.key(0)))

    return policy


def fit(
    agent: str = "sac",
    env: str = "gymnax:Pendulum-v1",
    backend: str | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    **settings: Any,
) -> Result:
    """Trains in this process and returns the result; the settings are those of `rlx train`, with underscores.

    `progress` is called with every line of metrics. Raises RlxError for a name or size that cannot be.

        result = rlx.fit("sac", "gymnax:Pendulum-v1", total_env_steps=20_000, num_seeds=4)
    """
    config = resolve(agent, env, backend, **settings)
    driver = make_driver(config)
    lines = []
    for report, line in run(driver):
        lines.append(line)
        if progress is not None:
            progress(line)
    learned = driver.fetch(driver.learned(report.state))
    assert report.evaluation is not None  # the last report always evaluates
    act = greedy(driver, learned)
    return Result(learned["agent"], learned["statistics"], act, lines, report.evaluation, config)
