"""The pipeline's tick against its roles: `python benchmarks/pipeline.py --agent pql --env brax:ant --split 1,1,1`.

Times every role alone on its devices (collect, value, policy), then the pipelined tick, in turns, and prints medians
with ranges and two ratios: tick / max(role), whose bound is 1 where the devices are really separate, and
tick / sum(roles), which is what running the roles one after the other would take. On forced host devices of one CPU the
roles share the cores: only the second ratio means something there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any, cast

import jax

from rlx import config, parallel
from rlx.experiment import make_driver
from rlx.runs.runner import origin
from rlx.train import autosplit
from rlx.train.pipelined import Pipelined


def time_ticks(driver: Pipelined, state: Any, ticks: int) -> tuple[Any, float]:
    """Seconds a tick takes in a run of `ticks`, dispatched as in training."""
    begun = time.perf_counter()
    state, _ = driver.advance(state, driver.zeros(), ticks)
    jax.block_until_ready(state)
    return state, (time.perf_counter() - begun) / ticks


def measure(driver: Pipelined, repeats: int, ticks: int) -> dict[str, Any]:
    """Medians and ranges, in seconds, of interleaved repeats; compilation and warm-up come before."""
    state, _ = driver.advance(driver.init(), driver.zeros(), driver.task.plan.warmup_ticks + 2)
    jax.block_until_ready(state)
    seconds: dict[str, list[float]] = {"collect": [], "value": [], "policy": [], "tick": []}
    for _ in range(repeats):
        for name, value in autosplit.time_roles(driver, ticks)._asdict().items():
            seconds[name].append(value)
        state, tick = time_ticks(driver, state, ticks)
        seconds["tick"].append(tick)
    table = {name: [statistics.median(s), min(s), max(s)] for name, s in seconds.items()}
    alone = [table[name][0] for name in ("collect", "value", "policy")]
    tick = table["tick"][0]
    return {"seconds": table, "tick / max(role)": tick / max(alone), "tick / sum(roles)": tick / sum(alone)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", default="pql")
    parser.add_argument("--env", default="brax:ant")
    parser.add_argument("--split", default="1,1,1", help="devices that collect, learn values and learn policies")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ticks", type=int, default=10, help="ticks in a repeat")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings as of `rlx train`")
    given = parser.parse_args()
    settings = dict(text.split("=", 1) for text in given.set)
    resolved = config.resolve(given.agent, given.env, driver="pipelined", split=given.split, **settings)
    driver = cast(Pipelined, make_driver(resolved))
    result = measure(driver, given.repeats, given.ticks)
    print(f"{given.agent} on {given.env}, split {given.split}, {parallel.describe()['kind']}")
    for name, (median, low, high) in result["seconds"].items():
        print(f"  {name:8} {median * 1e3:9.2f} ms   [{low * 1e3:.2f}, {high * 1e3:.2f}]")
    for name in ("tick / max(role)", "tick / sum(roles)"):
        print(f"  {name:18} {result[name]:.2f}")
    print(json.dumps(result | {"settings": config.to_json(resolved)} | origin()))


if __name__ == "__main__":
    main()
