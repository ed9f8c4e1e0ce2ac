"""What is learnt in equal wall time: `python benchmarks/learn.py --tasks ant hopper --sides rlx brax-sac --seeds 0 1`.

Every run is a process of its own that says, at each evaluation of 32 greedy episodes, how old it is, how many
environment steps it has made and what they return; it is stopped when its minutes are over (`learn_settings.py`, which
also has the settings). Sides take turns, seed by seed. Runs that were made are kept, as JSON and as a page with a
picture a task (`learn_page.py`): the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
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
            say(wall_s=line["wall_time_s"], env_steps=line["env_step"], value=line["eval/return_mean"])

    fit(agent, env, callbacks=progress, seed=seed, **settings)


def curve_of(command: Sequence[str], limit_s: float, goal: float = float("inf")) -> list[dict[str, float]]:
    """What a side says at its evaluations, until `limit_s` is over or `goal` is reached."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    curve: list[dict[str, float]] = []
    alarm = threading.Timer(limit_s, process.kill)
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


def run(side: str, task: str, seed: int, minutes: float) -> dict[str, Any]:
    """One run: its curve, its settings, and on what it was made."""
    from rlx.runs.origin import describe

    begun = datetime.datetime.now().isoformat(timespec="seconds")
    load = os.getloadavg()[0]
    curve = curve_of(command(side, task, seed), 60 * minutes)
    made = {"date": begun[:10], **describe(), "processor": tables.processor(), "load_before": round(load, 1)}
    settings = SETTINGS[side, task]
    if side.startswith("rlx"):
        from rlx import config

        settings = config.presets([*side.split("-"), "sac"][1], TASKS[task].env) | settings
    return {"side": side, "task": task, "seed": seed, "minutes": minutes} | {
        "curve": curve,
        "settings": settings,
        "made": made,
    }


def main() -> None:
    if sys.argv[1:2] == ["--be"]:
        agent, env, seed, settings = sys.argv[2:]
        be(agent, env, int(seed), json.loads(settings))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS, metavar="TASK")
    parser.add_argument("--sides", nargs="+", default=["rlx", "brax-sac", "brax-ppo"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, help="for each run, in place of the task's")
    parser.add_argument("--out", type=Path, default=KEPT, help="folder for results (default: .cache/bench)")
    args = parser.parse_args()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(KEPT / "xla" / "kept"))
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "learn.json"
    runs = json.loads(kept.read_text())["runs"] if kept.exists() else []
    unknown = [side for side in args.sides if not any(side == name for name, _ in SETTINGS)]
    if unknown:
        parser.error(f"no settings for {unknown[0]}: choose from {', '.join(sorted({name for name, _ in SETTINGS}))}")
    for seed, task, side in ((seed, task, side) for seed in args.seeds for task in args.tasks for side in args.sides):
        made = any((r["side"], r["task"], r["seed"]) == (side, task, seed) for r in runs)
        if made or (side, task) not in SETTINGS:  # Brax has no gymnax
            continue
        runs.append(run(side, task, seed, args.minutes or TASKS[task].minutes))
        last = runs[-1]["curve"][-1:]
        print(json.dumps({"side": side, "task": task, "seed": seed, "last": last}), flush=True)
        draft = kept.with_suffix(".draft")
        draft.write_text(json.dumps({"runs": runs}, indent=1) + "\n")
        draft.replace(kept)
    print(learn_page.table(runs))
    learn_page.write(runs, args.out)


if __name__ == "__main__":
    main()
