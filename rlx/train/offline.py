"""Offline: updates on a data set alone. The same program as online training, with a tick that steps no environment.

A run may have two parts, offline and then online: each is a driver, and the agent goes on from one to the other.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode

from rlx import normalize
from rlx.replay import Replay
from rlx.rollout import Episodes
from rlx.train import alarms, roles
from rlx.train.fused import Schedule
from rlx.train.roles import Source, Task, Totals
from rlx.types import State


class OfflineState(PyTreeNode):
    """One training run on a data set, the same on every shard."""

    agent: State
    statistics: normalize.Statistics  # of the data set's observations; they do not change
    seed: jax.Array  # [] uint32
    tick: jax.Array  # [] int32


def init(task: Task, seed: jax.Array, hypers: Any, data: Replay) -> OfflineState:
    """A fresh run."""
    statistics = normalize.update(normalize.init(task.env.spec.observation_size), data.rows.observation)
    agent = task.agent.init(roles.derive(jax.random.key(seed), roles.INIT_AGENT), hypers)
    return OfflineState(agent, statistics, seed, jnp.zeros((), jnp.int32))


def _report(task: Task, learned: alarms.Learned, tick: jax.Array) -> Totals:
    none = Episodes(*[jnp.zeros(())] * 3)
    return Totals(learned.metrics, jnp.ones(()), none, alarms=alarms.sound(learned.bad, tick))


def tick(task: Task, data: Replay, state: OfflineState) -> tuple[OfflineState, Totals]:
    """One burst of updates, critic and actor in turn, each seeing the last."""
    key = jax.random.key(state.seed)
    agent, learned = roles.learn(task, state.agent, Source(None, data), state.statistics, key, state.tick)
    return state.replace(agent=agent, tick=state.tick + 1), _report(task, learned, state.tick)


def lagged_tick(task: Task, data: Replay, state: OfflineState) -> tuple[OfflineState, Totals]:
    """One burst of both halves' updates, each with the other half as it was before the tick (lag 1)."""
    key, agent, statistics = jax.random.key(state.seed), state.agent, state.statistics
    value = task.agent.value(agent.critic)
    policy, source = task.agent.policy(agent.actor, value), Source(None, data)
    gamma = agent.critic.hypers.gamma

    def draw(key: jax.Array, count: int) -> Any:
        return task.agent.actor_batch(roles.draw(task, source, gamma, key, count))

    critic, of_critic = roles.learn_critic(task, agent.critic, policy, source, statistics, key, state.tick)
    actor, of_actor = roles.learn_actor(task, agent.actor, value, draw, statistics, key, state.tick)
    learned = alarms.Learned(of_critic.metrics | of_actor.metrics, of_critic.bad | of_actor.bad)
    state = state.replace(agent=State(critic=critic, actor=actor), tick=state.tick + 1)
    return state, _report(task, learned, state.tick - 1)


def adopt(task: Task, state: OfflineState, learned: Any) -> OfflineState:
    """The run goes on with another agent, under its own hyper-parameters and on its own data's statistics."""
    del task
    return state.replace(agent=roles.keep_hypers(learned["agent"], state.agent))


OFFLINE = Schedule(
    init=init,
    tick=tick,
    shards=OfflineState(None, None, None, None),  # type: ignore[arg-type]
    members=OfflineState(0, 0, 0, None),  # type: ignore[arg-type]
    learned=lambda state: {"agent": state.agent, "statistics": state.statistics},
    adopt=adopt,
    clock=lambda state: (state.seed, state.tick),
    refill=None,
)
OFFLINE_LAGGED = OFFLINE._replace(tick=lagged_tick)
