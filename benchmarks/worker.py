"""One side of a comparison, as a process of its own that works when it is its turn. Standard library only, so that it
runs in every peer's environment.

A worker builds and compiles, says `{"ready": ...}`, then answers every line that it reads, a number of units, with the
seconds that they took. `benchmarks/turns.py` is the other end.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

_answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what libraries print is not an answer


def say(**content: Any) -> None:
    """One answer."""
    print(json.dumps(content), file=_answers, flush=True)


def wanted() -> int | None:
    """How many units are asked for; None when it is over. Waits."""
    line = sys.stdin.readline()
    return int(line) if line.strip() else None


class Stopwatch:
    """Seconds on the clock, and of this process's own threads: the latter count nobody else's work on the core."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def seconds(self) -> dict[str, float]:
        """Since it was made."""
        return {"wall_s": time.perf_counter() - self._wall, "cpu_s": time.process_time() - self._cpu}


def again(
    function: Callable[..., Any], wait: Callable[[Any], Any], state: Any, *rest: Any
) -> tuple[Callable[[int], None], float]:
    """What runs `state = function(state, *rest)` over and over, and the seconds that the first call, compiling, took.

    `wait(state)` returns the state when it is there.
    """
    watch = Stopwatch()
    held = [wait(function(state, *rest))]
    compile_s = watch.seconds()["wall_s"]

    def run(units: int) -> None:
        state = held.pop()
        for _ in range(units):
            state = function(state, *rest)
        held.append(wait(state))

    return run, round(compile_s, 2)


def scanned(step: Callable[..., Any]) -> Callable[..., Any]:
    """`state = step(state, *row)` for every row of what follows the state, in one program, as in training loops."""
    import jax

    def steps(state: Any, *rows: Any) -> Any:
        return jax.lax.scan(lambda state, row: (step(state, *row), None), state, rows)[0]

    return steps


def serve(run: Callable[[int], None], compile_s: float | None = None, block: int = 1, **about: Any) -> None:
    """`run(blocks)` must return when they are done, not when they are dispatched. `block` units are done at once, so
    the units asked for are rounded to whole blocks, at least one."""
    say(ready=True, compile_s=compile_s, **about)
    while (units := wanted()) is not None:
        blocks, watch = max(1, round(units / block)), Stopwatch()
        run(blocks)
        say(units=blocks * block, **watch.seconds())
