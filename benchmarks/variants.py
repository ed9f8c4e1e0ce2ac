"""Tables of agents and their variants, several seeds in one program; what `on_policy` and `off_policy` share."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import rlx
from benchmarks import tables
from benchmarks.comparisons import KEPT
from rlx import config, statistics

PENDULUM = "gymnax:Pendulum-v1"


class Group(NamedTuple):
    """Rows of one table, name -> (agent, settings); what its runs have in common; and the return that is waited for."""

    title: str
    common: dict[str, Any]
    rows: dict[str, tuple[str, dict[str, Any]]]
    goal: float = -200.0
    seeds: int = 5

    def part(self, rows: dict[str, dict[str, Any]]) -> str:
        """Its part of the page, of the rows that were made."""
        counts = sorted({len(row["returns"][0]) for row in rows.values()})
        seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        return f"## {self.title}, {seeds} seeds\n\n{table(rows, self.goal)}\n"


def known(agent: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Those of another agent's settings that this one has, too."""
    return {name: value for name, value in settings.items() if name in config.settings(agent)}


def run(agent: str, settings: dict[str, Any], seeds: int, seed: int = 0) -> dict[str, Any]:
    """Returns of all seeds at every evaluation, `[evaluations, seeds]`, their environment steps, and the seconds of the
    processor for all seeds together, compiling included."""
    steps, returns, begun, made = [], [], time.process_time(), tables.origin()

    def progress(line: dict[str, Any], state: Any) -> None:
        if "eval/return_per_seed" in line:
            steps.append(line["env_step"])
            returns.append(line["eval/return_per_seed"])

    rlx.fit(agent, callbacks=progress, seed=seed, num_seeds=seeds, **settings)
    cpu_s = round(time.process_time() - begun, 1)
    return {"agent": agent, "settings": settings, "env_steps": steps, "returns": returns, "cpu_s": cpu_s, "made": made}


def completed(row: dict[str, Any] | None, agent: str, settings: dict[str, Any], seeds: int) -> dict[str, Any]:
    """The row with that many seeds: those that it lacks are run, and added."""
    if row is None:
        return run(agent, settings, seeds)
    have = len(row["returns"][0])
    if have >= seeds:
        return row
    more = run(agent, settings, seeds - have, seed=have)
    returns = [old + new for old, new in zip(row["returns"], more["returns"], strict=True)]
    return more | {"returns": returns, "cpu_s": round(row["cpu_s"] + more["cpu_s"], 1)}


def table(rows: dict[str, dict[str, Any]], goal: float) -> str:
    """Means over seeds with 95 % intervals, at the end and over all evaluations, which tells how fast; and the steps
    to the goal."""
    head = ["", "final return", "mean return of all evaluations", f"steps to {goal:g}"]
    timed = any("cpu_s" in row for row in rows.values())
    head += ["processor seconds"] * timed
    seeds = {len(row["returns"][0]) for row in rows.values()}
    head += ["seeds"] * (len(seeds) > 1)
    lines = [tables.line(head), tables.line(["---"] * len(head))]
    for name, row in rows.items():
        returns = np.asarray(row["returns"])
        digits = 2 if abs(goal) < 10 else 0
        cells = [interval(returns[-1], digits), interval(returns.mean(axis=0), digits)]
        reached = np.flatnonzero(returns.mean(axis=1) > goal)
        cells.append(f"{row['env_steps'][reached[0]]:,}" if len(reached) else "not")
        cells += [f"{row['cpu_s']:.0f}" if "cpu_s" in row else "-"] * timed
        cells += [str(returns.shape[1])] * (len(seeds) > 1)
        lines.append(tables.line([name, *cells]))
    return "\n".join(lines)


def interval(values: np.ndarray, digits: int = 0) -> str:
    """The mean of seeds with its interval."""
    found = statistics.bootstrap_interval(values[:, None], statistics.mean)
    mean, low, high = (f"{number:.{digits}f}" for number in (found.estimate, found.low, found.high))
    return f"{mean} ({low} to {high})"


def main(
    groups: dict[str, Group],
    name: str,
    title: str,
    about: str,
    overview: Callable[[dict[str, Any]], list[str]] = lambda made: [],
) -> None:
    """Makes the rows and seeds that are missing, and the page `NAME.md` of all; `about` is the command's help.

    The page begins with the `overview` of all rows.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(groups), choices=groups)
    parser.add_argument("--rows", nargs="+", help="these rows alone (default: all)")
    parser.add_argument("--seeds", type=int, help="as many seeds (default: those of each table)")
    parser.add_argument("--out", type=Path, default=KEPT, help="folder for results (default: .cache/bench)")
    args = parser.parse_args()
    unknown = set(args.rows or ()) - {row for key in args.only for row in groups[key].rows}
    if unknown:
        parser.error(f"--rows: no table of {', '.join(args.only)} has {', '.join(sorted(unknown))}")
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / f"{name}.json"
    made: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for key in args.only:
        group = groups[key]
        rows = made.setdefault(key, {})
        for row, (agent, settings) in group.rows.items():
            if args.rows and row not in args.rows:
                continue
            rows[row] = completed(rows.get(row), agent, settings | group.common, args.seeds or group.seeds)
            made[key] = rows = {row: rows[row] for row in group.rows if row in rows}
            kept.write_text(json.dumps(made) + "\n")
        print(table(rows, group.goal), flush=True)
    parts = [groups[key].part(rows) for key, rows in made.items()]
    runs = [row["made"] for rows in made.values() for row in rows.values() if "made" in row]
    made_by = f"Made by `python -m benchmarks.{name.replace('-', '_')}`. {tables.origins_of(runs)}".strip()
    (args.out / f"{name}.md").write_text(f"# {title}\n\n{made_by}\n\n" + "\n".join([*overview(made), *parts]))
