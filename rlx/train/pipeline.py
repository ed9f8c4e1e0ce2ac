"""The pipelined iteration: collectors, value learners and policy learners at work at once, exactly one iteration apart.

Iteration t reads one snapshot (P_t, V_t, N_t): the collectors make block B_t with P_t, the value learners update the
critic on replay that holds the blocks before t, with P_t; the policy learners update the actor on their ring of the
same blocks, with V_t. At the edge between iterations B_t is stored, and V, P and the observation statistics N get
their next version. What every role consumes carries its version, so the lag (version being made minus version
consumed) is counted, not assumed: it is 1, always. (A block's version is that of the iteration after the one that
made it.)

`LAGGED` is that iteration as one program (`--split 1`); `rlx.train.pipelined` runs the same functions on three groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode

from rlx import normalize, replay
from rlx.envs.base import VectorState
from rlx.replay import Replay, Row
from rlx.rollout import Episodes
from rlx.train import steps
from rlx.train.fused import Schedule
from rlx.train.nonfinite import Alarms, Learned, sound
from rlx.train.steps import Source, Task, Totals
from rlx.types import EnvState, Metrics, State, Transition

LAG_BINS = 4  # 0, 1, 2, and 3 or more iterations


class Snapshot(NamedTuple):
    """What one role publishes for the others."""

    content: Any
    version: jax.Array  # [] int32, the iterations whose learning or data it holds


class Collector(PyTreeNode):
    """The collectors' state, with the snapshots that they act on."""

    env: VectorState
    pool: EnvState
    policy: Snapshot
    statistics: Snapshot
    seed: jax.Array  # [] uint32
    iteration: jax.Array  # [] int32


class ValueLearner(PyTreeNode):
    """The value learners' state, with the snapshots that they learn with."""

    critic: Any
    replay: Replay
    newest: jax.Array  # [] int32, version of the newest block in replay
    policy: Snapshot
    statistics: Snapshot
    seed: jax.Array
    iteration: jax.Array


class PolicyLearner(PyTreeNode):
    """The policy learners' state, with the snapshots that they learn with."""

    actor: Any
    replay: Replay  # of what the actor half reads
    newest: jax.Array
    value: Snapshot
    statistics: Snapshot
    seed: jax.Array
    iteration: jax.Array


class PipelineState(NamedTuple):
    """One training run."""

    collector: Collector
    value_learner: ValueLearner
    policy_learner: PolicyLearner


class Report(NamedTuple):
    """What one role tells of an iteration; summed over iterations."""

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


def init_collector(task: Task, seed: jax.Array, hypers: Any, pool: EnvState) -> Collector:
    """The collectors before the first iteration."""
    _, _, policy = _init_agent(task, seed, hypers)
    env = steps.init_env(task, jax.random.key(seed), pool)
    return Collector(env, pool, policy, _no_statistics(task), seed, _zero())


def init_value_learner(task: Task, seed: jax.Array, hypers: Any) -> ValueLearner:
    """The value learners before the first iteration."""
    agent, _, policy = _init_agent(task, seed, hypers)
    ring = steps.init_replay(task, steps.row_shapes(task))
    return ValueLearner(agent.critic, ring, _zero(), policy, _no_statistics(task), seed, _zero())


def init_policy_learner(task: Task, seed: jax.Array, hypers: Any) -> PolicyLearner:
    """The policy learners before the first iteration."""
    agent, value, _ = _init_agent(task, seed, hypers)
    ring = steps.init_replay(task, steps.actor_rows(task, steps.row_shapes(task)))
    return PolicyLearner(agent.actor, ring, _zero(), value, _no_statistics(task), seed, _zero())


def collect(task: Task, state: Collector) -> tuple[Collector, Collected, Snapshot, Report]:
    """The collectors' iteration: the state, what to hand over, the next statistics, and what to report."""
    policy, statistics, version = state.policy, state.statistics, state.iteration + 1
    env, block, episodes, diverged = steps.make_block(
        task, policy.content, statistics.content, state.env, state.pool, jax.random.key(state.seed), state.iteration
    )
    merged = normalize.update(statistics.content, block.observation, task.axes or None)
    lags = {
        "policy_at_collector": _lag(version, policy.version),
        "statistics_at_collector": _lag(version, statistics.version),
    }
    collected = Collected(block, steps.actor_rows(task, block), version)
    report = Report(episodes, {}, jnp.zeros(()), lags, sound(diverged | steps.watch(merged), state.iteration))
    return state.replace(env=env, iteration=version), collected, Snapshot(merged, version), report


