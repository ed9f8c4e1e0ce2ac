"""The pipelined driver: the iteration of `rlx.train.pipeline` on disjoint groups of devices, all at work at once.

One thread dispatches the roles of an iteration back to back, then the edge: what each role publishes travels from
device to device, never through the host. Nothing waits but for the oldest of `depth` iterations in flight. Online there
are three roles: collectors, value learners and policy learners; offline the two learners. Each group of learners has
its own copy of the data sets.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import parallel
from rlx.evaluate import Evaluation
from rlx.train import acting, learning, nonfinite, pipeline, roles
from rlx.train.compile import Program
from rlx.train.fused import reset
from rlx.train.pipeline import LAGGED, OFFLINE_LAGGED, PipelineState
from rlx.train.profiler import RoleTimer
from rlx.train.roles import RoleTotals
from rlx.train.state_layout import Layout
from rlx.train.task import Tables, Task, Totals
from rlx.types import State

COLLECTED = roles.Collected(0, 0, None)  # type: ignore[arg-type]
ROLES: list[tuple[str, Any, Any, Any, Any]] = [  # name, init, iteration, and the results' axes under both vmaps
    ("collect", roles.init_collector, roles.collect, (COLLECTED, None, None), (COLLECTED, 0, 0)),
    ("value", roles.init_value_learner, roles.learn_value, (None, None), (0, 0)),
    ("policy", roles.init_policy_learner, roles.learn_policy, (None,), (0,)),
]
ByRole = tuple[RoleTotals, ...]


class Pipelined:
    """The programs of a pipelined run, for members with these seeds [M] and hyper-parameters [M].

    `groups` are the devices of each role, offline without collectors. The state of each role leads with the devices of
    its group, `[D, M, shards, ...]`.
    """

    def __init__(
        self,
        task: Task,
        groups: Sequence[Sequence[jax.Device]],
        seeds: np.ndarray,
        hypers: Any,
        data: Tables | None = None,
        env_params: Any = None,
    ) -> None:
        self.task, self.groups, self.members = task, [list(group) for group in groups], len(seeds)
        self.schedule = OFFLINE_LAGGED if task.plan.offline else LAGGED
        self._roles = ROLES[-len(groups) :]
        self._shards, self._members = (axes[-len(groups) :] for axes in (self.schedule.shards, self.schedule.members))
        self.timer = RoleTimer(tuple(name for name, *_ in self._roles))
        self._first = [parallel.replicate((np.asarray(seeds, np.uint32), hypers), group) for group in self.groups]
        of_roles = [None if name == "collect" else data for name, *_ in self._roles]
        self._data = [parallel.replicate(tables, group) for tables, group in zip(of_roles, self.groups, strict=True)]
        self.env_params = parallel.replicate(env_params, self.groups[0])
        pools = self._make_reset() if self.schedule.refill else []
        self.starts = [self._start(i, *pools[i : i + 1]) for i in range(len(groups))]
        self.shapes = self._state([start.shapes for start in self.starts])
        self.iterations, zeros = zip(*map(self._iteration, range(len(groups))), strict=True)
        self.no_totals: ByRole = zeros
        edges = [self._store(-2, 0), self._store(-1, 1)] if self.schedule.refill else []
        self.store = edges
        next_policy = self._over(
            partial(roles.next_policy, task), -1, ((self._shards[-1], None), None), ((self._members[-1], 0), 0)
        )
        learner = self.shapes.policy_learner
        self.publish = Program("publish", parallel.pmap(next_policy, self.groups[-1]), learner, learner.value)
        evaluate = parallel.pmap(parallel.along(partial(acting.evaluate_policy, task), self.members), self.groups[0])
        snapshot = self._on(0, self.schedule.policy_snapshot(self.shapes))
        self.evaluation = Program("evaluate", evaluate, snapshot, self.env_params)
        resets = [self.reset] if self.schedule.refill else []
        self.programs = (*self.iterations, *resets, *self.starts, *edges, self.publish, self.evaluation)

    def init(self) -> PipelineState:
        """The state before the first iteration."""
        sources: list[Any] = list(self._data)
        if self.schedule.refill:
            zero = parallel.replicate(np.zeros((), np.int32), self.groups[0])
            sources = [self.reset(self._first[0][0], zero, self.env_params), None, None]
        return self._state(
            [start(*first, x) for start, first, x in zip(self.starts, self._first, sources, strict=True)]
        )

    def advance(self, state: PipelineState, totals: ByRole, iterations: int) -> tuple[PipelineState, ByRole]:
        """Makes `iterations` iterations; `state` is donated. Returns when the last are dispatched, not when they are
        done."""
        in_flight = deque[Any]()
        for _ in range(iterations):
            state, totals = self.iteration(state, totals)
            in_flight.append(totals)
            if len(in_flight) >= self.task.config.depth:
                jax.block_until_ready(in_flight.popleft())
        return state, totals

    def iteration(self, state: PipelineState, totals: ByRole) -> tuple[PipelineState, ByRole]:
        """Dispatches one iteration and returns at once; what the roles report is added to `totals`."""
        arguments = zip(self.iterations, self._by_role(state), self._data, totals, strict=True)
        results = [program(*inputs) for program, *inputs in arguments]
        totals = tuple(result[-1] for result in results)
        self.timer.start(*totals)
        (value_learner, value, _), (policy_learner, _) = results[-2:]
        value = parallel.broadcast(value, self.groups[-1])
        policy = self.publish(policy_learner, value)
        value_learner = value_learner.replace(policy=parallel.broadcast(policy, self.groups[-2]))
        state = PipelineState(None, value_learner, policy_learner.replace(value=value))
        return (self._edge(state, policy, *results[0]) if self.store else state), totals

    def _edge(
        self, state: PipelineState, policy: Any, collector: Any, pieces: Any, version: Any, statistics: Any, _: Any
    ) -> PipelineState:
        """Adds the block to both rings, and hands statistics and policy to the roles that read them."""
        learners = []
        for learner, store, group, part in zip(
            state[1:], self.store, self.groups[1:], zip(*pieces, strict=True), strict=True
        ):
            stored = store(learner, parallel.deal(part, group), parallel.broadcast(version, group))
            learners.append(stored.replace(statistics=parallel.broadcast(statistics, group)))
        policy = parallel.broadcast(policy, self.groups[0])
        return PipelineState(collector.replace(policy=policy, statistics=statistics), *learners)

    def zeros(self) -> ByRole:
        """What to start the roles' totals from."""
        return self.no_totals

    def read(self, totals: ByRole) -> Totals:
        """The roles' totals as one, `[M, ...]` on the host; waits for the iterations in flight."""
        return pipeline.join(*parallel.fetch(totals))

    def refresh(self, state: PipelineState) -> PipelineState:
        """A new pool of initial states."""
        if self.schedule.refill is None:
            return state
        return self.schedule.refill(state, self.reset(*self.schedule.clock(state), self.env_params))

    def policy_snapshot(self, state: PipelineState) -> Any:
        """What a policy needs later, agent and statistics, on the devices that evaluate; `fetch` it to keep it."""
        return parallel.broadcast(self.schedule.policy_snapshot(state), self.groups[0])

    @property
    def policy_snapshot_shapes(self) -> Any:
        """Shapes and types of a fetched policy snapshot, `[M, ...]`."""
        return Layout(0, None).gathered(self.schedule.policy_snapshot(self.shapes))

    def adopt(self, state: PipelineState, learned: Any) -> PipelineState:
        """`state` with an agent and statistics `[M, ...]` from the host, under its own hyper-parameters."""
        old = State(critic=state.value_learner.critic, actor=state.policy_learner.actor)
        agent = learning.keep_hypers(learned["agent"], parallel.fetch(old))
        contents = jax.jit(jax.vmap(partial(roles.contents, self.task)))(agent, learned["statistics"])
        fields = jax.device_get(contents)
        by_role = zip(self._by_role(state), self.groups, strict=True)
        return self._state([_adopted(role, fields, group) for role, group in by_role])

    def evaluate(self, learned: Any) -> Evaluation:
        """The greedy policy's episodes, `[D, M, N]`."""
        return self.evaluation(learned, self.env_params)

    def timing(self) -> dict[str, float]:
        """Mean seconds that an iteration and each role in it took since the last call; waits for the iterations in
        flight."""
        return self.timer.read()

    def place(self, tree: Any) -> Any:
        """Puts what every member has, `[M, ...]` on the host, on the devices that evaluate."""
        return parallel.replicate(tree, self.groups[0])

    def fetch(self, tree: Any) -> Any:
        """Waits for a result and returns it on the host, `[M, ...]`."""
        return parallel.fetch(tree)

    def training_state(self, state: PipelineState, totals: ByRole) -> Any:
        """The full training state, for resuming, on the host, whatever the devices: `[M, shards, ...]`."""
        gathered = [self._layout(i).gather(role) for i, role in enumerate(self._by_role(state))]
        return {"state": self._state(gathered), "totals": self.read(totals)}  # as of `--split 1`

    def place_training_state(self, saved: Any) -> tuple[PipelineState, ByRole]:
        """State and totals from what `training_state` returned, here or on other devices."""
        saved_roles = enumerate(self._by_role(saved["state"]))
        state = [self._layout(i).scatter(role, self.groups[i]) for i, role in saved_roles]
        parts = zip(pipeline.part(saved["totals"], self.no_totals), self.groups, strict=True)
        return self._state(state), tuple(parallel.replicate(totals, group) for totals, group in parts)

    @property
    def training_state_shapes(self) -> Any:
        """Shapes and types of what `training_state` returns."""
        gathered = [self._layout(i).gathered(role) for i, role in enumerate(self._by_role(self.shapes))]
        return {"state": self._state(gathered), "totals": pipeline.join(*Layout(0, None).gathered(self.no_totals))}

    def _by_role(self, state: PipelineState) -> Sequence[Any]:
        return state[-len(self.groups) :]

    def _state(self, by_role: Sequence[Any]) -> PipelineState:
        return PipelineState(*by_role) if len(by_role) == 3 else PipelineState(None, *by_role)

    def _layout(self, i: int) -> Layout:
        return Layout(self._members[i], self._shards[i])

    def _on(self, i: int, shapes: Any) -> Any:
        """Shapes `[D, ...]` of one group as they are on group `i`."""
        rows = len(parallel.local(self.groups[i]))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), shapes)

    def _over(self, function: Callable[..., Any], i: int, shard_axes: Any, member_axes: Any) -> Callable[..., Any]:
        """`function` over all members and the shards of a device of group `i`."""
        shards = self.task.plan.shards // len(self.groups[i])
        return parallel.over(function, shard_axes, member_axes, shards, self.members, self.task.axes)

    def _make_reset(self) -> list[Any]:
        """The program that makes pools of starts; returns the shapes of its result."""
        pool = self._over(partial(reset, self.task), 0, ((None, None, None), 0), ((0, None, 0), 0))
        zero = parallel.replicate(np.zeros((), np.int32), self.groups[0])
        arguments = self._first[0][0], zero, self.env_params
        self.reset = Program("reset", parallel.pmap(pool, self.groups[0]), *arguments, seldom=True)
        return [self.reset.shapes]

    def _start(self, i: int, pool: Any = None) -> Program:
        """The program that initialises a role, from a pool of starts or, offline, from the data sets."""
        sources, axis = (self._data[i] if self.task.plan.offline else None, None) if pool is None else (pool, 0)
        shard_axes, member_axes = ((None, None, axis), self._shards[i]), ((0, 0, axis), self._members[i])
        start = self._over(partial(self._roles[i][1], self.task), i, shard_axes, member_axes)
        return Program(f"start {i}", parallel.pmap(start, self.groups[i]), *self._first[i], sources, seldom=True)

    def _iteration(self, i: int) -> tuple[Program, RoleTotals]:
        """The program of a role's iteration, which adds up what it reports on its devices, and zeros to begin from."""
        _, _, function, shard_results, member_results = self._roles[i]
        shard_axes = ((None, self._shards[i]), (self._shards[i], *shard_results))
        member_axes = ((None, self._members[i]), (self._members[i], *member_results))
        work = self._over(partial(function, self.task), i, shard_axes, member_axes)
        pieces = math.lcm(*map(len, self.groups)) // len(self.groups[i])

        def step(state: Any, data: Any, totals: Any) -> Any:
            state, *published, new = work(data, state)
            if isinstance(published[0] if published else None, roles.Collected):
                block, *published = published
                published = [_cut((block.block, block.data), pieces), block.version, *published]
            return state, *published, nonfinite.add(totals, new)

        group, state, data = self.groups[i], self._by_role(self.shapes)[i], self._data[i]
        totals = jax.eval_shape(parallel.pmap(work, group), data, state)[-1]
        zeros = parallel.place(nonfinite.zeros_like(totals), group)
        return Program(function.__name__, parallel.pmap(step, group, donate=(0,)), state, data, zeros), zeros

    def _store(self, i: int, part: int) -> Program:
        """The program that adds a block, as the pieces that were dealt out, to the ring of learner `i`."""
        _, pieces, version, *_ = self.iterations[0].shapes
        shard_axes, member_axes = (((axes[i], 0, None), axes[i]) for axes in (self._shards, self._members))
        add = self._over(roles.store, i, shard_axes, member_axes)

        def store(state: Any, pieces: tuple[Any, ...], version: jax.Array) -> Any:
            return add(state, jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *pieces), version)

        count = math.lcm(*map(len, self.groups)) // len(self.groups[i])
        received = (self._on(i, pieces[0][part]),) * count
        program = parallel.pmap(store, self.groups[i], donate=(0,))
        return Program("store", program, self._by_role(self.shapes)[i], received, self._on(i, version))


def _cut(tree: Any, pieces: int) -> tuple[Any, ...]:
    """The tree cut along the shards into pieces of equal size, so that they can be dealt out."""
    leaves, structure = jax.tree.flatten(tree)
    cuts = zip(*(jnp.split(x, pieces, axis=1) for x in leaves), strict=True)
    return tuple(jax.tree.unflatten(structure, piece) for piece in cuts)


def _adopted(role: Any, fields: dict[str, Any], group: Sequence[jax.Device]) -> Any:
    arguments = {name: content for name, content in fields.items() if hasattr(role, name)}
    return roles.role_with_contents(role, parallel.replicate(arguments, group))
