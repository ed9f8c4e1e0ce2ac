"""Runs comparisons and writes tables: `python benchmarks/run.py own`, `peers` or `gpu`; see benchmarks/README.md.

Every comparison is kept as soon as it is done, in `.cache/bench`, and is not made again unless `--again` asks for it,
so that a run which was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import gpu, learn, tables  # noqa: E402
from benchmarks.comparisons import KEPT, Comparison, own_comparisons, peer_comparisons  # noqa: E402
from benchmarks.turns import OutOfTime, Side, patience, spread, take_turns  # noqa: E402

GROUPS = {"own": own_comparisons, "peers": peer_comparisons, "gpu": gpu.comparisons}


def finished(
    command: Sequence[str], environment: Mapping[str, str], deadline: float = math.inf
) -> subprocess.CompletedProcess[str]:
    """A process that has ended by itself. Raises OutOfTime for one that has not."""
    try:
        return subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=patience(deadline)
        )
    except subprocess.TimeoutExpired:
        raise OutOfTime from None


def time_starts(sides: Sequence[Side], repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds from starting a process to its first completed epoch, with an empty compilation cache and again."""
    seconds: dict[str, dict[str, list[float]]] = {side.name: {"cold": [], "warm": []} for side in sides}
    failed: dict[str, str] = {}
    for i in range(repeats):
        for side in sides:
            cache = KEPT / "xla" / f"{os.getpid()}-{i}-{side.name}"
            for kind in ("cold", "warm"):
                begun = time.perf_counter()
                done = finished(side.command, {"JAX_COMPILATION_CACHE_DIR": str(cache)})
                if "first_epoch" in done.stdout:
                    seconds[side.name][kind].append(time.perf_counter() - begun)
                else:
                    failed[side.name] = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return {
        name: {"failed": failed[name]} if name in failed else {kind: spread(values) for kind, values in found.items()}
        for name, found in seconds.items()
    }


def weigh(
    sides: Sequence[Side], repeats: int, capacities: tuple[int, int] = (2**18, 2**22), deadline: float = math.inf
) -> dict[str, dict[str, Any]]:
    """Bytes that one transition more takes, from the peaks of two sizes of replay, and the bytes that it stores.

    Where devices keep count, also what rlx had estimated of the larger one, over its peak.
    """
    found = {}
    for side in sides:
        taken, said = [], {"stored_bytes": 1}
        for _ in range(repeats):
            peaks = []
            for capacity in capacities:
                done = finished([*side.command, "--capacity", str(capacity)], side.environment, deadline)
                if done.returncode != 0:
                    return {side.name: {"failed": (done.stderr.strip().splitlines() or ["it said nothing"])[-1]}}
                said = json.loads(done.stdout)
                peaks.append(said["peak_bytes"])
            taken.append((peaks[1] - peaks[0]) / (capacities[1] - capacities[0]))
        ratio = [bytes_taken / said["stored_bytes"] for bytes_taken in taken]
        found[side.name] = {"stored": said["stored_bytes"], "taken": spread(taken), "ratio": spread(ratio)}
        if "estimated_bytes" in said:
            found[side.name]["estimate"] = said["estimated_bytes"] / said["peak_bytes"]
    return found


def backend() -> str:
    """What jax would compute on; asked in a process of its own, which gives the device back."""
    ask = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(ask, capture_output=True, text=True).stdout.strip()


def measure(comparison: Comparison, args: argparse.Namespace, deadline: float) -> dict[str, dict[str, Any]]:
    """What each side of a comparison takes. Raises OutOfTime past the deadline."""
    on_gpu = args.group == "gpu"
    if comparison.unit == "return":
        return learn.race(comparison.sides, comparison.goals, comparison.limit_s, deadline)
    if comparison.unit == "seconds":
        return time_starts(comparison.sides, max(1, args.repeats // 2))
    if comparison.unit == "bytes":
        capacities = (2**12, 2**14) if args.rehearse else (2**18, 2**22)
        return weigh(comparison.sides, 1 if on_gpu else max(1, args.repeats // 2), capacities, deadline)
    everywhere = sorted(os.sched_getaffinity(0))
    cores, clock = ((), "wall_s") if on_gpu else (everywhere[-1:], "cpu_s")
    abreast = max(1, len(everywhere) // 4) if on_gpu else 1
    return take_turns(comparison.sides, args.seconds, args.repeats, cores, clock, abreast, deadline)


def prepare(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """The environment of all sides, and where results go. A rehearsal's never go where results are kept."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(KEPT / "xla" / "kept"))
    if args.group != "gpu":
        if args.rehearse or args.part:
            parser.error("--rehearse and --part go with gpu")
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif args.rehearse:
        if args.out != KEPT:
            parser.error("--rehearse writes no results, so it takes no --out")
        args.out, args.seconds, args.repeats, args.budget = KEPT / "rehearsal", 0.05, 2, math.inf
        os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    elif backend() != "gpu":
        parser.error(
            'jax finds no GPU here: install its jax with pip install -c constraints.txt -e ".[cuda]",'
            " or give --rehearse to see that everything runs"
        )
    if args.group == "gpu":  # several sides hold memory at once; jax would give three quarters of it to the first
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="comparisons whose name has one of these")
    parser.add_argument("--part", nargs="+", default=[], choices=gpu.PARTS, help="of gpu; all, the most telling first")
    parser.add_argument("--again", action="store_true", help="make them again, and not only what is missing")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each side in each repeat, about")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds for all of it; the rest is for later")
    parser.add_argument("--rehearse", action="store_true", help="gpu: at tiny sizes on any device, for no result")
    parser.add_argument("--out", type=Path, default=KEPT, help="folder for results (default: .cache/bench)")
    args = parser.parse_args()
    prepare(parser, args)
    return args


def main() -> None:
    begun = time.monotonic()
    args = parse()
    deadline = begun + args.budget
    results = tables.Results(args.out, "rehearsal" if args.rehearse else args.group)
    left = []
    for comparison in gpu.comparisons(args.part) if args.group == "gpu" else GROUPS[args.group]():
        wanted = not args.only or any(word in comparison.name for word in args.only)
        if not wanted or (comparison.name in results.comparisons and not args.again):
            continue
        if args.rehearse:
            comparison = gpu.rehearsed(comparison)
        started = time.monotonic()
        if started + comparison.needs_s > deadline:
            left.append(comparison.name)
            continue
        print(f"{comparison.name} ...", flush=True)
        try:
            sides = measure(comparison, args, deadline)
        except OutOfTime:
            left.append(comparison.name)
            continue
        results.keep(comparison.name, comparison.unit, sides, round(time.monotonic() - started, 1))
        print(tables.one(comparison.name, results.comparisons[comparison.name]), flush=True)
    if left:
        print(f"No time was left: {'; '.join(left)}. The same command goes on from there.")
    print(f"\nAll of it: {results.write()}")
    if args.rehearse and (failed := results.failures()):
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
