"""How long each role of a pipeline works, measured from outside: threads that wait for results, not the dispatcher."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax

RECENT = 256  # iterations that are remembered one by one


class Iteration(NamedTuple):
    """One iteration as it was measured, in seconds of `time.perf_counter`."""

    begun: float
    ends: tuple[float, ...]  # of each role


class RoleTimer:
    """Seconds that each role was busy.

    A role's iteration begins when the iteration before has ended everywhere (it needs what all roles published) or
    when it is dispatched, whichever is later, and ends when its own result is ready. `recent` holds the last
    iterations that were read.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._threads = ThreadPoolExecutor(len(names))
        self._iterations: list[tuple[float, list[Future[float]]]] = []
        self._previous_end = 0.0
        self.recent: deque[Iteration] = deque(maxlen=RECENT)

    def start(self, *results: Any) -> None:
        """An iteration was dispatched; `results` [names] are arrays that are ready when each role has done its part."""
        now = time.perf_counter()
        self._iterations.append((now, [self._threads.submit(_when_done, result) for result in results]))

    def read(self) -> dict[str, float]:
        """Mean seconds an iteration by role, and of the iteration, since the last reading; waits for the
        iterations in flight."""
        if not self._iterations:
            return {}
        busy, iteration_s = [0.0] * len(self._names), 0.0
        for dispatched, futures in self._iterations:
            ends = [future.result() for future in futures]
            begun = max(dispatched, self._previous_end)
            busy = [total + end - begun for total, end in zip(busy, ends, strict=True)]
            iteration_s += max(ends) - begun
            self.recent.append(Iteration(begun, tuple(ends)))
            self._previous_end = max(ends)
        count = len(self._iterations)
        self._iterations.clear()
        means = {f"busy_{name}_s": total / count for name, total in zip(self._names, busy, strict=True)}
        return means | {"iteration_s": iteration_s / count}


def _when_done(result: Any) -> float:
    jax.block_until_ready(result)
    return time.perf_counter()
