"""The pipelined iteration: collectors, value learners and policy learners at work at once, exactly one iteration apart.

Iteration t reads one snapshot (P_t, V_t, N_t): the collectors make block B_t with P_t, the value learners update the
critic on replay that holds the blocks before t, with P_t; the policy learners update the actor on their ring of the
same blocks, with V_t. At the edge between iterations B_t is stored, and V, P and the observation statistics N get
their next version. What every role consumes carries its version, so the lag (version being made minus version
consumed) is counted, not assumed: it is 1, always. (A block's version is that of the iteration after the one that
made it.)

`LAGGED` is that iteration as one program (`--split 1`); `rlx.train.pipelined` runs the same functions on three groups.
Offline (`OFFLINE_LAGGED`, on two groups) there are no collectors and no rings: both learners sample from the data set,
and the statistics are those of its observations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode

from rlx import normalize, replay
from rlx.envs.base import VectorState
from rlx.replay import Replay, Row
from rlx.rollout import Episodes, derive
from rlx.train import acting, learning, nonfinite
from rlx.train.fused import Schedule
from rlx.train.nonfinite import Alarms, Learned, sound
from rlx.train.task import INIT_AGENT, Source, Tables, Task, Totals
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


class PipelineState(NamedTuple):
    """One training run."""

    collector: CollectorState | None  # None offline
    value_learner: ValueLearnerState
    policy_learner: PolicyLearnerState


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
    env = acting.init_env(task, jax.random.key(seed), pool)
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
    merged = normalize.update(statistics.content, block.observation, task.axes or None)
    lags = _lags(version, policy_at_collector=policy.version, statistics_at_collector=statistics.version)
    collected = Collected(block, learning.actor_rows(task, block), version)
    totals = RoleTotals(
        episodes, {}, jnp.zeros(()), lags, sound(diverged | nonfinite.watch_statistics(merged), state.iteration)
    )
    return state.replace(env=env, iteration=version), collected, Snapshot(merged, version), totals


def learn_value(
    task: Task, data: Tables | None, state: ValueLearnerState
) -> tuple[ValueLearnerState, Snapshot, RoleTotals]:
    """The value learners' iteration: the state, the next value, and what to report."""
    statistics, key, version = state.statistics.content, jax.random.key(state.seed), state.iteration + 1

    def learn(critic: Any) -> tuple[Any, Learned]:
        source = Source(state.replay, data)
        return learning.learn_critic(task, critic, state.policy.content, source, statistics, key, state.iteration)

    critic, updates, learned = _after_warmup(task, learn, state.critic, state)
    lags = _lags(
        version,
        policy_at_value_learner=state.policy.version,
        statistics_at_value_learner=state.statistics.version,
        block_at_value_learner=state.newest,
    )
    no_episodes = Episodes(*[jnp.zeros(())] * 3) if state.replay is None else None  # online, collectors report them
    totals = RoleTotals(no_episodes, updates.metrics, learned, lags, sound(updates.bad, state.iteration))
    return state.replace(critic=critic, iteration=version), Snapshot(task.agent.critic_params(critic), version), totals


def learn_policy(task: Task, data: Tables | None, state: PolicyLearnerState) -> tuple[PolicyLearnerState, RoleTotals]:
    """The policy learners' iteration: the state and what to report. The next policy waits for the next value."""
    statistics, key, version = state.statistics.content, jax.random.key(state.seed), state.iteration + 1

    def sample(key: jax.Array, count: int) -> Transition:
        source, gamma = Source(state.replay, data), state.actor.hypers.gamma
        return learning.sample(task, source, gamma, key, count, actor_half_only=True)

    def learn(actor: Any) -> tuple[Any, Learned]:
        return learning.learn_actor(task, actor, state.value.content, sample, statistics, key, state.iteration)

    actor, updates, learned = _after_warmup(task, learn, state.actor, state)
    lags = _lags(
        version,
        value_at_policy_learner=state.value.version,
        statistics_at_policy_learner=state.statistics.version,
        block_at_policy_learner=state.newest,
    )
    totals = RoleTotals(None, updates.metrics, learned, lags, sound(updates.bad, state.iteration))
    return state.replace(actor=actor, iteration=version), totals


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


