"""Offline: updates on a data set alone. The same program as online training, with an iteration that steps no
environment.

A run may have two parts, offline and then online: each is a driver, and the agent goes on from one to the other.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode

from rlx import normalize
from rlx.rollout import Episodes, derive
from rlx.train import learning, nonfinite
from rlx.train.fused import Schedule
from rlx.train.task import INIT_AGENT, Source, Tables, Task, Totals
from rlx.types import State


class OfflineState(PyTreeNode):
    """One training run on a data set, the same on every shard."""

    agent: State
    statistics: normalize.Statistics  # of the data set's observations, or adopted; they do not change
    seed: jax.Array  # [] uint32
    iteration: jax.Array  # [] int32


def init(task: Task, seed: jax.Array, hypers: Any, data: Tables) -> OfflineState:
    """Initialises a run."""
    statistics = learning.data_statistics(task, data)
    agent = task.agent.init(derive(jax.random.key(seed), INIT_AGENT), hypers)
    return OfflineState(agent, statistics, seed, jnp.zeros((), jnp.int32))


def report(learned: nonfinite.Learned, iteration: jax.Array) -> Totals:
    """What an iteration's updates report."""
    none = Episodes(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))
    return Totals(learned.metrics, jnp.ones(()), none, alarms=nonfinite.sound(learned.bad, iteration))


def iteration(task: Task, data: Tables, state: OfflineState) -> tuple[OfflineState, Totals]:
    """One burst of updates, critic and actor in turn, each seeing the last."""
    key = jax.random.key(state.seed)
    agent, learned = learning.learn(task, state.agent, Source(None, data), state.statistics, key, state.iteration)
    return state.replace(agent=agent, iteration=state.iteration + 1), report(learned, state.iteration)


def adopt(task: Task, state: OfflineState, learned: Any) -> OfflineState:
    """The run continues with another agent, under its own hyper-parameters and with its own data's statistics.

    Unless the agent keeps those that it comes with.
    """
    statistics = learned["statistics"] if task.agent.keeps_statistics else state.statistics
    return state.replace(agent=learning.keep_hypers(learned["agent"], state.agent), statistics=statistics)


OFFLINE = Schedule(
    init=init,
    iteration=iteration,
    shards=OfflineState(None, None, None, None),  # type: ignore[arg-type]
    members=OfflineState(0, 0, 0, None),  # type: ignore[arg-type]
    policy_snapshot=lambda state: {"agent": state.agent, "statistics": state.statistics},
    adopt=adopt,
    clock=lambda state: (state.seed, state.iteration),
    refill=None,
)
