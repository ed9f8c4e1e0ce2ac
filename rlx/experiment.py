"""Running a configuration: builds agent, environment and driver, trains, and yields what there is to see."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from rlx import agents, envs, normalize, parallel
from rlx.config import RunConfig, members, resolve
from rlx.evaluate import Evaluation
from rlx.metrics import process_age_s, record
from rlx.train import autosplit, memory, roles
from rlx.train import driver as host
from rlx.train.driver import Driver, Report
from rlx.train.fused import SEQUENTIAL, Fused
from rlx.train.pipelined import Groups, Pipelined
from rlx.train.settings import TrainConfig, make_plan, parse_split
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


class Layout(NamedTuple):
    """Where a run goes."""

    groups: list[list[Any]]  # devices that collect, learn values and learn policies; the same ones where not split
    shards: int  # logical, in all
    split: bool


def lay_out(train: TrainConfig, split: tuple[int, int, int] | None) -> Layout:
    """Devices and logical shards; `split` counts each process's devices. Raises RlxError for what cannot be."""
    groups = parallel.split_devices(split) if split else [parallel.pick_devices(train.num_devices)] * 3
    unit = math.lcm(*map(len, groups)) if train.spread == "data" else 1
    shards = train.num_shards or unit
    if shards % unit:
        raise RlxError(f"--num-shards {shards}: must be a multiple of {unit}, so that every device holds as many")
    if split and train.spread != "data":
        raise RlxError("--spread seeds: does not go with a split; use --split 1 or --driver fused")
    return Layout(groups, shards, split is not None)


def asked_split(train: TrainConfig) -> tuple[int, int, int] | None:
    """The split that the configuration names, None where one program does everything."""
    if train.driver == "fused" or train.split == "1":
        return None
    return parse_split(train.split, parallel.local_device_count())


def settle(config: RunConfig, env: Env | None = None) -> RunConfig:
    """The configuration with `--split auto` replaced by the split that suits the roles' times here."""
    train = config.train
    if train.driver == "fused" or train.split != "auto":
        return config
    count = parallel.local_device_count()
    if count < 3:
        raise RlxError(f"--split auto: needs 3 devices but there are {count}; use --split 1")
    probe = replace(train, num_shards=0, split=f"1,1,{count - 2}")
    alone = Layout([[device] for device in parallel.local_devices()[:3]], 1, True)
    times = autosplit.time_roles(cast(Pipelined, _make_driver(replace(config, train=probe), alone, env)))

    def fits(split: tuple[int, int, int]) -> bool:
        try:
            make_plan(probe, lay_out(train, split).shards)
        except RlxError:
            return False
        return True

    chosen = ",".join(map(str, autosplit.choose(times, count, fits)))
    return replace(config, train=replace(train, split=parallel.agree(chosen)))


def make_driver(config: RunConfig, env: Env | None = None) -> Driver:
    """The driver, ready to run; nothing is compiled or allocated yet.

    `env` stands in for the configuration's, which is made by name. Raises RlxError where memory cannot hold the run.
    """
    return _make_driver(config, lay_out(config.train, asked_split(config.train)), env)


def _make_driver(config: RunConfig, layout: Layout, env: Env | None) -> Driver:
    train, (groups, shards, split) = config.train, layout
    env = envs.make(config.env, backend=config.backend) if env is None else env
    module, everyone = agents.load(config.agent), members(config)
    if train.spread == "seeds" and len(everyone) % len(groups[0]):
        raise RlxError(f"--spread seeds: {len(everyone)} runs do not divide over {len(groups[0])} devices")
    plan = make_plan(train, shards)
    axes = (parallel.DEVICE, parallel.SHARD) if train.spread == "data" else (parallel.SHARD,)
    batch = envs.vectorise(env, plan.shard_envs, plan.shard_pool)
    task = roles.Task(module.make(config.network, env.spec, axes), env, batch, train, plan, axes)
    memory.check(task, len(everyone), groups)
    hypers = {name: np.asarray([m[name] for m in everyone], np.float32) for name in config.hypers}
    given = np.asarray([m["seed"] for m in everyone]), module.Hypers(**hypers)
    if split:
        return Pipelined(task, Groups(*groups), *given)
    return Fused(task, groups[0], *given, SEQUENTIAL if train.driver == "fused" else LAGGED)


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
    env: str | Env = "gymnax:Pendulum-v1",
    backend: str | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    **settings: Any,
) -> Result:
    """Trains in this process and returns the result; the settings are those of `rlx train`, with underscores.

    `env` is a name, or an environment of your own (see `rlx.types.Env`). `progress` is called with every line of
    metrics. Raises RlxError for a name or size that cannot be.

        result = rlx.fit("sac", "gymnax:Pendulum-v1", total_env_steps=20_000, num_seeds=4)
    """
    name, own = (env, None) if isinstance(env, str) else (type(env).__name__, env)
    config = settle(resolve(agent, name, backend, **settings), own)
    driver = make_driver(config, own)
    lines = []
    for found, line in run(driver):  # noqa: B007 -- the last one is what counts
        lines.append(line)
        if progress is not None:
            progress(line)
    learned = driver.fetch(driver.learned(found.state))
    assert found.evaluation is not None  # the last report always evaluates
    act = greedy(driver, learned)
    return Result(learned["agent"], learned["statistics"], act, lines, found.evaluation, config)
