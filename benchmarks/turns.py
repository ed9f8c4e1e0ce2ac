"""Several workers that take turns, so that whatever slows the machine for a while slows all sides alike."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

OVER_S = 600.0  # a side that is silent for so long has failed


class Side(NamedTuple):
    """What one side runs."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = {}


class Spread(NamedTuple):
    """A median and its range."""

    median: float
    low: float
    high: float


class Failed(Exception):
    """A side ended, or was silent; the text says what it said last."""


class OutOfTime(Exception):
    """The time for all of it was over first."""


class Worker:
    """A started side; killed where it is silent until `deadline`, on the clock of `time.monotonic`."""

    def __init__(self, side: Side, deadline: float = math.inf) -> None:
        self.side, self._deadline = side, deadline
        self._said = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            side.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={**os.environ, **side.environment},
        )
        self.about = self._answer()

    def run(self, units: int) -> dict[str, float]:
        """Has it do `units`; returns what it answers."""
        assert self._process.stdin is not None
        try:
            print(units, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise Failed(self._last_words()) from None
        return self._answer()

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=20)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        alarm = threading.Timer(patience(self._deadline), self._process.kill)
        alarm.start()
        line = self._process.stdout.readline()
        alarm.cancel()
        if not line:
            raise Failed(self._last_words())
        found: dict[str, Any] = json.loads(line)
        return found

    def _last_words(self) -> str:
        self._process.wait(timeout=20)
        self._said.seek(0)
        said = self._said.read().strip().splitlines()
        return f"{self.side.name}: exit code {self._process.returncode}: {said[-1] if said else 'it said nothing'}"


def patience(deadline: float) -> float:
    """Seconds that a silent side is given."""
    return max(0.0, min(OVER_S, deadline - time.monotonic()))


def take_turns(
    sides: Sequence[Side],
    seconds: float,
    repeats: int,
    cores: Sequence[int] = (),
    clock: str = "cpu_s",
    abreast: int = 1,
    deadline: float = math.inf,
) -> dict[str, dict[str, Any]]:
    """Rates of all sides in units a second, and ratios of each to the first, of neighbours in time.

    All sides compile first, so many `abreast`, then every round gives each about `seconds`. `clock` is `cpu_s`, of the
    side's own threads, or `wall_s`. A side that fails has, in place of rates, what it said; if that is the first one,
    nobody has ratios. Raises OutOfTime where all of it is not done before `deadline`.
    """
    everywhere = os.sched_getaffinity(0)
    workers: dict[str, Worker] = {}
    failed: dict[str, str] = {}
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    counts: dict[str, int] = {}

    def each(act: Callable[[str], Any], abreast: int = 1) -> None:
        def tried(name: str) -> None:
            try:
                act(name)
            except Failed as error:
                if time.monotonic() >= deadline:
                    raise OutOfTime from None
                failed[name] = str(error)

        if time.monotonic() >= deadline:
            raise OutOfTime
        with ThreadPoolExecutor(abreast) as pool:
            list(pool.map(tried, [side.name for side in sides if side.name not in failed]))

    def start(name: str) -> None:
        workers[name] = Worker(next(side for side in sides if side.name == name), deadline)
        workers[name].run(1)

    def count(name: str) -> None:
        counts[name] = max(1, round(seconds * _rate(workers[name].run(2), clock)))

    def turn(name: str) -> None:
        rates[name].append(_turn(workers[name], counts[name], clock))

    try:
        os.sched_setaffinity(0, set(cores) or everywhere)  # what is started inherits it
        each(start, abreast)
        each(count)
        for _ in range(repeats):
            each(turn)
    finally:
        os.sched_setaffinity(0, everywhere)
        for worker in workers.values():
            worker.close()
    first = sides[0].name
    found: dict[str, dict[str, Any]] = {}
    for name, own in rates.items():
        if name in failed:
            found[name] = {"failed": failed[name]}
            continue
        about = {key: value for key, value in workers[name].about.items() if key != "ready" and value is not None}
        found[name] = {"rate": spread(own), **about}
        if first not in failed:
            found[name]["ratio"] = spread([a / b for a, b in zip(own, rates[first], strict=True)])
    return found


def _turn(worker: Worker, units: int, clock: str) -> float:
    """A rate, after a run that does not count: what a process had in caches is gone after the others' turns."""
    worker.run(-(-units // 4))
    return _rate(worker.run(units), clock)


def spread(values: Sequence[float]) -> Spread:
    """Median and range."""
    return Spread(statistics.median(values), min(values), max(values))


def _rate(answer: Mapping[str, float], clock: str) -> float:
    return answer["units"] / max(answer[clock], 1e-9)
