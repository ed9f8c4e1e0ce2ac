"""The pipeline's iteration against its roles: `python benchmarks/pipeline.py --agent pql --env brax:ant --split 1,1,1`.

Times every role alone on its devices (collect, value, policy), then the pipelined iteration, in turns, and prints
medians with ranges and two ratios: iteration / max(role), whose bound is 1 where the devices are really separate, and
iteration / sum(roles), which is what running the roles one after the other would take. On forced host devices of one
CPU the roles share the cores: only the second ratio means something there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any, cast

import jax

from rlx import config, parallel
from rlx.build import make_driver, setup
from rlx.runs import origin
from rlx.train import autosplit
from rlx.train.pipelined import Pipelined


def time_iterations(driver: Pipelined, state: Any, iterations: int) -> tuple[Any, float]:
    """Seconds an iteration takes in a run of `iterations`, dispatched as in training."""
    begun = time.perf_counter()
    state, _ = driver.advance(state, driver.zeros(), iterations)
    jax.block_until_ready(state)
    return state, (time.perf_counter() - begun) / iterations


def measure(driver: Pipelined, repeats: int, iterations: int) -> dict[str, Any]:
    """Medians and ranges, in seconds, of interleaved repeats; compilation and warm-up come before."""
    state, _ = driver.advance(driver.init(), driver.zeros(), driver.task.plan.warmup_iterations + 2)
    jax.block_until_ready(state)
    seconds: dict[str, list[float]] = {"collect": [], "value": [], "policy": [], "iteration": []}
    for _ in range(repeats):
        for name, value in autosplit.time_roles(driver, iterations)._asdict().items():
            seconds[name].append(value)
        state, iteration = time_iterations(driver, state, iterations)
        seconds["iteration"].append(iteration)
    table = {name: [statistics.median(s), min(s), max(s)] for name, s in seconds.items()}
    alone = [table[name][0] for name in ("collect", "value", "policy")]
    iteration = table["iteration"][0]
    return {
        "seconds": table,
        "iteration / max(role)": iteration / max(alone),
        "iteration / sum(roles)": iteration / sum(alone),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", default="pql")
    parser.add_argument("--env", default="brax:ant")
    parser.add_argument("--split", default="1,1,1", help="devices that collect, learn values and learn policies")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=10, help="iterations in a repeat")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings as of `rlx train`")
    args = parser.parse_args()
    settings = dict(text.split("=", 1) for text in args.set)
    resolved = config.resolve(args.agent, args.env, driver="pipelined", split=args.split, **settings)
    driver = cast(Pipelined, make_driver(setup(resolved)))
    result = measure(driver, args.repeats, args.iterations)
    print(f"{args.agent} on {args.env}, split {args.split}, {parallel.describe()['kind']}")
    for name, (median, low, high) in result["seconds"].items():
        print(f"  {name:8} {median * 1e3:9.2f} ms   [{low * 1e3:.2f}, {high * 1e3:.2f}]")
    for name in ("iteration / max(role)", "iteration / sum(roles)"):
        print(f"  {name:18} {result[name]:.2f}")
    print(json.dumps(result | {"settings": config.to_json(resolved)} | origin.describe()))


if __name__ == "__main__":
    main()
