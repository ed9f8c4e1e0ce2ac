"""How long until a fixed return: `python benchmarks/learn.py --env ant --sides rlx brax-sac --seeds 0 1 2`.

Every run is a process of its own that says, at each evaluation of 32 greedy episodes, how old it is, how many
environment steps it has made and what they return. It is stopped when the return reaches the threshold, or after
`--limit` seconds. Sides take turns, seed by seed, with the settings in SETTINGS: for rlx its preset, for the peers the
best that were found (benchmarks/README.md says how). Runs that were made are kept, as JSON and as a page.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import tables  # noqa: E402
from benchmarks.comparisons import KEPT, PEERS  # noqa: E402
from benchmarks.turns import OutOfTime, Side  # noqa: E402

THRESHOLDS = {"ant": 2000.0, "Pendulum-v1": -200.0}
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("rlx", "ant"): {"eval_every": 20_000},  # as often as Brax's
    ("rlx", "Pendulum-v1"): {},
    ("rlx-pql", "ant"): {"eval_every": 25_000, "total_env_steps": 1_000_000},
    ("rlx-pql-4096", "ant"): {"preset": "4096", "eval_every": 500_000},
    ("rlx-pql-4096", "humanoid"): {"preset": "4096", "eval_every": 500_000},
    ("brax-sac", "ant"): {
        "num_envs": 256,
        "grad_updates_per_step": 64,
        "batch_size": 256,
        "hidden_layer_sizes": [128, 128],
        "learning_rate": 1e-3,
        "reward_scaling": 10,
        "discounting": 0.97,
        "tau": 0.02,
        "num_timesteps": 1_000_000,
        "num_evals": 51,
    },
    # of its notebook
    ("brax-ppo", "ant"): {"num_envs": 4096, "batch_size": 2048, "reward_scaling": 10, "unroll_length": 5}
    | {"num_minibatches": 32, "num_updates_per_batch": 4, "entropy_cost": 1e-2, "learning_rate": 3e-4},
    ("brax-ppo", "humanoid"): {"num_envs": 2048, "batch_size": 1024, "reward_scaling": 0.1, "unroll_length": 10}
    | {"num_minibatches": 32, "num_updates_per_batch": 8, "entropy_cost": 1e-3, "learning_rate": 3e-4},
}
REHEARSED: dict[
    str, dict[str, Any]
] = {  # only for seeing that a side runs: two evaluations, of an agent that knows nothing
    "rlx": {"num_envs": 16, "batch_size": 16, "replay_capacity": 4096, "warmup_env_steps": 64, "total_env_steps": 128}
    | {"eval_every": 64, "eval_episodes": 2},
    "brax": {"num_envs": 16, "batch_size": 16, "num_minibatches": 2, "num_timesteps": 640, "num_evals": 3}
    | {"num_eval_envs": 2},
}


def smaller(side: str, settings: str) -> str:
    """A side's settings, the last word of its command, for a rehearsal."""
    return json.dumps(json.loads(settings) | REHEARSED[side.split("-")[0]])


def command(side: str, env: str, seed: int, python: str = "") -> list[str]:
    """What runs one side; a peer's in its own environment, unless another `python` is named. Settings come last."""
    maker, agent, *_ = [*side.split("-"), "sac"]
    settings = json.dumps(SETTINGS[side, env])
    if maker == "rlx":
        return [sys.executable, str(Path(__file__).resolve()), "--be", agent, env, str(seed), settings]
    script = ROOT / "benchmarks" / "peers" / "brax_cases.py"
    flags = ["--env", env, "--seed", str(seed), "--settings", settings]
    return [python or str(PEERS / "brax" / "bin" / "python"), str(script), f"learn-{agent}", *flags]


def be(agent: str, env: str, seed: int, settings: dict[str, Any]) -> None:
    """rlx's side: trains with its preset, and says every evaluation."""
    from benchmarks.worker import say
    from rlx import fit

    name = f"gymnax:{env}" if env.endswith("v1") else f"brax:{env}"

    def progress(line: dict[str, Any], state: Any) -> None:
        if "eval/return_mean" in line:
            say(wall_s=line["wall_time_s"], env_steps=line["env_step"], value=line["eval/return_mean"])

    fit(agent, name, callbacks=progress, seed=seed, **settings)


def curve_of(command: Sequence[str], goal: float, limit_s: float) -> list[dict[str, float]]:
    """What a side says at its evaluations, until `goal` is reached or `limit_s` is over."""
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