def learn_value(task: Task, state: ValueLearner) -> tuple[ValueLearner, Snapshot, Report]:
    """The value learners' iteration: the state, the next value, and what to report."""
    statistics, key, version = state.statistics.content, jax.random.key(state.seed), state.iteration + 1

    def learn(critic: Any) -> tuple[Any, Learned]:
        source = Source(state.replay)
        return steps.learn_critic(task, critic, state.policy.content, source, statistics, key, state.iteration)

    critic, told, learned = steps.after_warmup(learn, state.critic, steps.learns(task, state.replay, state.iteration))
    lags = {
        "policy_at_value_learner": _lag(version, state.policy.version),
        "statistics_at_value_learner": _lag(version, state.statistics.version),
        "block_at_value_learner": _lag(version, state.newest),
    }
    report = Report(None, told.metrics, learned, lags, sound(told.bad, state.iteration))
    return state.replace(critic=critic, iteration=version), Snapshot(task.agent.critic_params(critic), version), report


def learn_policy(task: Task, state: PolicyLearner) -> tuple[PolicyLearner, Report]:
    """The policy learners' iteration: the state and what to report. The next policy waits for the next value."""
    statistics, key, version = state.statistics.content, jax.random.key(state.seed), state.iteration + 1

    def sample(key: jax.Array, count: int) -> Transition:
        source, gamma = Source(state.replay), state.actor.hypers.gamma
        return steps.sample(task, source, gamma, key, count, actor_half_only=True)

    def learn(actor: Any) -> tuple[Any, Learned]:
        return steps.learn_actor(task, actor, state.value.content, sample, statistics, key, state.iteration)

    actor, told, learned = steps.after_warmup(learn, state.actor, steps.learns(task, state.replay, state.iteration))
    lags = {
        "value_at_policy_learner": _lag(version, state.value.version),
        "statistics_at_policy_learner": _lag(version, state.statistics.version),
        "block_at_policy_learner": _lag(version, state.newest),
    }
    report = Report(None, told.metrics, learned, lags, sound(told.bad, state.iteration))
    return state.replace(actor=actor, iteration=version), report


L = TypeVar("L", ValueLearner, PolicyLearner)


def store(state: L, rows: Any, version: jax.Array) -> L:
    """The edge, on either learner: its rows of the block go into its ring."""
    return state.replace(replay=replay.add(state.replay, rows), newest=version)


def next_policy(task: Task, state: PolicyLearner, value: Snapshot) -> Snapshot:
    """The edge, where the actor is: the policy of the next iteration."""
    return Snapshot(task.agent.policy_params(state.actor, value.content), value.version)


def iteration(task: Task, data: None, state: PipelineState) -> tuple[PipelineState, Totals]:
    """The three roles one after the other on the same snapshots, then the edge: what the three groups do at once."""
    del data  # a data set goes with the sequential schedule
    collector, collected, statistics, seen = collect(task, state.collector)
    values, value, of_values = learn_value(task, state.value_learner)
    policies, of_policies = learn_policy(task, state.policy_learner)
    policy = next_policy(task, policies, value)
    values = store(values, collected.block, collected.version)
    policies = store(policies, collected.data, collected.version)
    state = PipelineState(
        collector.replace(policy=policy, statistics=statistics),
        values.replace(policy=policy, statistics=statistics),
        policies.replace(value=value, statistics=statistics),
    )
    return state, join(seen, of_values, of_policies)


def join(seen: Report, of_values: Report, of_policies: Report) -> Totals:
    """What the three roles report, as one."""
    lags = seen.lags | of_values.lags | of_policies.lags
    assert seen.episodes is not None  # only learners see none
    alarms = seen.alarms | of_values.alarms | of_policies.alarms
    return Totals(of_values.metrics | of_policies.metrics, of_values.learned, seen.episodes, lags, alarms)


