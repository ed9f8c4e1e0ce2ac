"""The host's side of training: dispatches whole stretches of ticks, and reports at the points where somebody looks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import jax

from rlx.evaluate import Evaluation
from rlx.train.program import Program
from rlx.train.roles import Task, Totals


class Driver(Protocol):
    """What `train` needs of a driver; every result leads with the devices and stays on them until fetched."""

    @property
    def task(self) -> Task: ...

    @property
    def programs(self) -> Sequence[Program]: ...  # in the order to compile them; the last evaluates

    @property
    def shapes(self) -> Any: ...  # of the state

    @property
    def members(self) -> int: ...  # training runs in all, M

    def init(self) -> Any: ...

    def advance(self, state: Any, ticks: int) -> tuple[Any, Totals]: ...

    def refresh(self, state: Any) -> Any: ...

    def learned(self, state: Any) -> Any: ...

    def adopt(self, state: Any, learned: Any) -> Any: ...

    def evaluate(self, learned: Any) -> Evaluation: ...

    def timing(self) -> dict[str, float]: ...

    def place(self, tree: Any) -> Any: ...

    def fetch(self, tree: Any) -> Any: ...


class Report(NamedTuple):
    """Where a run stands. Step counts are per seed; arrays are per member, `[M]`."""

    env_step: int
    critic_step: int
    actor_step: int
    metrics: dict[str, Any]  # means since the last report, [M] each; seconds of roles, histograms of lags
    evaluation: Evaluation | None  # [M, N], on the host
    state: Any  # the driver's; valid until the next report is asked for
    train_s: float  # seconds spent training since the last report, compilation and evaluation apart


def stops(driver: Driver) -> Iterator[tuple[int, bool]]:
    """The ticks to stop at, and whether to evaluate there: first update, log points, evaluations, the end."""
    plan = driver.task.plan
    evaluations = {*range(plan.eval_ticks, plan.ticks, plan.eval_ticks), plan.ticks}
    points = {min(plan.warmup_ticks + 1, plan.ticks), *range(plan.log_ticks, plan.ticks, plan.log_ticks), *evaluations}
    for point in sorted(points):
        yield point, point in evaluations


def train(driver: Driver, learned: Any = None) -> Iterator[Report]:
    """Trains from the first tick to the last, yielding a report at every stop; from `learned` [M, ...] if given.

    Programs compile on threads beside each other, the evaluation while training has begun. Nothing but explicit
    transfers crosses between host and device.
    """
    plan, config = driver.task.plan, driver.task.config
    *training, judge = driver.programs
    with ThreadPoolExecutor(2) as pool:
        for program in training:
            program.start(pool)
        state = driver.init()
        if learned is not None:
            state = driver.adopt(state, learned)
        for program in training:
            program.compiled()
        tick = 0
        for stop, evaluates in stops(driver):
            begun = time.perf_counter()
            with jax.transfer_guard("disallow"):
                state, totals = driver.advance(state, stop - tick)
                metrics = means(driver.fetch(totals)) | driver.timing()
            train_s = time.perf_counter() - begun
            judge.start(pool)
            tick = stop
            evaluation = driver.fetch(driver.evaluate(driver.learned(state))) if evaluates else None
            updates = max(0, tick - plan.warmup_ticks) * config.rollout_length
            critic_step, actor_step = updates * plan.critic_updates, updates * plan.actor_updates
            yield Report(tick * plan.tick_env_steps, critic_step, actor_step, metrics, evaluation, state, train_s)
            if tick % plan.log_ticks == 0:
                state = driver.refresh(state)


def means(totals: Totals) -> dict[str, Any]:
    """The reported sums as means per member; what did not happen since the last report is left out."""
    learned, (count, returns, lengths) = totals.learned, totals.episodes
    metrics = {name: value / learned for name, value in totals.metrics.items()} if learned.all() else {}
    if count.all():
        metrics |= {"episode_return": returns / count, "episode_length": lengths / count}
    lags = {f"lag_{name}": histogram[0] for name, histogram in totals.lags.items()}  # all members alike
    return metrics | {"episodes": count} | lags
