"""PPO's variants beside it at equal steps, on Pendulum but where a row names its task: `python -m benchmarks.on_policy
--only objectives`.

Five seeds a row, with presets where nothing else is said. Rows that were made are kept in `--out`, as JSON and as a
page: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import rlx
from benchmarks import tables
from benchmarks.comparisons import KEPT
from benchmarks.learn_settings import SETTINGS
from rlx import config, statistics

ENV, SEEDS = "gymnax:Pendulum-v1", 5
GOALS = {"inverted_double_pendulum": 1200.0, "ant": 2000.0}  # of a group; -200 on Pendulum


def layers(number: int) -> dict[str, Any]:
    """Networks of so many layers of 64."""
    return {name: (64,) * number for name in ("actor_hidden_sizes", "critic_hidden_sizes")}


def batches(factor: float, rule: bool) -> dict[str, Any]:
    """Minibatches of `factor` times the preset's 256, with the settings adapted to them by PPO-EWMA's rule or not."""
    return {"batch_size": int(256 * factor)} | ({"batch_factor": factor} if rule else {})


def known(agent: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Those of PPO's settings that a variant has, too."""
    return {name: value for name, value in settings.items() if name in config.settings(agent)}


PHYSICS: dict[str, dict[str, Any]] = {  # Brax's tasks, with PPO's settings for a CPU
    task: SETTINGS["rlx-ppo-cpu", task] for task in ("inverted_double_pendulum", "ant")
}

GROUPS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "objectives": {name: (name, {}) for name in ("ppo", "lpo", "spo", "ppo_ewma")},
    "batches": {
        f"ppo_ewma, batches x{factor:g}{'' if rule else ', without the rule'}": ("ppo_ewma", batches(factor, rule))
        for rule in (True, False)
        for factor in (0.25, 4, 8)  # of 2,048 rows in a block, all
    },
    "layers": {f"{name}, {n} layers": (name, layers(n)) for n in (7, 5, 3) for name in ("ppo", "spo")},
    **{
        task: {name: (name, {"env": f"brax:{task}", **known(name, PHYSICS[task])}) for name in ("ppo", "lpo", "spo")}
        for task in PHYSICS
    },
}


def run(agent: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns of all seeds at every evaluation, `[evaluations, seeds]`, and their environment steps."""
    steps, returns = [], []

    def progress(line: dict[str, Any], state: Any) -> None:
        if "eval/return_per_seed" in line:
            steps.append(line["env_step"])
            returns.append(line["eval/return_per_seed"])

    chosen: dict[str, Any] = {"env": ENV, "eval_every": 20_000} | settings
    rlx.fit(agent, callbacks=progress, num_seeds=SEEDS, **chosen)
    return {"agent": agent, "settings": settings, "env_steps": steps, "returns": returns}


def table(rows: dict[str, dict[str, Any]], goal: float) -> str:
    """Means over seeds with 95 % intervals, at the end and over all evaluations, which tells how fast; and the steps
    to the goal."""
    lines = [tables.line(["", "final return", "mean return of all evaluations", f"steps to {goal:g}"])]
    lines.append(tables.line(["---"] * 4))
    for name, row in rows.items():
        returns = np.asarray(row["returns"])
        cells = [interval(returns[-1]), interval(returns.mean(axis=0))]
        reached = np.flatnonzero(returns.mean(axis=1) > goal)
        lines.append(tables.line([name, *cells, f"{row['env_steps'][reached[0]]:,}" if len(reached) else "not"]))
    return "\n".join(lines)


def page(group: str, rows: dict[str, dict[str, Any]]) -> str:
    """A group's part of the page."""
    where = f" on Brax's {group}" if group in PHYSICS else " on Pendulum"
    return f"## {group if group not in PHYSICS else 'objectives'}{where}\n\n{table(rows, GOALS.get(group, -200.0))}\n"


def interval(values: np.ndarray) -> str:
    """The mean of seeds with its interval."""
    found = statistics.bootstrap_interval(values[:, None], statistics.mean)
    return f"{found.estimate:.0f} ({found.low:.0f} to {found.high:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(GROUPS), choices=GROUPS)
    parser.add_argument("--out", type=Path, default=KEPT, help="folder for results (default: .cache/bench)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "on-policy.json"
    made: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for group in args.only:
        for name, (agent, settings) in GROUPS[group].items():
            if name not in made.setdefault(group, {}):
                made[group][name] = run(agent, settings)
                kept.write_text(json.dumps(made) + "\n")
        print(page(group, made[group]), flush=True)
    parts = [page(group, rows) for group, rows in made.items()]
    head = f"# PPO and its variants\n\nMade by `python -m benchmarks.on_policy`: {SEEDS} seeds a row.\n\n"
    (args.out / "on-policy.md").write_text(head + "\n".join(parts))


if __name__ == "__main__":
    main()
