"""The fused driver: everything in one program, for all seeds and hyper-parameters, on any number of devices.

One program makes any number of iterations, warm-up and learning alike, so it compiles once. Inside, training runs
(members: seeds times hyper-parameter values) are a vmap, logical shards are a vmap that averages gradients, devices
are a pmap. What an iteration does is a `Schedule`: here `SEQUENTIAL`, which learns on what it has just collected
(lag 0). A data set is an argument of the program, one copy a device, whatever the number of members and shards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.struct import PyTreeNode

from rlx import normalize, parallel, replay
from rlx.envs.base import VectorState
from rlx.evaluate import Evaluation
from rlx.replay import Replay
from rlx.rollout import derive
from rlx.train import acting, learning, nonfinite
from rlx.train.compile import Program
from rlx.train.nonfinite import Learned
from rlx.train.state_layout import Layout
from rlx.train.task import INIT_AGENT, Source, Tables, Task, Totals
from rlx.types import EnvState, State


class Schedule(NamedTuple):
    """A driver state and what an iteration does to it, for one member and one logical shard."""

    init: Callable[
        ..., Any
    ]  # (task, seed, hypers, source) -> state; source is a shard's pool of starts, or the data set
    iteration: Callable[[Task, Any, Any], tuple[Any, Totals]]  # (task, data, state)
    shards: Any  # the state's axes under the vmap over shards: 0 where shards differ, None where all have the same
    members: Any  # likewise under the vmap over members
    policy_snapshot: Callable[[Any], Any]  # state -> {"agent", "statistics"}
    adopt: Callable[[Task, Any, Any], Any]  # (task, state, learned) -> state
    clock: Callable[[Any], tuple[jax.Array, jax.Array]]  # state -> (seed, iteration)
    refill: Callable[[Any, EnvState], Any] | None  # (state, pool) -> state; None where no environment is stepped


class FusedState(PyTreeNode):
    """One training run. Agent and statistics are the same on every shard; environments, pool and ring are its own."""

    agent: State
    statistics: normalize.Statistics
    env: VectorState
    pool: EnvState
    replay: Replay
    seed: jax.Array  # [] uint32
    iteration: jax.Array  # [] int32, iterations made


def init(task: Task, seed: jax.Array, hypers: Any, pool: EnvState) -> FusedState:
    """A fresh run of one shard."""
    key = jax.random.key(seed)
    return FusedState(
        agent=task.agent.init(derive(key, INIT_AGENT), hypers),
        statistics=acting.init_statistics(task),
        env=acting.init_env(task, key, pool, hypers),
        pool=pool,
        replay=learning.init_replay(task, learning.row_shapes(task)),
        seed=seed,
        iteration=jnp.zeros((), jnp.int32),
    )


def iteration(task: Task, data: Tables | None, state: FusedState) -> tuple[FusedState, Totals]:
    """Collects one block, adds it, merges the statistics, then learns on replay, and on `data` where there is one.

    On-policy, learning sees the statistics that the block was collected with, so that importance ratios start at 1.
    """
    key = jax.random.key(state.seed)
    policy = task.agent.acting_params(state.agent)
    made = acting.make_block(task, policy, state.statistics, state.env, state.pool, key, state.iteration)
    env, rows, episodes, diverged = made
    ring = replay.add(state.replay, rows)
    statistics, env = acting.add_block(task, state.statistics, env, rows)
    applied = state.statistics if task.config.epochs else statistics

    def learn(agent: State) -> tuple[State, Learned]:
        return learning.learn(task, agent, Source(ring, data), applied, key, state.iteration)

    agent, updates, learned = learning.after_warmup(learn, state.agent, learning.learns(task, ring, state.iteration))
    watched = nonfinite.watch_statistics(state.statistics, statistics, rows.observation, task.axes)
    alarms = nonfinite.sound(diverged | watched | updates.bad, state.iteration)
    state = state.replace(agent=agent, statistics=statistics, env=env, replay=ring, iteration=state.iteration + 1)
    return state, Totals(updates.metrics, learned, episodes, alarms=alarms)


def adopt(task: Task, state: FusedState, learned: Any) -> FusedState:
    """The run continues with another agent and its statistics, under its own hyper-parameters."""
    del task
    agent = learning.keep_hypers(learned["agent"], state.agent)
    return state.replace(agent=agent, statistics=learned["statistics"])


SEQUENTIAL = Schedule(
    init=init,
    iteration=iteration,
    shards=FusedState(None, None, 0, 0, Replay(0, None), None, None),  # type: ignore[arg-type]
    members=FusedState(0, 0, 0, 0, Replay(0, None), 0, None),  # type: ignore[arg-type]
    policy_snapshot=lambda state: {"agent": state.agent, "statistics": state.statistics},
    adopt=adopt,
    clock=lambda state: (state.seed, state.iteration),
    refill=lambda state, pool: state.replace(pool=pool),
)


def advance(
    iteration: Callable[[Any, Any], tuple[Any, Totals]], state: Any, totals: Totals, data: Any, iterations: jax.Array
) -> tuple[Any, Totals]:
    """Makes `iterations` iterations (traced, so one program serves every length) and adds what they report to
    `totals`."""

    def body(_: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        state, packed = carry
        state, new = iteration(data, state)
        return state, nonfinite.add_packed(packed, nonfinite.pack(new))

    state, packed = jax.lax.fori_loop(0, iterations, body, (state, nonfinite.pack(totals)))
    return state, nonfinite.unpack(packed, totals)


def reset(task: Task, seed: jax.Array, iteration: jax.Array, env_params: Any = None) -> EnvState:
    """This shard's pool of initial states."""
    return acting.make_pool(task, jax.random.key(seed), iteration, env_params)


