"""What each role of a pipeline took: measured from outside, one iteration after the other."""

from __future__ import annotations

import time

import pytest

from rlx.train.profiler import RECENT, RoleTimer


class Result:
    """An array that is there after some seconds."""

    def __init__(self, seconds: float) -> None:
        self.due = time.perf_counter() + seconds

    def block_until_ready(self) -> Result:
        time.sleep(max(0.0, self.due - time.perf_counter()))
        return self


def test_times_of_roles() -> None:
    """Both iterations are dispatched at once, but the second begins where the first has ended everywhere."""
    timer = RoleTimer(("quick", "slow"))
    assert timer.read() == {} and not timer.recent
    timer.start(Result(0.0), Result(0.1))
    timer.start(Result(0.1), Result(0.2))
    means = timer.read()
    first, second = timer.recent
    assert second.begun == max(first.ends) == first.ends[1]
    spent = [iteration.ends[1] - iteration.begun for iteration in (first, second)]
    assert means["busy_slow_s"] == means["iteration_s"] == pytest.approx(sum(spent) / 2)
    assert sum(spent) >= 0.2 - 1e-3 and timer.read() == {}


def test_the_last_iterations_are_remembered() -> None:
    timer = RoleTimer(("only",))
    for _ in range(RECENT + 1):
        timer.start(Result(0.0))
    timer.read()
    assert len(timer.recent) == RECENT
