"""The fused driver: collect, add and learn in one program, sequentially (lag 0), for all seeds and hyper-parameters.

One program makes any number of ticks, warm-up and learning alike, so it compiles once. Inside, training runs (members:
seeds times hyper-parameter values) are a vmap, logical shards are a vmap that averages gradients, devices are a pmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.struct import PyTreeNode

from rlx import normalize, parallel, replay
from rlx.envs.base import VectorState
from rlx.evaluate import Evaluation
from rlx.replay import Replay
from rlx.train import roles
from rlx.train.program import Program
from rlx.train.roles import Task, Totals, zeros_like
from rlx.types import EnvState, Metrics, State


class FusedState(PyTreeNode):
    """One training run. Agent and statistics are the same on every shard; environments, pool and ring are its own."""

    agent: State
    statistics: normalize.Statistics
    env: VectorState
    pool: EnvState
    replay: Replay
    seed: jax.Array  # [] uint32
    tick: jax.Array  # [] int32, ticks made


# how the state is laid out: the axis of each part under the vmap over shards, and under the vmap over members
SHARDS = FusedState(None, None, 0, 0, Replay(0, None), None, None)  # type: ignore[arg-type]
MEMBERS = FusedState(0, 0, 0, 0, Replay(0, None), 0, None)  # type: ignore[arg-type]


def init(task: Task, seed: jax.Array, hypers: Any, pool: EnvState) -> FusedState:
    """A fresh run of one shard."""
    key = jax.random.key(seed)
    return FusedState(
        agent=task.agent.init(roles.derive(key, roles.INIT_AGENT), hypers),
        statistics=normalize.init(task.env.spec.observation_size),
        env=roles.init_env(task, key, pool),
        pool=pool,
        replay=roles.init_replay(task),
        seed=seed,
        tick=jnp.zeros((), jnp.int32),
    )


def tick(task: Task, state: FusedState) -> tuple[FusedState, Totals]:
    """Collects one block, adds it, merges the statistics, then learns on all that is there."""
    key = jax.random.key(state.seed)
    policy = task.agent.acting(state.agent)
    env, rows, episodes = roles.make_block(task, policy, state.statistics, state.env, state.pool, key, state.tick)
    ring = replay.add(state.replay, rows)
    statistics = normalize.update(state.statistics, rows.observation, task.axes or None)

    def learn(agent: State) -> tuple[State, Metrics]:
        return roles.learn(task, agent, ring, statistics, key, state.tick)

    def wait(agent: State) -> tuple[State, Metrics]:
        return agent, zeros_like(jax.eval_shape(learn, agent)[1])

    learning = state.tick >= task.plan.warmup_ticks
    agent, metrics = jax.lax.cond(learning, learn, wait, state.agent)
    totals = Totals(metrics, learning.astype(jnp.float32), parallel.sum(episodes, task.axes))
    state = state.replace(agent=agent, statistics=statistics, env=env, replay=ring, tick=state.tick + 1)
    return state, totals


def advance(task: Task, state: FusedState, ticks: jax.Array) -> tuple[FusedState, Totals]:
    """Makes `ticks` ticks (traced, so one program serves every length) and sums what they report."""
    zero = zeros_like(jax.eval_shape(lambda s: tick(task, s)[1], state))

    def body(_: jax.Array, carry: tuple[FusedState, Totals]) -> tuple[FusedState, Totals]:
        state, totals = carry
        state, new = tick(task, state)
        return state, jax.tree.map(jnp.add, totals, new)

    return jax.lax.fori_loop(0, ticks, body, (state, zero))


def _reset(task: Task, seed: jax.Array, tick: jax.Array) -> EnvState:
    return roles.make_pool(task, jax.random.key(seed), tick)


class Fused:
    """The programs of a fused run on `devices`, for members with the given seeds [M] and hyper-parameters [M].

    With `spread="data"` every device holds all members and its part of the shards; with `spread="seeds"` it holds all
    shards of its part of the members. Every leaf of the state leads with the devices, `[D, ...]`.
    """

    def __init__(self, task: Task, devices: Sequence[jax.Device], seeds: np.ndarray, hypers: Any) -> None:
        self.task, self.devices, self.members = task, list(devices), len(seeds)
        self.split_members = task.config.spread == "seeds"
        shards = task.plan.shards if self.split_members else task.plan.shards // len(self.devices)

        def spread(function: Any, shard_axes: Any, member_axes: Any, donate: tuple[int, ...] = ()) -> Any:
            (shard_in, shard_out), (member_in, member_out) = shard_axes, member_axes
            function = partial(function, task)
            function = jax.vmap(function, shard_in, shard_out, axis_name=parallel.SHARD, axis_size=shards)
            return parallel.pmap(jax.vmap(function, member_in, member_out), self.devices, donate=donate)

        tick = self._ticks(0)
        seeds, hypers = self.place(np.asarray(seeds, np.uint32)), self.place(hypers)
        self.first = (seeds, hypers)
        self.reset = Program("reset", spread(_reset, ((None, None), 0), ((0, None), 0)), seeds, tick)
        start = spread(init, ((None, None, 0), SHARDS), ((0, 0, 0), MEMBERS))
        self.start = Program("start", start, seeds, hypers, self.reset.shapes)
        state = self.shapes
        train = spread(advance, ((SHARDS, None), (SHARDS, None)), ((MEMBERS, None), (MEMBERS, 0)), donate=(0,))
        self.train = Program("train", train, state, tick)
        judge = parallel.pmap(jax.vmap(partial(roles.judge, task)), self.devices)
        self.judge = Program("evaluate", judge, state.agent, state.statistics)
        self.programs = (self.train, self.reset, self.start, self.judge)

    @cached_property
    def shapes(self) -> FusedState:
        """Shapes and types of the state, `[D, ...]`."""
        return self.start.shapes

    def init(self) -> FusedState:
        """The state before the first tick."""
        seeds, hypers = self.first
        return self.start(seeds, hypers, self.reset(seeds, self._ticks(0)))

    def advance(self, state: FusedState, ticks: int) -> tuple[FusedState, Totals]:
        """Makes `ticks` ticks; `state` is donated. Returns at once, with arrays that are still being computed."""
        return self.train(state, self._ticks(ticks))

    def refresh(self, state: FusedState) -> FusedState:
        """A new pool of initial states."""
        return state.replace(pool=self.reset(state.seed, state.tick))

    def learned(self, state: FusedState) -> Any:
        """What a policy needs later, agent and statistics; `fetch` it to keep it."""
        return {"agent": state.agent, "statistics": state.statistics}

    def adopt(self, state: FusedState, learned: Any) -> FusedState:
        """`state` with an agent and statistics from elsewhere, `[M, ...]` on the host, under its own hyper-parameters."""
        placed = self.place(learned)
        own, agent = state.agent, placed["agent"]
        critic, actor = agent.critic.replace(hypers=own.critic.hypers), agent.actor.replace(hypers=own.actor.hypers)
        return state.replace(agent=State(critic=critic, actor=actor), statistics=placed["statistics"])

    def evaluate(self, learned: Any) -> Evaluation:
        """The greedy policy's episodes, `[D, M, N]`."""
        return self.judge(learned["agent"], learned["statistics"])

    def place(self, tree: Any) -> Any:
        """Puts what every member has, `[M, ...]` on the host, on the devices."""
        if not self.split_members:
            return parallel.replicate(tree, self.devices)
        rows = len(self.devices)
        apart = jax.tree.map(lambda x: np.reshape(x, (rows, -1, *np.shape(x)[1:])), tree)
        return parallel.place(apart, self.devices)

    def fetch(self, tree: Any) -> Any:
        """Waits for a result and returns it on the host, `[M, ...]`."""
        return parallel.fetch_all(tree) if self.split_members else parallel.fetch(tree)

    def _ticks(self, count: int) -> jax.Array:
        return parallel.replicate(np.asarray(count, np.int32), self.devices)
