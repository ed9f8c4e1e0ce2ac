"""Training in this process: the reports of all parts of a run, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rlx.build import Setup, make_driver
from rlx.train import loop as host
from rlx.train.loop import Driver, Resumed
from rlx.train.report import Report


class Moment(NamedTuple):
    """One report of a run."""

    driver: Driver
    report: Report
    offline: bool


def run(
    run_setup: Setup,
    driver: Driver,
    learned: Any = None,
    resumed: Resumed | None = None,
    asked_to_end: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda phase: None,
    stretch_s: float = host.STRETCH_S,
) -> Iterator[Moment]:
    """Trains from the part of `driver` to the last, from the snapshot `learned` or the state `resumed`, if any.

    `tell` is called with each phase that begins, and `stretch_s` is as in `rlx.train.loop.train`.
    """
    offline = driver.task.plan.offline
    for report in host.train(driver, learned, resumed, asked_to_end, tell, stretch_s):
        yield Moment(driver, report, offline)
    if offline and not run_setup.config.train.offline_only and not report.ended:
        learned = driver.fetch(driver.policy_snapshot(report.state))
        yield from run(run_setup, make_driver(run_setup), learned, None, asked_to_end, tell, stretch_s)