class Fused:
    """The programs of a run on `devices`, for members with these seeds [M] and hyper-parameters [M].

    With `spread="data"` every device holds all members and its part of the shards; with `spread="seeds"` it holds all
    shards of its part of the members. Every leaf of the state leads with the devices, `[D, ...]`. `data` are data
    sets on the host, each as a full ring of one column; `env_params` `[M, ...]` those of members with their own.
    """

    def __init__(
        self,
        task: Task,
        devices: Sequence[jax.Device],
        seeds: np.ndarray,
        hypers: Any,
        schedule: Schedule = SEQUENTIAL,
        data: Tables | None = None,
        env_params: Any = None,
    ) -> None:
        self.task, self.devices, self.members, self.schedule = task, list(devices), len(seeds), schedule
        self.split_members = task.config.spread == "seeds"
        shards = task.plan.shards if self.split_members else task.plan.shards // len(self.devices)
        members = self.members // len(self.devices) if self.split_members else self.members

        def spread(function: Any, shard_axes: Any, member_axes: Any, donate: tuple[int, ...] = ()) -> Any:
            mapped = parallel.over(function, shard_axes, member_axes, shards, members, task.axes)
            return parallel.pmap(mapped, self.devices, donate=donate)

        by_shard, by_member = schedule.shards, schedule.members
        zero = self._iterations(0)
        self.data = parallel.replicate(data, self.devices)
        self.first = self.place(np.asarray(seeds, np.uint32)), self.place(hypers)
        self.env_params = self.place(env_params)
        pool = spread(partial(reset, task), ((None, None, None), 0), ((0, None, 0), 0))
        self.reset = Program("reset", pool, self.first[0], zero, self.env_params, seldom=True)
        source, axis = (self.reset.shapes, 0) if schedule.refill else (self.data, None)
        start = spread(partial(schedule.init, task), ((None, None, axis), by_shard), ((0, 0, axis), by_member))
        self.start = Program("start", start, *self.first, source, seldom=True)
        iteration = jax.jit(
            partial(schedule.iteration, task)
        )  # so that it is traced once, for its shapes and for the program
        self._spread_iteration = spread(
            iteration, ((None, by_shard), (by_shard, None)), ((None, by_member), (by_member, 0))
        )
        train = spread(
            partial(advance, iteration),
            ((by_shard, None, None, None), (by_shard, None)),
            ((by_member, 0, None, None), (by_member, 0)),
            donate=(0, 1),
        )
        adopt = spread(partial(schedule.adopt, task), ((by_shard, None), by_shard), ((by_member, 0), by_member))
        evaluator = parallel.pmap(parallel.along(partial(acting.evaluate_policy, task), members), self.devices)
        self.train = Program("train", train, self.shapes, lambda: self.no_totals, self.data, zero)
        self.evaluation = Program("evaluate", evaluator, schedule.policy_snapshot(self.shapes), self.env_params)
        self.adoption = Program("adopt", adopt, self.shapes, schedule.policy_snapshot(self.shapes), seldom=True)
        self.programs = (self.train, *([self.reset] if schedule.refill else []), self.start, self.evaluation)

    @cached_property
    def shapes(self) -> Any:
        """Shapes and types of the state, `[D, ...]`."""
        return self.start.shapes

    @cached_property
    def no_totals(self) -> Totals:
        """What an iteration reports, all zero, on the host; from tracing the iteration, which takes time."""
        return nonfinite.zeros_like(jax.eval_shape(self._spread_iteration, self.data, self.shapes)[1])

    def init(self) -> Any:
        """The state before the first iteration."""
        return self.begin(*self.first, self.env_params)

    def begin(self, seeds: Any, hypers: Any, env_params: Any = None) -> Any:
        """The state before the first iteration of members with these, on the devices."""
        source = self.reset(seeds, self._iterations(0), env_params) if self.schedule.refill else self.data
        return self.start(seeds, hypers, source)

    def advance(self, state: Any, totals: Totals, iterations: int) -> tuple[Any, Totals]:
        """Makes `iterations` iterations, adding to `totals`; both are donated. Returns at once, with what is being
        computed."""
        return self.train(state, totals, self.data, self._iterations(iterations))

    def zeros(self) -> Totals:
        """What to start totals from."""
        return parallel.place(self.no_totals, self.devices)

    def read(self, totals: Totals) -> Totals:
        """Totals as they are reported, `[M, ...]` on the host; waits for the device."""
        return self.fetch(totals)

    def refresh(self, state: Any) -> Any:
        """A new pool of initial states."""
        return self.refreshed(state, self.env_params)

    def refreshed(self, state: Any, env_params: Any) -> Any:
        """A new pool of initial states of members with these parameters."""
        if self.schedule.refill is None:
            return state
        return self.schedule.refill(state, self.reset(*self.schedule.clock(state), env_params))

    def policy_snapshot(self, state: Any) -> Any:
        """What a policy needs later, agent and statistics; `fetch` it to keep it."""
        return self.schedule.policy_snapshot(state)

    @property
    def policy_snapshot_shapes(self) -> Any:
        """Shapes and types of a fetched `learned`, `[M, ...]`."""
        return self._layout(0, None).gathered(self.policy_snapshot(self.shapes))

    def adopt(self, state: Any, learned: Any) -> Any:
        """`state` with an agent and statistics `[M, ...]` from the host, under its own hyper-parameters."""
        return self.adoption(state, self.place(learned))

    def timing(self) -> dict[str, float]:
        """Seconds by role since the last call: one program has no roles to time."""
        return {}

    def evaluate(self, learned: Any) -> Evaluation:
        """The greedy policy's episodes, `[D, M, N]`."""
        return self.evaluated(learned, self.env_params)

    def evaluated(self, learned: Any, env_params: Any) -> Evaluation:
        """Those of members with these parameters."""
        return self.evaluation(learned, env_params)

    def place(self, tree: Any) -> Any:
        """Puts what every member has, `[M, ...]` on the host, on the devices."""
        return self._layout(0, None).scatter(tree, self.devices)

    def fetch(self, tree: Any) -> Any:
        """Waits for a result and returns it on the host, `[M, ...]`."""
        return self._layout(0, None).gather(tree)

    def training_state(self, state: Any, totals: Totals) -> Any:
        """The full training state, for resuming, on the host, whatever the devices: `[M, shards, ...]`."""
        return {"state": self._state_layout.gather(state), "totals": self.fetch(totals)}

    def place_training_state(self, saved: Any) -> tuple[Any, Totals]:
        """State and totals from what `training_state` returned, here or on other devices."""
        return self._state_layout.scatter(saved["state"], self.devices), self.place(saved["totals"])

    @property
    def training_state_shapes(self) -> Any:
        """Shapes and types of what `training_state` returns."""
        return {
            "state": self._state_layout.gathered(self.shapes),
            "totals": self._layout(0, None).gathered(self.no_totals),
        }

    @property
    def _state_layout(self) -> Layout:
        return self._layout(self.schedule.members, self.schedule.shards)

    def _layout(self, members: Any, shards: Any) -> Layout:
        return Layout(members, shards, self.split_members)

    def _iterations(self, count: int) -> jax.Array:
        return parallel.replicate(np.asarray(count, np.int32), self.devices)
