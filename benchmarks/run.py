"""Runs comparisons and writes tables: `python benchmarks/run.py own`, `peers` or `gpu`; see benchmarks/README.md.

Every comparison is kept as soon as it is done, in `.cache/bench`, and is not made again unless `--again` asks for it,
so that a run which was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import tables  # noqa: E402
from benchmarks.turns import Side, spread, take_turns  # noqa: E402

KEPT = ROOT / ".cache" / "bench"
PEERS = ROOT / ".cache" / "peers"
PLAIN = ("actor_hidden_sizes=256,256", "critic_hidden_sizes=256,256")


class Comparison(NamedTuple):
    """Sides that do the same work; ratios are to the first."""

    name: str
    unit: str  # of rates, a second; or of what is measured instead: "seconds" from process start, or "bytes"
    sides: tuple[Side, ...]


def own(name: str, case: str, *flags: Any, sets: Sequence[str] = ()) -> Side:
    """A case of rlx's, or a bound."""
    given = [*map(str, flags), *(["--set", *sets] if sets else [])]
    return Side(name, [sys.executable, str(ROOT / "benchmarks" / "cases.py"), case, *given])


def peer(name: str, case: str, *flags: Any) -> Side:
    """A peer's case, in its own environment."""
    script = ROOT / "benchmarks" / "peers" / f"{name}_cases.py"
    return Side(name, [str(PEERS / name / "bin" / "python"), str(script), case, *map(str, flags)])


def update(
    agent: str, batch: int, label: str = "", sets: Sequence[str] = (), others: Iterable[Side] = ()
) -> Comparison:
    """Updates against the chain of their matrix products, and others."""
    flags = ("--agent", agent, "--batch", batch)
    sides = (own("rlx", "update", *flags, sets=sets), own("chain", "chain", *flags, sets=sets), *others)
    return Comparison(f"update {label or agent}, batch {batch}", "updates", sides)


def fused(env: str, num_envs: int, others: Iterable[Side] = (), agent: str = "sac") -> Comparison:
    """Vector steps with one update each, against the environment alone and the update's products alone."""
    sizes = {"inverted_pendulum": (4, 1), "hopper": (11, 3), "ant": (27, 8)}[env]
    where = ("--env", f"brax:{env}", "--num-envs", num_envs)
    sides = (
        own("rlx", "fused", *where, "--agent", agent),
        *others,
        own("environment alone", "bare", *where),
        own("chain", "chain", "--agent", agent, "--sizes", *sizes, sets=PLAIN),
    )
    return Comparison(f"fused {agent} {env}, {num_envs} environments", "vector steps", sides)


def of_rows(capacity: int) -> tuple[Side, Side]:
    """Replay against the rows that it copies, taken at places known beforehand."""
    return own("rows alone", "rows", "--capacity", capacity), own("rlx", "ring", "--capacity", capacity)


def own_comparisons() -> list[Comparison]:
    """`make bench`."""
    small = [name for name in PLAIN if name.startswith("critic")]
    updates = [update(agent, 256) for agent in ("sac", "iql", "idql", "td3_bc", "bc", "pql")]
    updates += [update("tqc", 256, f"tqc {n} x 25", (f"num_critics={n}", *small)) for n in (2, 5)]
    training = [fused("inverted_pendulum", n) for n in (128, 1024)]
    seeds = [own(f"{n} seeds", "fused", "--seeds", n) for n in (1, 8, 32)]
    capacities = [own(f"capacity {n:,}", "ring", "--capacity", n) for n in (10_240, 102_400, 1_024_000)]
    acting = [own(agent, "act", "--agent", agent, "--batch", 128) for agent in ("sac", "pql", "iql", "idql")]
    offline = (own("update alone", "update", "--agent", "iql"), own("offline driver", "offline", "--agent", "iql"))
    start = (own("rlx", "start"),)
    return [
        *updates,
        *training,
        Comparison("seeds vmapped, sac inverted_pendulum, 128 environments", "vector steps", tuple(seeds)),
        Comparison("replay, add 128 and sample 256", "turns", (own("bare copy", "copies"), *capacities)),
        *(
            Comparison(f"replay of {n:,}, beside its rows alone", "turns", of_rows(n))
            for n in (10_240, 102_400, 1_024_000)
        ),
        Comparison(
            "memory of a transition, fused sac hopper", "bytes", (own("rlx", "memory", "--env", "brax:hopper"),)
        ),
        Comparison("acting, 128 observations", "calls", tuple(acting)),
        Comparison("offline iql", "updates", offline),
        Comparison("start to first epoch", "seconds", start),
    ]


def peer_comparisons() -> list[Comparison]:
    """`make bench-peers`."""
    two = ("num_critics=2", "critic_hidden_sizes=256,256")
    everyone = [peer(name, "update") for name in ("sbx", "rejax", "brax")]

    def training(env: str, num_envs: int) -> Comparison:
        flags = ("--env", env, "--num-envs", num_envs)
        return fused(env, num_envs, [peer("brax", "fused", *flags), peer("rejax", "fused", *flags)])

    start = (own("rlx", "start"), *(peer(name, "start") for name in ("brax", "rejax", "sbx")))
    return [
        update("sac", 256, others=everyone),
        update("tqc", 256, "tqc 2 x 25", two, [peer("sbx", "update", "--agent", "tqc")]),
        *(training(env, n) for env in ("inverted_pendulum", "hopper") for n in (128, 1024)),
        Comparison("start to first epoch", "seconds", start),
    ]


