"""What is learnt in equal time: `python benchmarks/learn.py --tasks ant hopper --sides rlx brax-sac --seeds 0 1`.

Every run is a process of its own on one core. At each evaluation of 32 greedy episodes it says how many seconds of its
processor it has used, how many environment steps it has made and what they return; it is stopped when its minutes of
processor time are used up (`learn_settings.py`, which also has the settings), so that other work on the machine makes
a run later, but neither better nor worse. As many runs go on at once as there are cores. Runs that were made are kept,
as JSON and as a page with a picture a task (`learn_page.py`): the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import learn_page, tables  # noqa: E402
from benchmarks.comparisons import KEPT, PEERS  # noqa: E402
from benchmarks.learn_settings import REHEARSED, SETTINGS, TASKS  # noqa: E402
from benchmarks.turns import OutOfTime, Side  # noqa: E402


def smaller(side: str, settings: str) -> str:
    """A side's settings, the last word of its command, for a rehearsal."""
    return json.dumps(json.loads(settings) | REHEARSED[side.split("-")[0]])


def command(side: str, task: str, seed: int, python: str = "") -> list[str]:
    """What runs one side; a peer's in its own environment, unless another `python` is named. Settings come last."""
    maker, agent, *_ = [*side.split("-"), "sac"]
    settings = json.dumps(SETTINGS[side, task])
    if maker == "rlx":
        return [sys.executable, str(Path(__file__).resolve()), "--be", agent, TASKS[task].env, str(seed), settings]
    script = ROOT / "benchmarks" / "peers" / "brax_cases.py"
    flags = ["--env", task, "--seed", str(seed), "--settings", settings]
    return [python or str(PEERS / "brax" / "bin" / "python"), str(script), f"learn-{agent}", *flags]


def be(agent: str, env: str, seed: int, settings: dict[str, Any]) -> None:
    """rlx's side: trains with its preset, and says every evaluation."""
    from benchmarks.worker import say
    from rlx import fit

    def progress(line: dict[str, Any], state: Any) -> None:
        if "eval/return_mean" in line:
            cpu_s = round(time.process_time(), 1)
            say(env_steps=line["env_step"], value=line["eval/return_mean"], cpu_s=cpu_s)

    fit(agent, env, callbacks=progress, seed=seed, **settings)


def on_one_core(command: Sequence[str], core: int, limit_s: float) -> list[str]:
    """The command on this core alone, killed after `limit_s` seconds of processor time."""
    return ["prlimit", f"--cpu={limit_s:.0f}", "taskset", "--cpu-list", str(core), *command]


def curve_of(command: Sequence[str], limit_s: float | None, goal: float = float("inf")) -> list[dict[str, float]]:
    """What a side says at its evaluations, until `limit_s` is over on the clock (None: it ends itself) or `goal` is
    reached."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    curve: list[dict[str, float]] = []
    alarm = threading.Timer(limit_s or threading.TIMEOUT_MAX, process.kill)
    alarm.start()
    try:
        for text in process.stdout:
            curve.append(json.loads(text) | {"wall_s": round(time.perf_counter() - begun, 2)})
            if curve[-1]["value"] >= goal:
                break
    finally:
        alarm.cancel()
        process.kill()
        process.wait()
    return curve


def race(sides: Sequence[Side], goals: Sequence[float], limit_s: float, deadline: float) -> dict[str, dict[str, Any]]:
    """When each side, one after the other, first reached each of the goals. Raises OutOfTime past the deadline."""
    found: dict[str, dict[str, Any]] = {}
    for side in sides:
        if time.monotonic() + limit_s > deadline:
            raise OutOfTime
        curve = curve_of(side.command, limit_s, goals[-1])
        reached = {f"{goal:g}": learn_page.first(curve, goal) for goal in goals}
        found[side.name] = {"goals": reached, "curve": curve}
        if not curve:
            found[side.name] = {"failed": f"it said nothing in {limit_s:.0f} s"}
    return found


def run(side: str, task: str, seed: int, minutes: float, core: int) -> dict[str, Any]:
    """One run on a core: its curve, its settings, and on what it was made."""
    made = tables.origin()
    curve = curve_of(on_one_core(command(side, task, seed), core, 60 * minutes), None)
    settings = SETTINGS[side, task]
    if side.startswith("rlx"):
        from rlx import config

        agent, env = [*side.split("-"), "sac"][1], TASKS[task].env
        settings = config.presets(agent, env, settings.get("preset")) | settings
    return {"side": side, "task": task, "seed": seed, "minutes": minutes} | {
        "curve": curve,
        "settings": settings,
        "made": made,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = sorted(os.sched_getaffinity(0))
    sides = sorted({side for side, _ in SETTINGS})
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS, metavar="TASK")
    parser.add_argument("--sides", nargs="+", default=["rlx", "brax-sac", "brax-ppo"], choices=sides, metavar="SIDE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, help="of processor time for each run, in place of the task's")
    parser.add_argument("--cores", nargs="+", type=int, default=cores, choices=cores, help="each has one run at a time")
    parser.add_argument("--out", type=Path, default=KEPT, help="folder for results (default: .cache/bench)")
    return parser.parse_args()


def make(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All runs that are kept, after making those that are missing, one at a time on every core."""
    kept = args.out / "learn.json"
    runs = json.loads(kept.read_text())["runs"] if kept.exists() else []
    made = {(run["side"], run["task"], run["seed"]) for run in runs}
    wanted = [(side, task, seed) for seed in args.seeds for task in args.tasks for side in args.sides]
    missing = [key for key in wanted if key not in made and key[:2] in SETTINGS]  # Brax has no gymnax
    lock = threading.Lock()

    def work(core: int) -> None:
        while True:
            with lock:
                if not missing:
                    return
                side, task, seed = missing.pop(0)
            one = run(side, task, seed, args.minutes or TASKS[task].minutes, core)
            with lock:
                runs.append(one)
                print(json.dumps({"side": side, "task": task, "seed": seed, "last": one["curve"][-1:]}), flush=True)
                draft = kept.with_suffix(".draft")
                draft.write_text(json.dumps({"runs": runs}, indent=1) + "\n")
                draft.replace(kept)

    with ThreadPoolExecutor(len(args.cores)) as pool:
        list(pool.map(work, args.cores))
    return runs


def main() -> None:
    if sys.argv[1:2] == ["--be"]:
        agent, env, seed, settings = sys.argv[2:]
        be(agent, env, int(seed), json.loads(settings))
        return
    args = parse()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(KEPT / "xla" / "kept"))
    args.out.mkdir(parents=True, exist_ok=True)
    runs = make(args)
    print(learn_page.table(runs))
    learn_page.write(runs, args.out)


if __name__ == "__main__":
    main()
