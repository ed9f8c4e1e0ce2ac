"""The pipeline's roles: what collectors, value learners and policy learners hold, publish and do in an iteration.

Every function is of one member and one logical shard; see `rlx.train.pipeline` for the order of their work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode

from rlx import replay
from rlx.envs.base import VectorState
from rlx.replay import Replay, Row
from rlx.rollout import Episodes, derive
from rlx.train import acting, learning, nonfinite
from rlx.train.nonfinite import Alarms, Learned, sound
from rlx.train.task import INIT_AGENT, Source, Tables, Task
from rlx.types import EnvState, Metrics, State, Transition

LAG_BINS = 4  # 0, 1, 2, and 3 or more iterations


class Snapshot(NamedTuple):
    """What one role publishes for the others."""

    content: Any
    version: jax.Array | None  # [] int32, the iterations whose learning or data it holds; None where it never changes


class CollectorState(PyTreeNode):
    """The collectors' state, with the snapshots that they act on."""

    env: VectorState
    pool: EnvState
    policy: Snapshot
    statistics: Snapshot
    seed: jax.Array  # [] uint32
    iteration: jax.Array  # [] int32


class ValueLearnerState(PyTreeNode):
    """The value learners' state, with the snapshots that they learn with."""

    critic: Any
    replay: Replay | None  # None offline
    newest: jax.Array | None  # [] int32, version of the newest block in replay
    policy: Snapshot
    statistics: Snapshot
    seed: jax.Array
    iteration: jax.Array


class PolicyLearnerState(PyTreeNode):
    """The policy learners' state, with the snapshots that they learn with."""

    actor: Any
    replay: Replay | None  # of what the actor half reads; None offline
    newest: jax.Array | None
    value: Snapshot
    statistics: Snapshot
    seed: jax.Array
    iteration: jax.Array


class RoleTotals(NamedTuple):
    """What one role reports of an iteration; summed over iterations."""

    episodes: Episodes | None
    metrics: Metrics
    learned: jax.Array  # [] float32, whether it learned
    lags: dict[str, jax.Array]  # one-hot [LAG_BINS]
    alarms: Alarms


class Collected(NamedTuple):
    """What the collectors hand over at the edge of an iteration."""

    block: Row  # [K, E, ...]
    data: Any  # of the block, what the actor half reads, [K, E, ...]
    version: jax.Array  # [] int32


def init_collector(task: Task, seed: jax.Array, hypers: Any, pool: EnvState) -> CollectorState:
    """The collectors before the first iteration."""
    _, _, policy = _init_agent(task, seed, hypers)
    env = acting.init_env(task, jax.random.key(seed), pool, hypers)
    return CollectorState(env, pool, policy, _first_statistics(task, None), seed, _zero())


def init_value_learner(task: Task, seed: jax.Array, hypers: Any, data: Tables | None) -> ValueLearnerState:
    """The value learners before the first iteration; `data` is the data set of a run that is offline."""
    agent, _, policy = _init_agent(task, seed, hypers)
    ring, newest = _first_ring(task, learning.row_shapes(task))
    return ValueLearnerState(agent.critic, ring, newest, policy, _first_statistics(task, data), seed, _zero())


def init_policy_learner(task: Task, seed: jax.Array, hypers: Any, data: Tables | None) -> PolicyLearnerState:
    """The policy learners before the first iteration; `data` is the data set of a run that is offline."""
    agent, value, _ = _init_agent(task, seed, hypers)
    ring, newest = _first_ring(task, learning.actor_rows(task, learning.row_shapes(task)))
    return PolicyLearnerState(agent.actor, ring, newest, value, _first_statistics(task, data), seed, _zero())


def collect(task: Task, data: None, state: CollectorState) -> tuple[CollectorState, Collected, Snapshot, RoleTotals]:
    """The collectors' iteration: the state, what to hand over, the next statistics, and what to report."""
    del data
    policy, statistics, version = state.policy, state.statistics, state.iteration + 1
    env, block, episodes, diverged = acting.make_block(
        task, policy.content, statistics.content, state.env, state.pool, jax.random.key(state.seed), state.iteration
    )
    merged, env = acting.add_block(task, statistics.content, env, block)
    lags = _lags(version, policy_at_collector=policy.version, statistics_at_collector=statistics.version)
    collected = Collected(block, learning.actor_rows(task, block), version)
    watched = nonfinite.watch_statistics(statistics.content, merged, block.observation, task.axes)
    totals = RoleTotals(episodes, {}, jnp.zeros(()), lags, sound(diverged | watched, state.iteration))
    return state.replace(env=env, iteration=version), collected, Snapshot(merged, version), totals


def learn_value(
    task: Task, data: Tables | None, state: ValueLearnerState
) -> tuple[ValueLearnerState, Snapshot, RoleTotals]:
    """The value learners' iteration: the state, the next value, and what to report."""
    source, statistics, key = Source(state.replay, data), state.statistics.content, jax.random.key(state.seed)

    def learn(critic: Any) -> tuple[Any, Learned]:
        return learning.learn_critic(task, critic, state.policy.content, source, statistics, key, state.iteration)

    critic, totals = _learn(task, state, state.critic, learn, "value_learner", policy=state.policy)
    if state.replay is None:  # offline; online the collectors report episodes
        totals = totals._replace(episodes=Episodes(jnp.zeros(()), jnp.zeros(()), jnp.zeros(())))
    version = state.iteration + 1
    return state.replace(critic=critic, iteration=version), Snapshot(task.agent.critic_params(critic), version), totals