def gpu_comparisons() -> list[Comparison]:
    """`make bench-gpu`: parts of a few minutes each, without a network."""
    small = ("num_critics=5", "critic_hidden_sizes=256,256")
    seeds = [own(f"{n} seeds", "fused", "--seeds", n) for n in (1, 8, 32)]
    rings = [("bare copy", "copies", 20), ("2^20", "ring", 20), ("2^22", "ring", 22)]
    return [
        *(update(agent, batch) for agent in ("sac", "iql", "idql", "pql") for batch in (256, 8192)),
        update("tqc", 256, "tqc 5 x 25", small),
        *(fused("ant", n) for n in (128, 1024, 4096, 16384)),
        Comparison("seeds vmapped, sac inverted_pendulum, 128 environments", "vector steps", tuple(seeds)),
        Comparison(
            "replay, add 4096 and sample 8192",
            "turns",
            tuple(own(name, case, "--num-envs", 4096, "--batch", 8192, "--capacity", 2**n) for name, case, n in rings),
        ),
        Comparison("memory of a transition, fused sac ant", "bytes", (own("rlx", "memory", "--env", "brax:ant"),)),
    ]


def time_starts(sides: Sequence[Side], repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds from starting a process to its first completed epoch, with an empty compilation cache and again."""
    seconds: dict[str, dict[str, list[float]]] = {side.name: {"cold": [], "warm": []} for side in sides}
    failed: dict[str, str] = {}
    for i in range(repeats):
        for side in sides:
            cache = KEPT / "xla" / f"{os.getpid()}-{i}-{side.name}"
            for kind in ("cold", "warm"):
                environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
                begun = time.perf_counter()
                done = subprocess.run(side.command, env=environment, capture_output=True, text=True, timeout=600)
                if "first_epoch" in done.stdout:
                    seconds[side.name][kind].append(time.perf_counter() - begun)
                else:
                    failed[side.name] = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return {
        name: {"failed": failed[name]} if name in failed else {kind: spread(values) for kind, values in found.items()}
        for name, found in seconds.items()
    }


def weigh(
    sides: Sequence[Side], repeats: int, capacities: tuple[int, int] = (2**18, 2**22)
) -> dict[str, dict[str, Any]]:
    """Bytes that one transition more takes, from the peaks of two sizes of replay, and the bytes that it stores."""
    found = {}
    for side in sides:
        taken, said = [], {"stored_bytes": 1}
        for _ in range(repeats):
            peaks = []
            for capacity in capacities:
                command = [*side.command, "--capacity", str(capacity)]
                done = subprocess.run(command, capture_output=True, text=True, timeout=600)
                if done.returncode != 0:
                    return {side.name: {"failed": (done.stderr.strip().splitlines() or ["it said nothing"])[-1]}}
                said = json.loads(done.stdout)
                peaks.append(said["peak_bytes"])
            taken.append((peaks[1] - peaks[0]) / (capacities[1] - capacities[0]))
        ratio = [bytes_taken / said["stored_bytes"] for bytes_taken in taken]
        found[side.name] = {"stored": said["stored_bytes"], "taken": spread(taken), "ratio": spread(ratio)}
    return found


def backend() -> str:
    """What jax would compute on; asked in a process of its own, which gives the device back."""
    ask = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(ask, capture_output=True, text=True).stdout.strip()


GROUPS = {"own": own_comparisons, "peers": peer_comparisons, "gpu": gpu_comparisons}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="comparisons whose name has one of these")
    parser.add_argument("--again", action="store_true", help="make them again, and not only what is missing")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each side in each repeat, about")
    parser.add_argument("--out", type=Path, default=KEPT, help="folder for results (default: .cache/bench)")
    given = parser.parse_args()
    on_gpu = given.group == "gpu"
    cores, clock = ((), "wall_s") if on_gpu else ((max(os.sched_getaffinity(0)),), "cpu_s")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(KEPT / "xla" / "kept"))
    if not on_gpu:
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif backend() != "gpu":
        parser.error('jax finds no GPU here: install its jax with pip install -c constraints.txt -e ".[cuda]"')
    results = tables.Results(given.out, given.group)
    for comparison in GROUPS[given.group]():
        wanted = not given.only or any(word in comparison.name for word in given.only)
        if not wanted or (comparison.name in results.comparisons and not given.again):
            continue
        print(f"{comparison.name} ...", flush=True)
        begun = time.perf_counter()
        if comparison.unit == "seconds":
            sides = time_starts(comparison.sides, max(1, given.repeats // 2))
        elif comparison.unit == "bytes":
            sides = weigh(comparison.sides, max(1, given.repeats // 2))
        else:
            sides = take_turns(comparison.sides, given.seconds, given.repeats, cores, clock)
        results.keep(comparison.name, comparison.unit, sides, round(time.perf_counter() - begun, 1))
        print(tables.one(comparison.name, results.comparisons[comparison.name]), flush=True)
    print(f"\nAll of it: {results.write()}")


if __name__ == "__main__":
    main()
