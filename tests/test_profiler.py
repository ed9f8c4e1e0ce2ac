"""What each role of a pipeline took: measured from outside, one iteration after the other."""

import threading
import time

import pytest

from rlx.train.profiler import RECENT, RoleTimer


class Result:
    """An array that is ready once its event is set."""

    def __init__(self) -> None:
        self.ready = threading.Event()

    def block_until_ready(self) -> "Result":
        self.ready.wait(60)
        return self


def test_times_of_roles() -> None:
    """Both iterations are dispatched at once, but the second begins where the first has ended everywhere."""
    timer = RoleTimer(("quick", "slow"))
    assert timer.read() == {} and not timer.recent
    results = [Result() for _ in range(4)]
    timer.start(*results[:2])
    timer.start(*results[2:])
    for result in results:
        time.sleep(0.05)
        result.ready.set()
    means = timer.read()
    first, second = timer.recent
    assert second.begun == max(first.ends) == first.ends[1]
    spent = [iteration.ends[1] - iteration.begun for iteration in (first, second)]
    assert means["busy_slow_s"] == means["iteration_s"] == pytest.approx(sum(spent) / 2)
    assert sum(spent) >= 0.2 - 1e-3 and timer.read() == {}


def test_the_last_iterations_are_remembered() -> None:
    timer = RoleTimer(("only",))
    for _ in range(RECENT + 1):
        timer.start(0.0)
    timer.read()
    assert len(timer.recent) == RECENT