def iteration(task: Task, data: Tables | None, state: PipelineState) -> tuple[PipelineState, Totals]:
    """The roles one after the other on the same snapshots, then the edge: what the groups do at once."""
    collected = None if state.collector is None else collect(task, None, state.collector)
    value_learner, value, of_values = learn_value(task, data, state.value_learner)
    policy_learner, of_policies = learn_policy(task, data, state.policy_learner)
    policy = next_policy(task, policy_learner, value)
    value_learner, policy_learner = value_learner.replace(policy=policy), policy_learner.replace(value=value)
    if collected is None:
        return PipelineState(None, value_learner, policy_learner), join(of_values, of_policies)
    collector, new, statistics, of_collectors = collected
    value_learner = store(value_learner, new.block, new.version)
    policy_learner = store(policy_learner, new.data, new.version)
    state = PipelineState(
        collector.replace(policy=policy, statistics=statistics),
        value_learner.replace(statistics=statistics),
        policy_learner.replace(statistics=statistics),
    )
    return state, join(of_collectors, of_values, of_policies)


def join(*roles: RoleTotals) -> Totals:
    """What the roles report, as one; the learners come last."""
    parts = {
        name: {key: value for role in roles for key, value in getattr(role, name).items()}
        for name in ("metrics", "lags", "alarms")
    }
    episodes = next(role.episodes for role in roles if role.episodes is not None)
    return Totals(parts["metrics"], roles[-1].learned, episodes, parts["lags"], parts["alarms"])


def part(totals: Totals, like: Sequence[RoleTotals]) -> tuple[RoleTotals, ...]:
    """The totals by role that `join` makes into `totals`, each with the entries of the one in `like`."""

    def of_role(role: RoleTotals) -> RoleTotals:
        parts = {
            name: {key: getattr(totals, name)[key] for key in getattr(role, name)}
            for name in ("metrics", "lags", "alarms")
        }
        return RoleTotals(episodes=role.episodes and totals.episodes, learned=totals.learned, **parts)

    return tuple(map(of_role, like))


def init(task: Task, seed: jax.Array, hypers: Any, pool_or_data: Any) -> PipelineState:
    """Initialises one shard of a run: all roles, from its pool of starts or, offline, from the data set."""
    data = pool_or_data if task.plan.offline else None
    return PipelineState(
        None if task.plan.offline else init_collector(task, seed, hypers, pool_or_data),
        init_value_learner(task, seed, hypers, data),
        init_policy_learner(task, seed, hypers, data),
    )


def policy_snapshot(state: PipelineState) -> dict[str, Any]:
    """What a policy needs later."""
    agent = State(critic=state.value_learner.critic, actor=state.policy_learner.actor)
    return {"agent": agent, "statistics": state.policy_learner.statistics.content}


def adopt(task: Task, state: PipelineState, learned: dict[str, Any]) -> PipelineState:
    """The run continues with another agent, under its own hyper-parameters, and online with that agent's statistics."""
    old = State(critic=state.value_learner.critic, actor=state.policy_learner.actor)
    agent = learning.keep_hypers(learned["agent"], old)
    fields = contents(task, agent, learned["statistics"])
    collector = state.collector and role_with_contents(state.collector, fields)
    return PipelineState(collector, *(role_with_contents(role, fields) for role in state[1:]))


def contents(task: Task, agent: State, statistics: Any) -> dict[str, Any]:
    """What the roles hold of an agent, by field; offline statistics stay those of the data set."""
    value, policy = publish(task, agent)
    fields = {"critic": agent.critic, "actor": agent.actor, "value": value, "policy": policy}
    return fields if task.plan.offline else fields | {"statistics": statistics}


