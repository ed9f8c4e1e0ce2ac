"""The pipelined driver: the iteration of `rlx.train.pipeline` on three disjoint groups of devices, all at work at once.

One thread dispatches the three roles of an iteration back to back, then the edge: what each role publishes travels from
device to device, never through the host. Nothing waits but for the oldest of `depth` iterations in flight.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import parallel
from rlx.evaluate import Evaluation
from rlx.train import nonfinite, steps
from rlx.train import pipeline as pipeline
from rlx.train.compile import Program
from rlx.train.fused import reset
from rlx.train.pipeline import LAGGED, PipelineState
from rlx.train.profiler import Stopwatch
from rlx.train.state_layout import Layout
from rlx.train.steps import Task, Totals
from rlx.types import State

OWN, MEMBERS = LAGGED.shards, LAGGED.members
Reports = tuple[Any, ...]  # of the three roles


class Groups(NamedTuple):
    """The devices of each role."""

    collectors: Sequence[jax.Device]
    values: Sequence[jax.Device]
    policies: Sequence[jax.Device]


class Pipelined:
    """The programs of a pipelined run on `groups`, for members with the given seeds [M] and hyper-parameters [M].

    The state of each role leads with the devices of its group, `[D, M, shards, ...]`.
    """

    def __init__(self, task: Task, groups: Groups, seeds: np.ndarray, hypers: Any) -> None:
        self.task, self.groups, self.members = task, groups, len(seeds)
        self.split = (len(groups.collectors), len(groups.values), len(groups.policies))
        self.stopwatch = Stopwatch(("collect", "value", "policy"))
        self.first = [
            (parallel.replicate(np.asarray(seeds, np.uint32), g), parallel.replicate(hypers, g)) for g in groups
        ]
        self._make_starts()
        self._make_roles()
        self._make_edges()
        rows = len(parallel.local(groups.collectors))
        judge = parallel.pmap(parallel.along(partial(steps.evaluate_policy, task), self.members), groups.collectors)
        self.evaluation = Program("evaluate", judge, _placed_like(LAGGED.policy_snapshot(self.shapes), rows))
        self.programs = (
            *(self.learn_value, self.collect, self.learn_policy, self.reset, *self.starts),
            *(self.store_block, self.store_data, self.publish, self.evaluation),
        )

    def init(self) -> PipelineState:
        """The state before the first iteration."""
        zero = parallel.replicate(np.zeros((), np.int32), self.groups.collectors)
        pool = self.reset(self.first[0][0], zero)
        starts = zip(self.starts, self.first, strict=True)
        return PipelineState(*(start(*given, *([pool] if not i else [])) for i, (start, given) in enumerate(starts)))

    def advance(self, state: PipelineState, reports: Reports, iterations: int) -> tuple[PipelineState, Reports]:
        """Makes `iterations` iterations; `state` is donated. Returns when the last are dispatched, not when they are
        done."""
        flying = deque[Any]()
        for _ in range(iterations):
            state, reports = self.iteration(state, reports)
            flying.append(reports)
            if len(flying) >= self.task.config.depth:
                jax.block_until_ready(flying.popleft())
        return state, reports

    def zeros(self) -> Reports:
        """What to start the roles' reports from."""
        return self.no_reports

    def read(self, reports: Reports) -> Totals:
        """The reports as one, `[M, ...]` on the host; waits for the iterations in flight."""
        return pipeline.join(*parallel.fetch(reports))

    def iteration(self, state: PipelineState, reports: Reports) -> tuple[PipelineState, Reports]:
        """Dispatches one iteration and returns at once; what the roles report is added to `reports`."""
        collectors, values, policies = self.groups
        collector, pieces, version, statistics, seen = self.collect(state.collector, reports[0])
        value_learner, value, of_values = self.learn_value(state.value_learner, reports[1])
        policy_learner, of_policies = self.learn_policy(state.policy_learner, reports[2])
        reports = (seen, of_values, of_policies)
        self.stopwatch.start(*reports)
        # the edge
        value = parallel.broadcast(value, policies)
        policy = self.publish(policy_learner, value)
        block, data = zip(*pieces, strict=True)
        block, data = parallel.deal(block, values), parallel.deal(data, policies)
        value_learner = self.store_block(value_learner, block, parallel.broadcast(version, values))
        policy_learner = self.store_data(policy_learner, data, parallel.broadcast(version, policies))
        state = PipelineState(
            collector.replace(policy=parallel.broadcast(policy, collectors), statistics=statistics),
            value_learner.replace(
                policy=parallel.broadcast(policy, values), statistics=parallel.broadcast(statistics, values)
            ),
            policy_learner.replace(value=value, statistics=parallel.broadcast(statistics, policies)),
        )
        return state, reports

    def refresh(self, state: PipelineState) -> PipelineState:
        """A new pool of initial states."""
        return pipeline.refill(state, self.reset(*LAGGED.clock(state)))

    def policy_snapshot(self, state: PipelineState) -> Any:
        """What a policy needs later, agent and statistics, on the collectors; `fetch` it to keep it."""
        return parallel.broadcast(LAGGED.policy_snapshot(state), self.groups.collectors)

    @property
    def policy_snapshot_shapes(self) -> Any:
        """Shapes and types of a fetched `learned`, `[M, ...]`."""
        return Layout(0, None).gathered(LAGGED.policy_snapshot(self.shapes))

    def adopt(self, state: PipelineState, learned: Any) -> PipelineState:
        """`state` with an agent and statistics `[M, ...]` from the host, under its own hyper-parameters."""
        own = State(critic=state.value_learner.critic, actor=state.policy_learner.actor)
        agent = steps.keep_hypers(learned["agent"], parallel.fetch(own))
        publish = jax.jit(jax.vmap(partial(_published, self.task)))
        value, policy = jax.device_get(publish(agent))
        given = {"value": value, "policy": policy, "statistics": learned["statistics"]}

        def put(holder: Any, group: Sequence[jax.Device]) -> Any:
            held = {name: content for name, content in given.items() if hasattr(holder, name)}
            placed = parallel.replicate(held, group)
            return holder.replace(**{n: getattr(holder, n)._replace(content=content) for n, content in placed.items()})

        collectors, values, policies = self.groups
        critic, actor = parallel.replicate(agent.critic, values), parallel.replicate(agent.actor, policies)
        return PipelineState(
            put(state.collector, collectors),
            put(state.value_learner, values).replace(critic=critic),
            put(state.policy_learner, policies).replace(actor=actor),
        )

    def evaluate(self, learned: Any) -> Evaluation:
        """The greedy policy's episodes, `[D, M, N]`."""
        return self.evaluation(learned)

    def timing(self) -> dict[str, float]:
        """Mean seconds that an iteration and each role in it took since the last call; waits for the iterations in
        flight."""
        return self.stopwatch.read()

    def place(self, tree: Any) -> Any:
        """Puts what every member has, `[M, ...]` on the host, on the collectors, which evaluate."""
        return parallel.replicate(tree, self.groups.collectors)

    def fetch(self, tree: Any) -> Any:
        """Waits for a result and returns it on the host, `[M, ...]`."""
        return parallel.fetch(tree)

    def training_state(self, state: PipelineState, reports: Reports) -> Any:
        """Everything that the run's future hangs on, on the host, whatever the devices: `[M, shards, ...]`."""
        gathered = [self._layout(i).gather(role) for i, role in enumerate(state)]
        return {"state": PipelineState(*gathered), "totals": self.read(reports)}  # as of `--split 1`

    def place_training_state(self, whole: Any) -> tuple[PipelineState, Reports]:
        """State and reports from what `whole` returned, here or on other devices."""
        state = (self._layout(i).scatter(role, self.groups[i]) for i, role in enumerate(whole["state"]))
        parts = pipeline.part(whole["totals"], self.no_reports)
        reports = (parallel.replicate(report, group) for report, group in zip(parts, self.groups, strict=True))
        return PipelineState(*state), tuple(reports)

    @property
    def training_state_shapes(self) -> Any:
        """Shapes and types of what `whole` returns."""
        gathered = [self._layout(i).gathered(role) for i, role in enumerate(self.shapes)]
        totals = pipeline.join(*Layout(0, None).gathered(self.no_reports))
        return {"state": PipelineState(*gathered), "totals": totals}

    def _layout(self, role: int) -> Layout:
        return Layout(MEMBERS[role], OWN[role])

    def _over(self, function: Callable[..., Any], role: int, shard_axes: Any, member_axes: Any) -> Callable[..., Any]:
        """`function` over all members and the shards of a device of the role's group."""
        shards = self.task.plan.shards // self.split[role]
        return parallel.over(function, shard_axes, member_axes, shards, self.members, self.task.axes)

    def _make_starts(self) -> None:
        collectors = self.groups.collectors
        pool = self._over(partial(reset, self.task), 0, ((None, None), 0), ((0, None), 0))
        zero = parallel.replicate(np.zeros((), np.int32), collectors)
        self.reset = Program("reset", parallel.pmap(pool, collectors), self.first[0][0], zero, seldom=True)
        self.starts = []
        makers: list[Any] = [pipeline.init_collector, pipeline.init_value_learner, pipeline.init_policy_learner]
        for i, maker in enumerate(makers):
            given = (*self.first[i], *([self.reset.shapes] if not i else []))
            pool_axes = (0,) if not i else ()
            shard_axes, member_axes = ((None, None, *pool_axes), OWN[i]), ((0, 0, *pool_axes), MEMBERS[i])
            start = self._over(partial(maker, self.task), i, shard_axes, member_axes)
            self.starts.append(Program(f"start {i}", parallel.pmap(start, self.groups[i]), *given, seldom=True))
        self.shapes = PipelineState(*(start.shapes for start in self.starts))

    def _make_roles(self) -> None:
        """One program a role; what it reports is added up on its devices."""
        pieces = math.lcm(*self.split) // self.split[0]
        collected = pipeline.Collected(0, 0, None)  # type: ignore[arg-type]

        def role(i: int, function: Any, shard_out: tuple[Any, ...], member_out: tuple[Any, ...], after: Any) -> Any:
            work = self._over(partial(function, self.task), i, ((OWN[i],), shard_out), ((MEMBERS[i],), member_out))

            def step(state: Any, reports: Any) -> Any:
                *results, report = work(state)
                return *after(*results), nonfinite.add(reports, report)

            group = self.groups[i]
            report = jax.eval_shape(parallel.pmap(work, group), self.shapes[i])[-1]
            zeros = parallel.place(nonfinite.zeros_like(report), group)
            return Program(function.__name__, parallel.pmap(step, group, donate=(0,)), self.shapes[i], zeros), zeros

        def cut(state: Any, collected: Any, statistics: Any) -> Any:
            cuts = [jnp.split(x, pieces, axis=1) for x in jax.tree.leaves((collected.block, collected.data))]
            structure = jax.tree.structure((collected.block, collected.data))
            trees = tuple(jax.tree.unflatten(structure, piece) for piece in zip(*cuts, strict=True))
            return state, trees, collected.version, statistics

        def same(*results: Any) -> Any:
            return results

        self.collect, seen = role(
            0, pipeline.collect, (OWN[0], collected, None, None), (MEMBERS[0], collected, 0, 0), cut
        )
        self.learn_value, of_values = role(1, pipeline.learn_value, (OWN[1], None, None), (MEMBERS[1], 0, 0), same)
        self.learn_policy, of_policies = role(2, pipeline.learn_policy, (OWN[2], None), (MEMBERS[2], 0), same)
        self.no_reports = (seen, of_values, of_policies)

    def _make_edges(self) -> None:
        """Storing the block on both learners, and the next policy."""
        _, pieces, version, _, _ = self.collect.shapes

        def store(i: int, part: int) -> Program:
            add = self._over(pipeline.store, i, ((OWN[i], 0, None), OWN[i]), ((MEMBERS[i], 0, None), MEMBERS[i]))

            def joined(state: Any, pieces: tuple[Any, ...], version: jax.Array) -> Any:
                return add(state, jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *pieces), version)

            count = math.lcm(*self.split) // self.split[i]
            rows = len(parallel.local(self.groups[i]))
            given = tuple(_placed_like(pieces[0][part], rows) for _ in range(count))
            program = parallel.pmap(joined, self.groups[i], donate=(0,))
            return Program("store", program, self.shapes[i], given, _placed_like(version, rows))

        self.store_block, self.store_data = store(1, 0), store(2, 1)
        publish = self._over(partial(pipeline.next_policy, self.task), 2, ((OWN[2], None), None), ((MEMBERS[2], 0), 0))
        value = self.shapes.policy_learner.value
        self.publish = Program("publish", parallel.pmap(publish, self.groups.policies), self.shapes[2], value)


def _published(task: Task, agent: State) -> tuple[Any, Any]:
    value = task.agent.critic_params(agent.critic)
    return value, task.agent.policy_params(agent.actor, value)


def _placed_like(shapes: Any, devices: int) -> Any:
    """Shapes `[D, ...]` of one group as they are on a group of another size."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((devices, *x.shape[1:]), x.dtype), shapes)
