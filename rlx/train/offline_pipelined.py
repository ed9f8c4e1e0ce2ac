"""Offline on two groups of devices: one learns the critic, one the actor, each from its own copy of the data set.

The iteration is that of `rlx.train.offline.lagged_iteration`: both halves learn at once, each against the other as
it was before the iteration; at the edge the critic's new value and the actor's new policy travel from device to device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.struct import PyTreeNode

from rlx import parallel
from rlx.evaluate import Evaluation
from rlx.replay import Replay
from rlx.train import nonfinite, offline, steps
from rlx.train.compile import Program
from rlx.train.offline import Given
from rlx.train.profiler import Stopwatch
from rlx.train.state_layout import Layout
from rlx.train.steps import Task, Totals
from rlx.types import State

Reports = tuple[Any, Any]  # of the critic's learners and of the actor's


class Half(PyTreeNode):
    """One half, with what the other published last."""

    own: Any  # critic or actor
    other: Any  # policy or value
    gamma: jax.Array  # []
    given: Given


class Halves(NamedTuple):
    """One training run."""

    value: Half
    policy: Half


MEMBERS = Half(0, 0, 0, Given(0, 0, None))  # type: ignore[arg-type]


class OfflinePipelined:
    """The programs of such a run on `groups` (critics, actors), for members with the given seeds and hypers `[M]`.

    Every leaf of a half's state leads with the devices of its group and the members, `[D, M, ...]`.
    """

    def __init__(
        self, task: Task, groups: Sequence[Sequence[jax.Device]], seeds: np.ndarray, hypers: Any, data: Replay
    ) -> None:
        self.task, self.groups, self.members = task, list(groups), len(seeds)
        self.stopwatch = Stopwatch(("value", "policy"))
        self.data = [parallel.replicate(data, group) for group in groups]
        first = [[parallel.replicate(x, group) for x in (np.asarray(seeds, np.uint32), hypers)] for group in groups]
        starts = [self._over(partial(_start, task, i), i, ((0, 0, None), MEMBERS)) for i in range(2)]
        self.starts = [Program(f"start {i}", starts[i], *first[i], self.data[i], seldom=True) for i in range(2)]
        self.first = first
        self.shapes = Halves(*(start.shapes for start in self.starts))
        self.learn_value, of_critic = self._role(0, _value_iteration)
        self.learn_policy, of_actor = self._role(1, _policy_iteration)
        self.no_reports = (of_critic, of_actor)
        publish = self._over(partial(_publish, task), 1, ((0, 0), 0))
        self.publish = Program("publish", publish, self.shapes.policy.own, self.shapes.policy.other)
        judge = parallel.pmap(parallel.along(partial(steps.evaluate_policy, task), self.members), self.groups[1])
        self.evaluation = Program("evaluate", judge, _like(self._learned_shapes(), len(parallel.local(self.groups[1]))))
        self.programs = (self.learn_value, self.learn_policy, *self.starts, self.publish, self.evaluation)

    def init(self) -> Halves:
        """The state before the first iteration."""
        return Halves(*(start(*self.first[i], self.data[i]) for i, start in enumerate(self.starts)))

    def zeros(self) -> Reports:
        """What to start reports from."""
        return self.no_reports

    def advance(self, state: Halves, reports: Reports, iterations: int) -> tuple[Halves, Reports]:
        """Makes `iterations` iterations; `state` is donated. Returns when the last are dispatched, not when they are
        done."""
        flying = deque[Any]()
        critics, actors = self.groups
        for _ in range(iterations):
            value_half, value, of_critic = self.learn_value(state.value, self.data[0], reports[0])
            policy_half, of_actor = self.learn_policy(state.policy, self.data[1], reports[1])
            reports = (of_critic, of_actor)
            self.stopwatch.start(*reports)
            value = parallel.broadcast(value, actors)
            policy = parallel.broadcast(self.publish(policy_half.own, value), critics)
            state = Halves(value_half.replace(other=policy), policy_half.replace(other=value))
            flying.append(reports)
            if len(flying) >= self.task.config.depth:
                jax.block_until_ready(flying.popleft())
        return state, reports

    def read(self, reports: Reports) -> Totals:
        """The reports as one, `[M, ...]` on the host; waits for the iterations in flight."""
        return offline.join(*parallel.fetch(reports))

    def refresh(self, state: Halves) -> Halves:
        """No environment is stepped."""
        return state

    def policy_snapshot(self, state: Halves) -> Any:
        """What a policy needs later, agent and statistics, on the actors' devices; `fetch` it to keep it."""
        agent = State(critic=parallel.broadcast(state.value.own, self.groups[1]), actor=state.policy.own)
        return {"agent": agent, "statistics": state.policy.given.statistics}

    def adopt(self, state: Halves, learned: Any) -> Halves:
        """`state` with an agent `[M, ...]` from the host, under its own hyper-parameters."""
        own = State(critic=parallel.fetch(state.value.own), actor=parallel.fetch(state.policy.own))
        agent = steps.keep_hypers(learned["agent"], own)
        value = jax.vmap(self.task.agent.critic_params)(agent.critic)
        policy = jax.device_get(jax.vmap(self.task.agent.policy_params)(agent.actor, value))
        critic, policy = parallel.replicate((agent.critic, policy), self.groups[0])
        actor, value = parallel.replicate((agent.actor, jax.device_get(value)), self.groups[1])
        return Halves(state.value.replace(own=critic, other=policy), state.policy.replace(own=actor, other=value))

    def evaluate(self, learned: Any) -> Evaluation:
        """The greedy policy's episodes, `[D, M, N]`."""
        return self.evaluation(learned)

    def timing(self) -> dict[str, float]:
        """Mean seconds that an iteration and each half in it took since the last call; waits for the iterations in
        flight."""
        return self.stopwatch.read()

    def place(self, tree: Any) -> Any:
        """Puts what every member has, `[M, ...]` on the host, on the actors' devices, which evaluate."""
        return parallel.replicate(tree, self.groups[1])

    def fetch(self, tree: Any) -> Any:
        """Waits for a result and returns it on the host, `[M, ...]`."""
        return parallel.fetch(tree)

    def training_state(self, state: Halves, reports: Reports) -> Any:
        """Everything that the run's future hangs on, on the host, whatever the devices: `[M, ...]`."""
        return {"state": Halves(*(parallel.fetch(half) for half in state)), "totals": parallel.fetch(reports)}

    def place_training_state(self, whole: Any) -> tuple[Halves, Reports]:
        """State and reports from what `whole` returned, here or on other devices."""

        def placed(pair: Any) -> list[Any]:
            return [parallel.replicate(x, group) for x, group in zip(pair, self.groups, strict=True)]

        of_critic, of_actor = placed(whole["totals"])
        return Halves(*placed(whole["state"])), (of_critic, of_actor)

    @property
    def training_state_shapes(self) -> Any:
        """Shapes and types of what `whole` returns."""
        layout = Layout(0, None)
        return {"state": layout.gathered(self.shapes), "totals": layout.gathered(self.no_reports)}

    @property
    def policy_snapshot_shapes(self) -> Any:
        """Shapes and types of a fetched `learned`, `[M, ...]`."""
        return Layout(0, None).gathered(self._learned_shapes())

    def _learned_shapes(self) -> Any:
        agent = State(critic=self.shapes.value.own, actor=self.shapes.policy.own)
        return {"agent": agent, "statistics": self.shapes.policy.given.statistics}

    def _over(self, function: Callable[..., Any], group: int, member_axes: Any, donate: tuple[int, ...] = ()) -> Any:
        """`function` over all members and the shards of a device of the group, which all have the same state."""
        shards = self.task.plan.shards // len(self.groups[group])
        alike = tuple(None for _ in member_axes[0])
        mapped = parallel.over(function, (alike, None), member_axes, shards, self.members, self.task.axes)
        return parallel.pmap(mapped, self.groups[group], donate=donate)

    def _role(self, i: int, iteration: Callable[..., Any]) -> tuple[Program, Any]:
        """The program of one half's iteration; what it reports is added up on its devices."""
        results = (MEMBERS, 0, 0) if i == 0 else (MEMBERS, 0)
        once = self._over(partial(iteration, self.task), i, ((MEMBERS, None), results))
        zeros = parallel.place(
            nonfinite.zeros_like(jax.eval_shape(once, self.shapes[i], self.data[i])[-1]), self.groups[i]
        )

        def step(state: Half, data: Replay, reports: Any) -> Any:
            *rest, report = iteration(self.task, state, data)
            return *rest, nonfinite.add(reports, report)

        program = self._over(step, i, ((MEMBERS, None, 0), results), donate=(0,))
        return Program(iteration.__name__, program, self.shapes[i], self.data[i], zeros), zeros


