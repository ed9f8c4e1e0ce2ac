"""Offline: updates on a data set alone. The same program as online training, with an iteration that steps no
environment.

A run may have two parts, offline and then online: each is a driver, and the agent goes on from one to the other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode

from rlx import normalize
from rlx.replay import Replay
from rlx.rollout import Episodes
from rlx.train import nonfinite, steps
from rlx.train.fused import Schedule
from rlx.train.steps import Source, Task, Totals
from rlx.types import State, Transition


class OfflineState(PyTreeNode):
    """One training run on a data set, the same on every shard."""

    agent: State
    statistics: normalize.Statistics  # of the data set's observations; they do not change
    seed: jax.Array  # [] uint32
    iteration: jax.Array  # [] int32


class Given(NamedTuple):
    """What both halves need beside each other."""

    statistics: normalize.Statistics
    seed: jax.Array
    iteration: jax.Array


def init(task: Task, seed: jax.Array, hypers: Any, data: Replay) -> OfflineState:
    """A fresh run."""
    statistics = normalize.update(normalize.init(task.env.spec.observation_size), data.rows.observation)
    agent = task.agent.init(steps.derive(jax.random.key(seed), steps.INIT_AGENT), hypers)
    return OfflineState(agent, statistics, seed, jnp.zeros((), jnp.int32))


def report(learned: nonfinite.Learned, iteration: jax.Array) -> Totals:
    """What an iteration's updates tell."""
    none = Episodes(*[jnp.zeros(())] * 3)
    return Totals(learned.metrics, jnp.ones(()), none, alarms=nonfinite.sound(learned.bad, iteration))


def iteration(task: Task, data: Replay, state: OfflineState) -> tuple[OfflineState, Totals]:
    """One burst of updates, critic and actor in turn, each seeing the last."""
    key = jax.random.key(state.seed)
    agent, learned = steps.learn(task, state.agent, Source(None, data), state.statistics, key, state.iteration)
    return state.replace(agent=agent, iteration=state.iteration + 1), report(learned, state.iteration)


def learn_value(task: Task, data: Replay, critic: Any, policy: Any, given: Given) -> tuple[Any, Any, Totals]:
    """The critic half's iteration against one frozen policy: the critic, the next value, and what to report."""
    statistics, key, iteration = given.statistics, jax.random.key(given.seed), given.iteration
    critic, learned = steps.learn_critic(task, critic, policy, Source(None, data), statistics, key, iteration)
    return critic, task.agent.critic_params(critic), report(learned, iteration)


def learn_policy(task: Task, data: Replay, actor: Any, value: Any, gamma: Any, given: Given) -> tuple[Any, Totals]:
    """The actor half's iteration against one frozen value: the actor and what to report."""

    def sample(key: jax.Array, count: int) -> Transition:
        return steps.sample(task, Source(None, data), gamma, key, count, actor_half_only=True)

    key = jax.random.key(given.seed)
    actor, learned = steps.learn_actor(task, actor, value, sample, given.statistics, key, given.iteration)
    return actor, report(learned, given.iteration)


def lagged_iteration(task: Task, data: Replay, state: OfflineState) -> tuple[OfflineState, Totals]:
    """One burst of both halves' updates, each with the other half as it was before the iteration (lag 1)."""
    agent, given = state.agent, Given(state.statistics, state.seed, state.iteration)
    value = task.agent.critic_params(agent.critic)
    policy, gamma = task.agent.policy_params(agent.actor, value), agent.critic.hypers.gamma
    critic, _, of_critic = learn_value(task, data, agent.critic, policy, given)
    actor, of_actor = learn_policy(task, data, agent.actor, value, gamma, given)
    return state.replace(agent=State(critic=critic, actor=actor), iteration=state.iteration + 1), join(
        of_critic, of_actor
    )


def join(of_critic: Totals, of_actor: Totals) -> Totals:
    """What both halves report, as one."""
    return of_critic._replace(metrics=of_critic.metrics | of_actor.metrics, alarms=of_critic.alarms | of_actor.alarms)


def adopt(task: Task, state: OfflineState, learned: Any) -> OfflineState:
    """The run goes on with another agent, under its own hyper-parameters and on its own data's statistics."""
    del task
    return state.replace(agent=steps.keep_hypers(learned["agent"], state.agent))


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
OFFLINE_LAGGED = OFFLINE._replace(iteration=lagged_iteration)
