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

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from rlx.replay import Replay
from rlx.train import learning, roles
from rlx.train.fused import Schedule
from rlx.train.roles import CollectorState, PolicyLearnerState, RoleTotals, ValueLearnerState
from rlx.train.task import Tables, Task, Totals
from rlx.types import EnvState, State


class PipelineState(NamedTuple):
    """One training run."""

    collector: CollectorState | None  # None offline
    value_learner: ValueLearnerState
    policy_learner: PolicyLearnerState


def iteration(task: Task, data: Tables | None, state: PipelineState) -> tuple[PipelineState, Totals]:
    """The roles one after the other on the same snapshots, then the edge: what the groups do at once."""
    collected = None if state.collector is None else roles.collect(task, None, state.collector)
    value_learner, value, of_values = roles.learn_value(task, data, state.value_learner)
    policy_learner, of_policies = roles.learn_policy(task, data, state.policy_learner)
    policy = roles.next_policy(task, policy_learner, value)
    value_learner, policy_learner = value_learner.replace(policy=policy), policy_learner.replace(value=value)
    if collected is None:
        return PipelineState(None, value_learner, policy_learner), join(of_values, of_policies)
    collector, new, statistics, of_collectors = collected
    value_learner = roles.store(value_learner, new.block, new.version)
    policy_learner = roles.store(policy_learner, new.data, new.version)
    state = PipelineState(
        collector.replace(policy=policy, statistics=statistics),
        value_learner.replace(statistics=statistics),
        policy_learner.replace(statistics=statistics),
    )
    return state, join(of_collectors, of_values, of_policies)


def join(*reports: RoleTotals) -> Totals:
    """What the roles report, as one; the learners come last."""
    parts = {
        name: {key: value for report in reports for key, value in getattr(report, name).items()}
        for name in ("metrics", "lags", "alarms")
    }
    episodes = next(report.episodes for report in reports if report.episodes is not None)
    return Totals(parts["metrics"], reports[-1].learned, episodes, parts["lags"], parts["alarms"])


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
        None if task.plan.offline else roles.init_collector(task, seed, hypers, pool_or_data),
        roles.init_value_learner(task, seed, hypers, data),
        roles.init_policy_learner(task, seed, hypers, data),
    )


def policy_snapshot(state: PipelineState) -> dict[str, Any]:
    """What a policy needs later."""
    agent = State(critic=state.value_learner.critic, actor=state.policy_learner.actor)
    return {"agent": agent, "statistics": state.policy_learner.statistics.content}


def adopt(task: Task, state: PipelineState, learned: dict[str, Any]) -> PipelineState:
    """The run continues with another agent, under its own hyper-parameters, and online with that agent's statistics."""
    old = State(critic=state.value_learner.critic, actor=state.policy_learner.actor)
    agent = learning.keep_hypers(learned["agent"], old)
    fields = roles.contents(task, agent, learned["statistics"])
    collector = state.collector and roles.role_with_contents(state.collector, fields)
    return PipelineState(collector, *(roles.role_with_contents(role, fields) for role in state[1:]))


def refill(state: PipelineState, pool: EnvState) -> PipelineState:
    """The run continues with another pool of initial states."""
    assert state.collector is not None  # offline nothing is refilled
    return state._replace(collector=state.collector.replace(pool=pool))


def clock(state: PipelineState) -> tuple[jax.Array, jax.Array]:
    """Seed and iteration."""
    role = state.collector or state.value_learner
    return role.seed, role.iteration


def _axes(mapped: int | None, alike: int | None) -> PipelineState:
    """The state's axes: `mapped` where members and shards differ, `alike` where all have the same."""
    ring = Replay(mapped, None)  # type: ignore[arg-type]
    return PipelineState(
        CollectorState(mapped, mapped, alike, alike, alike, None),  # type: ignore[arg-type]
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