def learn_policy(task: Task, data: Tables | None, state: PolicyLearnerState) -> tuple[PolicyLearnerState, RoleTotals]:
    """The policy learners' iteration: the state and what to report. The next policy waits for the next value."""
    source, statistics, key = Source(state.replay, data), state.statistics.content, jax.random.key(state.seed)

    def sample(key: jax.Array, count: int) -> Transition:
        return learning.sample(task, source, state.actor.hypers.gamma, key, count, actor_half_only=True)

    def learn(actor: Any) -> tuple[Any, Learned]:
        return learning.learn_actor(task, actor, state.value.content, sample, statistics, key, state.iteration)

    actor, totals = _learn(task, state, state.actor, learn, "policy_learner", value=state.value)
    return state.replace(actor=actor, iteration=state.iteration + 1), totals


def _learn(
    task: Task,
    state: ValueLearnerState | PolicyLearnerState,
    half: Any,
    learn: Callable[[Any], tuple[Any, Learned]],
    role: str,
    **consumed: Snapshot,
) -> tuple[Any, RoleTotals]:
    """A learner's updates of its half after the warm-up (offline there is none), and what to report."""
    if state.replay is None:
        half, updates, learned = *learn(half), jnp.ones(())
    else:
        half, updates, learned = learning.after_warmup(
            learn, half, learning.learns(task, state.replay, state.iteration)
        )
    versions = {name: snapshot.version for name, snapshot in (consumed | {"statistics": state.statistics}).items()}
    versions["block"] = state.newest
    lags = _lags(state.iteration + 1, **{f"{name}_at_{role}": version for name, version in versions.items()})
    return half, RoleTotals(None, updates.metrics, learned, lags, sound(updates.bad, state.iteration))


L = TypeVar("L", ValueLearnerState, PolicyLearnerState)


def store(state: L, rows: Any, version: jax.Array) -> L:
    """The edge, on either learner: its rows of the block go into its ring."""
    assert state.replay is not None  # offline nothing is collected
    return state.replace(replay=replay.add(state.replay, rows), newest=version)


def next_policy(task: Task, state: PolicyLearnerState, value: Snapshot) -> Snapshot:
    """The edge, where the actor is: the policy of the next iteration."""
    return Snapshot(task.agent.policy_params(state.actor, value.content), value.version)


def publish(task: Task, agent: State) -> tuple[Any, Any]:
    """The value and the policy of an agent."""
    value = task.agent.critic_params(agent.critic)
    return value, task.agent.policy_params(agent.actor, value)


def contents(task: Task, agent: State, statistics: Any) -> dict[str, Any]:
    """What the roles hold of an agent, by field; offline statistics stay the data set's, unless it keeps its own."""
    value, policy = publish(task, agent)
    fields = {"critic": agent.critic, "actor": agent.actor, "value": value, "policy": policy}
    stay = task.plan.offline and not task.agent.keeps_statistics
    return fields if stay else fields | {"statistics": statistics}


def role_with_contents(role: Any, fields: dict[str, Any]) -> Any:
    """The role's state with those of the fields that it has."""

    def changed(old: Any, content: Any) -> Any:
        return old._replace(content=content) if isinstance(old, Snapshot) else content

    return role.replace(**{n: changed(getattr(role, n), content) for n, content in fields.items() if hasattr(role, n)})


def _zero() -> jax.Array:
    return jnp.zeros((), jnp.int32)


def _first_ring(task: Task, rows: Any) -> tuple[Replay | None, jax.Array | None]:
    """An empty ring and the version of what it holds; None offline."""
    return (None, None) if task.plan.offline else (learning.init_replay(task, rows), _zero())


def _first_statistics(task: Task, data: Tables | None) -> Snapshot:
    """Those of no observation, or of the data set's, which never change."""
    if data is None:
        return Snapshot(acting.init_statistics(task), _zero())
    return Snapshot(learning.data_statistics(task, data), None)


def _init_agent(task: Task, seed: jax.Array, hypers: Any) -> tuple[State, Snapshot, Snapshot]:
    """The initial agent with its first value and policy; every role makes it from the same key."""
    agent = task.agent.init(derive(jax.random.key(seed), INIT_AGENT), hypers)
    value, policy = publish(task, agent)
    return agent, Snapshot(value, _zero()), Snapshot(policy, _zero())


def _lags(made: jax.Array, **consumed: jax.Array | None) -> dict[str, jax.Array]:
    """The version being made minus each version consumed, one-hot [LAG_BINS]; None has no lag."""
    return {
        name: jax.nn.one_hot(jnp.minimum(made - version, LAG_BINS - 1), LAG_BINS)
        for name, version in consumed.items()
        if version is not None
    }
