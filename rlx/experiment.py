"""Training in this process: `run` yields the reports of all parts of a run, `rlx.fit` returns its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import agents, envs, normalize, parallel
from rlx.build import Setup, make_driver, parts, setup
from rlx.config import RunConfig, resolve
from rlx.errors import RlxError
from rlx.evaluate import Evaluation
from rlx.train import acting
from rlx.train import loop as host
from rlx.train.loop import Driver, Resumed
from rlx.train.report import Report, process_age_s, record
from rlx.types import State


class Result(NamedTuple):
    """What `fit` returns. Arrays of several members (seeds times hyper-parameter values) lead with `[M, ...]`."""

    state: State  # of the agent, on the host, [M, ...]
    statistics: normalize.Statistics  # of the observations, [M, ...]
    act: Callable[..., np.ndarray]  # (observation [..., O], member=0) -> greedy action [..., A]
    metrics: list[dict[str, Any]]  # as the lines of metrics.jsonl
    evaluation: Evaluation  # of the final policy, [M, N]
    config: RunConfig


class Moment(NamedTuple):
    """One report of a run."""

    driver: Driver
    report: Report
    offline: bool


def run(
    given: Setup,
    driver: Driver,
    learned: Any = None,
    resumed: Resumed | None = None,
    asked_to_end: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda phase: None,
) -> Iterator[Moment]:
    """Trains from the part of `driver` to the last, from `learned` if given, or from where the run was.

    `tell` hears what is begun, see `rlx.train.loop.train`.
    """
    offline = driver.task.plan.offline
    for report in host.train(driver, learned, resumed, asked_to_end, tell):
        yield Moment(driver, report, offline)
    if offline and not given.config.train.offline_only and not report.ended:
        learned = driver.fetch(driver.policy_snapshot(report.state))
        yield from run(given, make_driver(given), learned, None, asked_to_end, tell)


def greedy(driver: Driver, learned: Any) -> Callable[..., Any]:
    """The greedy policy as a plain function of raw observations: `(observation [..., O], member=0) -> [..., A]`.

    Of an agent with an acting state, `(observation, member=0, carry=None) -> (action, carry)`: None begins an episode.
    """
    task = driver.task
    act = jax.jit(partial(acting.greedy_action, task))

    def policy(observation: Any, member: int = 0, carry: Any = None) -> Any:
        rows, size = np.asarray(observation, np.float32), task.env.spec.observation_size
        if rows.shape[-1:] != (size,):
            raise RlxError(f"observations are {list(rows.shape)}: this policy reads {size} numbers, [..., {size}]")
        one = jax.tree.map(lambda x: x[member], learned)
        if task.agent.carry is None:
            return np.asarray(act(one, rows, jax.random.key(0)))
        if carry is None:
            fresh = jax.tree.map(jnp.asarray, task.agent.carry())
            carry = jax.tree.map(lambda x: jnp.broadcast_to(x, (*rows.shape[:-1], *x.shape)), fresh)
        return jax.tree.map(np.asarray, act(one, rows, jax.random.key(0), carry))

    return policy


def fit(
    agent: str | ModuleType = "sac",
    env: Any = "gymnax:Pendulum-v1",
    backend: str | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    **settings: Any,
) -> Result:
    """Trains in this process and returns the result; the settings are those of `rlx train`, with underscores.

    `agent` is a name, or the module of an agent of your own (see `rlx.agents.register`); `env` is a name, or an
    environment of your own: an object as `rlx.types.Env` has it, or of Brax, Playground or gymnax (see
    `rlx.envs.wrap`). `env_args` may be a dictionary. `progress` is called with every line of metrics. Raises RlxError
    for a name or size that cannot be.

        result = rlx.fit("sac", "gymnax:Pendulum-v1", total_env_steps=20_000, num_seeds=4)
    """
    agent = agent if isinstance(agent, str) else agents.register(agent)
    if progress is not None and not callable(progress):
        raise RlxError(f"progress {progress!r}: must be a function of a line of metrics, such as print")
    name, own = (env, None) if isinstance(env, str) else (envs.name_of(env), env)
    given = setup(resolve(agent, name, backend, **settings), own)
    if given.config.train.deterministic and not parallel.is_deterministic():
        raise RlxError(
            f"deterministic: jax has begun without it; set XLA_FLAGS={parallel.DETERMINISTIC} before Python starts"
        )
    lines = []
    for driver, found, _ in run(given, make_driver(given, parts(given.config)[0])):  # noqa: B007 -- the last one is what counts
        lines.append(record(found, process_age_s()))
        if progress is not None:
            progress(lines[-1])
    learned = driver.fetch(driver.policy_snapshot(found.state))
    assert found.evaluation is not None  # the last report always evaluates
    act = greedy(driver, learned)
    return Result(learned["agent"], learned["statistics"], act, lines, found.evaluation, given.config)