def role_with_contents(role: Any, fields: dict[str, Any]) -> Any:
    """The role's state with those of the fields that it has."""

    def changed(old: Any, content: Any) -> Any:
        return old._replace(content=content) if isinstance(old, Snapshot) else content

    return role.replace(**{n: changed(getattr(role, n), content) for n, content in fields.items() if hasattr(role, n)})


def refill(state: PipelineState, pool: EnvState) -> PipelineState:
    """The run continues with another pool of initial states."""
    assert state.collector is not None  # offline nothing is refilled
    return state._replace(collector=state.collector.replace(pool=pool))


def clock(state: PipelineState) -> tuple[jax.Array, jax.Array]:
    """Seed and iteration."""
    role = state.collector or state.value_learner
    return role.seed, role.iteration


def _zero() -> jax.Array:
    return jnp.zeros((), jnp.int32)


def _first_ring(task: Task, rows: Any) -> tuple[Replay | None, jax.Array | None]:
    """An empty ring and the version of what it holds; None offline."""
    return (None, None) if task.plan.offline else (learning.init_replay(task, rows), _zero())


def _first_statistics(task: Task, data: Tables | None) -> Snapshot:
    """Those of no observation, or of the data set's, which never change."""
    if data is None:
        return Snapshot(normalize.init(task.env.spec.observation_size), _zero())
    return Snapshot(learning.data_statistics(task, data), None)


def _init_agent(task: Task, seed: jax.Array, hypers: Any) -> tuple[State, Snapshot, Snapshot]:
    """The initial agent with its first value and policy; every role makes it from the same key."""
    agent = task.agent.init(derive(jax.random.key(seed), INIT_AGENT), hypers)
    value, policy = publish(task, agent)
    return agent, Snapshot(value, _zero()), Snapshot(policy, _zero())


def _after_warmup(
    task: Task, learn: Callable[[Any], tuple[Any, Learned]], half: Any, state: ValueLearnerState | PolicyLearnerState
) -> tuple[Any, Learned, jax.Array]:
    """See `learning.after_warmup`; offline there is none."""
    if state.replay is None:
        return *learn(half), jnp.ones(())
    return learning.after_warmup(learn, half, learning.learns(task, state.replay, state.iteration))


def _lags(made: jax.Array, **consumed: jax.Array | None) -> dict[str, jax.Array]:
    """The version being made minus each version consumed, one-hot [LAG_BINS]; None has no lag."""
    return {
        name: jax.nn.one_hot(jnp.minimum(made - version, LAG_BINS - 1), LAG_BINS)
        for name, version in consumed.items()
        if version is not None
    }


def _axes(own: int | None, alike: int | None) -> PipelineState:
    """The state's axes: `own` where each has its own, `alike` where all have the same."""
    ring = Replay(own, None)  # type: ignore[arg-type]
    return PipelineState(
        CollectorState(own, own, alike, alike, alike, None),  # type: ignore[arg-type]
        ValueLearnerState(alike, ring, None, alike, alike, alike, None),  # type: ignore[arg-type]
        PolicyLearnerState(alike, ring, None, alike, alike, alike, None),  # type: ignore[arg-type]
    )


def _offline(axes: PipelineState) -> PipelineState:
    """The axes without collectors and rings."""
    return PipelineState(None, axes.value_learner.replace(replay=None), axes.policy_learner.replace(replay=None))


LAGGED = Schedule(
    init=init,
    iteration=iteration,
    shards=_axes(0, None),
    members=_axes(0, 0),
    policy_snapshot=policy_snapshot,
    adopt=adopt,
    clock=clock,
    refill=refill,
)
OFFLINE_LAGGED = LAGGED._replace(shards=_offline(LAGGED.shards), members=_offline(LAGGED.members), refill=None)
