"""Several members on a CPU: each runs the programs of a single member, on a thread of its own.

vmapped, the activations of several members leave the caches, and little of what XLA computes for a CPU is shared out to
its cores. Threads, each member keeps its caches, members use all cores, there is one member's program to compile, and a
member's bits do not depend on the other members. No thread waits for another, so nothing can dead-lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from rlx.train.fused import Fused
from rlx.train.state_layout import Layout
from rlx.train.task import Totals

Each = tuple[Any, ...]  # of every member, as the driver of one has it


class Threads:
    """The members of a run on one device, all with the programs of `make(seeds [1], hypers [1])`, one member's driver.

    States, totals and policy snapshots are tuples with one entry a member; on the host they are as those of `Fused`.
    """

    def __init__(self, make: Callable[..., Fused], seeds: np.ndarray, hypers: Any, env_params: Any = None) -> None:
        self.members = len(seeds)
        first = np.asarray(seeds, np.uint32), hypers, env_params
        self.firsts = [self._alike.part(first, i) for i in range(self.members)]
        self.one = make(*self.firsts[0])
        self.env_params = self.place(env_params)
        self.task, self.programs = self.one.task, self.one.programs
        self._threads = ThreadPoolExecutor(min(self.members, os.cpu_count() or 1))

    def init(self) -> Each:
        """The states before the first iteration."""
        return tuple(self.one.begin(*map(self.one.place, first)) for first in self.firsts)

    def advance(self, state: Each, totals: Each, iterations: int) -> tuple[Each, Each]:
        """Makes `iterations` iterations of every member, adding to `totals`; both are donated. Returns when they are
        done."""
        self.one.train.compiled()
        made = self._each(lambda state, totals: self.one.advance(state, totals, iterations), state, totals)
        return tuple(state for state, _ in made), tuple(totals for _, totals in made)

    def zeros(self) -> Each:
        """What to start totals from."""
        return tuple(self.one.zeros() for _ in range(self.members))

    def read(self, totals: Each) -> Totals:
        """Totals as they are reported, `[M, ...]` on the host."""
        return self.fetch(totals)

    def refresh(self, state: Each) -> Each:
        """New pools of initial states."""
        return tuple(map(self.one.refreshed, state, self.env_params))

    def policy_snapshot(self, state: Each) -> Each:
        """What policies need later, agent and statistics; `fetch` it to keep it."""
        return tuple(map(self.one.policy_snapshot, state))

    @property
    def policy_snapshot_shapes(self) -> Any:
        """Shapes and types of a fetched policy snapshot, `[M, ...]`."""
        return self._alike.widened(self.one.policy_snapshot_shapes, self.members)

    def adopt(self, state: Each, learned: Any) -> Each:
        """`state` with an agent and statistics `[M, ...]` from the host, under its own hyper-parameters."""
        return tuple(self.one.adopt(of_member, self._alike.part(learned, i)) for i, of_member in enumerate(state))

    def timing(self) -> dict[str, float]:
        """Seconds by role since the last call: one program has no roles to time."""
        return {}

    def evaluate(self, learned: Each) -> Each:
        """The greedy policies' episodes."""
        self.one.evaluation.compiled()
        return self._each(self.one.evaluated, learned, self.env_params)

    def place(self, tree: Any) -> Each:
        """Puts what every member has, `[M, ...]` on the host, on the device."""
        return tuple(self.one.place(self._alike.part(tree, i)) for i in range(self.members))

    def fetch(self, trees: Each) -> Any:
        """Waits for a result and returns it on the host, `[M, ...]`."""
        return self._alike.join([self.one.fetch(tree) for tree in trees])

    def training_state(self, state: Each, totals: Each) -> Any:
        """The full training state, for resuming, on the host: `[M, shards, ...]`."""
        states = [self.one.training_state(*of_member) for of_member in zip(state, totals, strict=True)]
        return self._state.join(states)

    def place_training_state(self, saved: Any) -> tuple[Each, Each]:
        """States and totals from what `training_state` returned."""
        placed = [self.one.place_training_state(self._state.part(saved, i)) for i in range(self.members)]
        return tuple(state for state, _ in placed), tuple(totals for _, totals in placed)

    @property
    def training_state_shapes(self) -> Any:
        """Shapes and types of what `training_state` returns."""
        return self._state.widened(self.one.training_state_shapes, self.members)

    @property
    def _state(self) -> Layout:
        return Layout({"state": self.one.schedule.members, "totals": 0}, None)

    @property
    def _alike(self) -> Layout:
        return Layout(0, None)

    def _each(self, function: Callable[..., Any], *arguments: Each) -> Each:
        """`function` of every member's arguments, on the threads; waits for all."""

        def guarded(*inputs: Any) -> Any:
            with jax.transfer_guard("disallow"):  # a thread does not inherit it
                return jax.block_until_ready(function(*inputs))

        return tuple(self._threads.map(guarded, *arguments))
