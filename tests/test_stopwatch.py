"""What each role of a pipeline took: measured from outside, one iteration after the other."""

from __future__ import annotations

import time

import pytest

from rlx.train.profiler import RECENT, Stopwatch


class Result:
    """An array that is there after some seconds."""

    def __init__(self, seconds: float) -> None:
        self.due = time.perf_counter() + seconds

    def block_until_ready(self) -> Result:
        time.sleep(max(0.0, self.due - time.perf_counter()))
        return self


def test_times_of_roles() -> None:
    """Both iterations are dispatched at once, but the second begins where the first has ended everywhere."""
    watch = Stopwatch(("quick", "slow"))
    assert watch.read() == {} and not watch.recent
    watch.start(Result(0.0), Result(0.1))
    watch.start(Result(0.1), Result(0.2))
    means = watch.read()
    first, second = watch.recent
    assert second.begun == max(first.ends) == first.ends[1]
    spent = [iteration.ends[1] - iteration.begun for iteration in (first, second)]
    assert means["busy_slow_s"] == means["iteration_s"] == pytest.approx(sum(spent) / 2)
    assert sum(spent) >= 0.2 - 1e-3 and watch.read() == {}


def test_the_last_iterations_are_remembered() -> None:
    watch = Stopwatch(("only",))
    for _ in range(RECENT + 1):
        watch.start(Result(0.0))
    watch.read()
    assert len(watch.recent) == RECENT