def first(curve: list[dict[str, float]], goal: float) -> dict[str, float] | None:
    """The evaluation that first reached `goal`."""
    return next((point for point in curve if point["value"] >= goal), None)


def race(sides: Sequence[Side], goals: Sequence[float], limit_s: float, deadline: float) -> dict[str, dict[str, Any]]:
    """When each side, one after the other, first reached each of the goals. Raises OutOfTime past the deadline."""
    found: dict[str, dict[str, Any]] = {}
    for side in sides:
        if time.monotonic() + limit_s > deadline:
            raise OutOfTime
        curve = curve_of(side.command, goals[-1], limit_s)
        found[side.name] = {"goals": {f"{goal:g}": first(curve, goal) for goal in goals}, "curve": curve}
        if not curve:
            found[side.name] = {"failed": f"it said nothing in {limit_s:.0f} s"}
    return found


def run(side: str, env: str, seed: int, limit_s: float) -> dict[str, Any]:
    """One run: its curve, and when it reached the threshold."""
    curve = curve_of(command(side, env, seed), THRESHOLDS[env], limit_s)
    from rlx.runs.origin import describe

    made = {"date": datetime.date.today().isoformat(), **describe(), "processor": tables.processor()}
    reached = first(curve, THRESHOLDS[env])
    return {"side": side, "env": env, "seed": seed, "reached": reached, "curve": curve, "made": made}


def table(runs: list[dict[str, Any]]) -> str:
    """Medians and ranges over seeds; a run that did not get there has no number."""
    lines = ["| | threshold | runs there | seconds | environment steps |", "| --- | --- | --- | --- | --- |"]
    for side, env in dict.fromkeys((run["side"], run["env"]) for run in runs):
        own = [run for run in runs if (run["side"], run["env"]) == (side, env)]
        there = [run["reached"] for run in own if run["reached"]]
        cells = [f"{side}, {env}", f"{THRESHOLDS[env]:g}", f"{len(there)} of {len(own)}"]
        for what in ("wall_s", "env_steps"):
            values = [point[what] for point in there]
            spread = f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})" if values else "-"
            cells.append(spread)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(runs: list[dict[str, Any]]) -> str:
    """The table with what was run: on what, with which settings, and how each run went."""
    notes = dict.fromkeys(tables.origin_of(run["made"]) for run in runs)
    used = dict.fromkeys((run["side"], run["env"]) for run in runs)
    parts = [
        "# Learning, beside peers\n",
        "Made by `make bench-learn`; benchmarks/README.md says how.\n",
        table(runs),
        "",
    ]
    parts += [*notes, "", "Settings beside those of the preset (rlx) or of benchmarks/peers (peers):\n"]
    parts += [f"- {side}, {env}: `{json.dumps(SETTINGS[side, env])}`" for side, env in used]
    parts += ["", "Returns at every evaluation, of 32 greedy episodes:\n"]
    for run in runs:
        course = ", ".join(f"{p['value']:.0f} at {p['env_steps']:,} ({p['wall_s']:.0f} s)" for p in run["curve"])
        parts.append(f"- {run['side']}, {run['env']}, seed {run['seed']}: {course}")
    return "\n".join(parts) + "\n"


def main() -> None:
    if sys.argv[1:2] == ["--be"]:
        agent, env, seed, settings = sys.argv[2:]
        be(agent, env, int(seed), json.loads(settings))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="ant", choices=THRESHOLDS)
    parser.add_argument("--sides", nargs="+", default=["rlx", "brax-sac"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--limit", type=float, default=900, help="seconds after which a run has failed")
    parser.add_argument("--out", type=Path, default=KEPT, help="folder for results (default: .cache/bench)")
    args = parser.parse_args()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(KEPT / "xla" / "kept"))
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "learn.json"
    runs = json.loads(kept.read_text())["runs"] if kept.exists() else []
    for seed in args.seeds:
        for side in args.sides:
            if (side, args.env) not in SETTINGS:
                parser.error(f"no settings for {side} on {args.env}: add them to SETTINGS")
            if any((r["side"], r["env"], r["seed"]) == (side, args.env, seed) for r in runs):
                continue
            runs.append(run(side, args.env, seed, args.limit))
            print(json.dumps({name: runs[-1][name] for name in ("side", "env", "seed", "reached")}), flush=True)
            draft = kept.with_suffix(".draft")
            draft.write_text(json.dumps({"runs": runs}, indent=1) + "\n")
            draft.replace(kept)
    print(table(runs))
    kept.with_suffix(".md").write_text(page(runs))


if __name__ == "__main__":
    main()