def _start(task: Task, half: int, seed: jax.Array, hypers: Any, data: Replay) -> Half:
    fresh = offline.init(task, seed, hypers, data)
    value = task.agent.critic_params(fresh.agent.critic)
    policy = task.agent.policy_params(fresh.agent.actor, value)
    own, other = ((fresh.agent.critic, policy), (fresh.agent.actor, value))[half]
    gamma = jnp.copy(fresh.agent.critic.hypers.gamma)  # the learners' minibatches fold windows with it
    return jax.tree.map(jnp.copy, Half(own, other, gamma, Given(fresh.statistics, seed, fresh.iteration)))


def _value_iteration(task: Task, state: Half, data: Replay) -> tuple[Half, Any, Totals]:
    critic, value, report = offline.learn_value(task, data, state.own, state.other, state.given)
    return _next(state, critic), value, report


def _policy_iteration(task: Task, state: Half, data: Replay) -> tuple[Half, Totals]:
    actor, report = offline.learn_policy(task, data, state.own, state.other, state.gamma, state.given)
    return _next(state, actor), report


def _next(state: Half, own: Any) -> Half:
    return state.replace(own=own, given=state.given._replace(iteration=state.given.iteration + 1))


def _publish(task: Task, actor: Any, value: Any) -> Any:
    return task.agent.policy_params(actor, value)


def _like(shapes: Any, devices: int) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((devices, *x.shape[1:]), x.dtype), shapes)
