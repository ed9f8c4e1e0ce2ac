"""`--split auto`: times the three roles, each alone on one device, and shares the devices out accordingly."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import jax

from rlx.errors import RlxError
from rlx.train.pipelined import Pipelined

ITERATIONS = 5  # timed; the first ones after the warm-up


class RoleTimes(NamedTuple):
    """Seconds an iteration takes each role, alone."""

    collect: float
    value: float
    policy: float


def time_roles(driver: Pipelined, iterations: int = ITERATIONS) -> RoleTimes:
    """Medians over `iterations` iterations past the warm-up, each role alone on the devices that it has in `driver`."""
    state, _ = driver.advance(driver.init(), driver.zeros(), driver.task.plan.warmup_iterations + 1)
    jax.block_until_ready(state)
    medians = []
    for program, role, totals in zip(driver.iterations, state, driver.no_totals, strict=True):
        seconds = []
        for _ in range(iterations):
            begun = time.perf_counter()
            role, *_ = jax.block_until_ready(program(role, None, totals))
            seconds.append(time.perf_counter() - begun)
        medians.append(sorted(seconds)[iterations // 2])
    return RoleTimes(*medians)


def choose(times: RoleTimes, devices: int, fits: Callable[[tuple[int, int, int]], bool]) -> tuple[int, int, int]:
    """The split of `devices` whose slowest role is quickest, if each role's work divides evenly over its devices.

    Only splits that `fits` accepts (environments and minibatches must divide) are considered; of equal ones the first,
    with fewer collectors. Raises RlxError if none fits.
    """
    best: tuple[float, tuple[int, int, int]] | None = None
    for collectors in range(1, devices - 1):
        for values in range(1, devices - collectors):
            split = (collectors, values, devices - collectors - values)
            slowest = max(seconds / count for seconds, count in zip(times, split, strict=True))
            if (best is None or slowest < best[0]) and fits(split):
                best = slowest, split
    if best is None:
        raise RlxError(f"--split auto: no split of {devices} devices divides --num-envs and --batch-size; change them")
    return best[1]