def part(totals: Totals, like: Sequence[Report]) -> tuple[Report, ...]:
    """The reports that `join` makes into `totals`, each of what the one in `like` tells of."""

    def own(one: Report) -> Report:
        def of(there: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
            return {name: there[name] for name in here}

        return Report(
            episodes=None if one.episodes is None else totals.episodes,
            metrics=of(totals.metrics, one.metrics),
            learned=totals.learned,
            lags=of(totals.lags, one.lags),
            alarms=of(totals.alarms, one.alarms),
        )

    return tuple(map(own, like))


def init(task: Task, seed: jax.Array, hypers: Any, pool: EnvState) -> PipelineState:
    """A fresh run of one shard, all roles together."""
    return PipelineState(
        init_collector(task, seed, hypers, pool),
        init_value_learner(task, seed, hypers),
        init_policy_learner(task, seed, hypers),
    )


def policy_snapshot(state: PipelineState) -> dict[str, Any]:
    """What a policy needs later."""
    agent = State(critic=state.value_learner.critic, actor=state.policy_learner.actor)
    return {"agent": agent, "statistics": state.policy_learner.statistics.content}


def adopt(task: Task, state: PipelineState, learned: dict[str, Any]) -> PipelineState:
    """The run goes on with another agent and its statistics, under its own hyper-parameters."""
    own = State(critic=state.value_learner.critic, actor=state.policy_learner.actor)
    agent = steps.keep_hypers(learned["agent"], own)
    content = task.agent.critic_params(agent.critic)
    value = state.policy_learner.value._replace(content=content)
    policy = state.collector.policy._replace(content=task.agent.policy_params(agent.actor, content))
    statistics = state.collector.statistics._replace(content=learned["statistics"])
    return PipelineState(
        state.collector.replace(policy=policy, statistics=statistics),
        state.value_learner.replace(critic=agent.critic, policy=policy, statistics=statistics),
        state.policy_learner.replace(actor=agent.actor, value=value, statistics=statistics),
    )


def refill(state: PipelineState, pool: EnvState) -> PipelineState:
    """The run goes on with another pool of initial states."""
    return state._replace(collector=state.collector.replace(pool=pool))


def _zero() -> jax.Array:
    return jnp.zeros((), jnp.int32)


def _no_statistics(task: Task) -> Snapshot:
    return Snapshot(normalize.init(task.env.spec.observation_size), _zero())


def _init_agent(task: Task, seed: jax.Array, hypers: Any) -> tuple[State, Snapshot, Snapshot]:
    """A fresh agent with its first value and policy; every role makes it from the same key."""
    agent = task.agent.init(steps.derive(jax.random.key(seed), steps.INIT_AGENT), hypers)
    value = task.agent.critic_params(agent.critic)
    return agent, Snapshot(value, _zero()), Snapshot(task.agent.policy_params(agent.actor, value), _zero())


def _lag(made: jax.Array, consumed: jax.Array) -> jax.Array:
    """Which bin the staleness falls into, one-hot [LAG_BINS]: the version being made minus the version consumed."""
    return jax.nn.one_hot(jnp.minimum(made - consumed, LAG_BINS - 1), LAG_BINS)


def _axes(own: int | None, alike: int | None) -> PipelineState:
    """The state's axes: `own` where each has its own, `alike` where all have the same."""
    ring = Replay(own, None)  # type: ignore[arg-type]
    return PipelineState(
        Collector(own, own, alike, alike, alike, None),  # type: ignore[arg-type]
        ValueLearner(alike, ring, None, alike, alike, alike, None),  # type: ignore[arg-type]
        PolicyLearner(alike, ring, None, alike, alike, alike, None),  # type: ignore[arg-type]
    )


LAGGED = Schedule(
    init=init,
    iteration=iteration,
    shards=_axes(0, None),
    members=_axes(0, 0),
    policy_snapshot=policy_snapshot,
    adopt=adopt,
    clock=lambda state: (state.collector.seed, state.collector.iteration),
    refill=refill,
)
