"""What was measured, as JSON that is kept comparison by comparison, and as a page."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TITLES = {
    "own": "rlx against its bounds",
    "peers": "rlx beside its peers",
    "gpu": "rlx on a GPU, against its bounds and Brax",
    "rehearsal": "A rehearsal: nothing here is a result",
}


class Results:
    """The comparisons of a group, in a folder."""

    def __init__(self, folder: Path, group: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.group, self._path = group, folder / f"{group}.json"
        found = json.loads(self._path.read_text()) if self._path.exists() else {}
        self.comparisons: dict[str, Any] = found.get("comparisons", {})

    def keep(self, name: str, unit: str, sides: dict[str, Any], took_s: float) -> None:
        """Adds a comparison, or replaces it, and writes everything."""
        self.comparisons[name] = {"unit": unit, "sides": sides, "made": {"took_s": took_s, **origin()}}
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps({"comparisons": self.comparisons}, indent=1) + "\n")
        draft.replace(self._path)

    def failures(self) -> list[str]:
        """Each side that failed, with what it said."""
        return [
            f"{name}: {side}: {found['failed']}"
            for name, comparison in self.comparisons.items()
            for side, found in comparison["sides"].items()
            if "failed" in found
        ]

    def write(self) -> Path:
        """The page beside the JSON."""
        page = self._path.with_suffix(".md")
        parts = [f"# {TITLES[self.group]}\n", HOW[self.group]]
        parts += [one(name, comparison) for name, comparison in self.comparisons.items()]
        page.write_text("\n".join(parts))
        return page


def one(name: str, comparison: dict[str, Any]) -> str:
    """One comparison as a section with a table."""
    sides, unit = comparison["sides"], comparison["unit"]
    rows = [_row(side, found) for side, found in sides.items()]
    heads = {
        "seconds": ["", "cold", "warm"],
        "bytes": ["", "bytes stored", "bytes taken", "taken to stored", "estimate to peak"],
    }
    heads["return"] = ["", *(f"to {goal}" for goal in next((x["goals"] for x in sides.values() if "goals" in x), {}))]
    head = heads.get(unit, ["", f"{unit}/s", f"to {next(iter(sides))}", "compiling"])
    note = origin_of(comparison["made"])
    lines = [f"## {name}\n", line(head), line(["---"] * len(head)), *map(line, rows), "", note, ""]
    return "\n".join(lines)


def origin() -> dict[str, Any]:
    """When, on what and with which code something is measured."""
    from rlx.runs.origin import describe

    return {"date": datetime.date.today().isoformat(), **describe(), "processor": processor()}


def origin_of(made: dict[str, Any]) -> str:
    """When, on what and by which code something was measured, in a line."""
    versions = made["versions"]
    kind = made["hardware"]["kind"]
    device = made["processor"] if kind == "cpu" else kind
    commit = str(versions.get("commit", "unknown"))
    commit = commit[:12] + "-dirty" * commit.endswith("-dirty")
    return f"{made['date']}, {device}, jax {versions['jax']}, commit {commit}."


def origins_of(made: Iterable[dict[str, Any]]) -> str:
    """As `origin_of` for several measurements: the commits of each day and machine together."""
    commits: dict[str, dict[str, None]] = {}
    for where, _, commit in (origin_of(one).rstrip(".").rpartition(", commit ") for one in made):
        commits.setdefault(where, {})[commit] = None
    return " ".join(f"{where}, commit{'s' * (len(of) > 1)} {', '.join(of)}." for where, of in commits.items())


def _row(side: str, found: dict[str, Any]) -> list[str]:
    if "failed" in found:
        return [side, f"failed: {found['failed']}"]
    if "cold" in found:
        return [side, *(f"{_spread(found[kind])} s" for kind in ("cold", "warm"))]
    if "goals" in found:
        return [side, *(_reached(found["curve"], point) for point in found["goals"].values())]
    if "taken" in found:
        estimate = f"{found['estimate']:.2f}" if "estimate" in found else "-"
        return [side, f"{found['stored']}", _spread(found["taken"]), _spread(found["ratio"]), estimate]
    return [
        side,
        _spread(found["rate"]),
        _spread(found["ratio"]) if "ratio" in found else "-",
        f"{found.get('compile_s', 0):.1f} s",
    ]


def _reached(curve: list[dict[str, float]], point: dict[str, float] | None) -> str:
    """When a goal was reached, or how far it was when the run ended."""
    if point is None:
        best = max(curve, key=lambda point: point["value"])
        return f"not; {best['value']:,.0f} after {best['wall_s']:,.0f} s, {best['env_steps']:,.0f} steps"
    return f"{point['wall_s']:,.0f} s, {point['env_steps']:,.0f} steps"


def _spread(values: Any) -> str:
    median, low, high = (f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in values)
    return f"{median} ({low} to {high})"


def line(cells: list[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def processor() -> str:
    """How many cores may be used, and of what kind: a name, and the numbers that tell generations of it apart."""
    kind = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        pairs = [line.split(":", 1) for line in info.read_text().splitlines() if ":" in line]
        told = {name.strip(): text.strip() for name, text in reversed(pairs)}  # the first core's stay
        kind = told.get("model name", kind)
        if {"cpu family", "model"} <= told.keys():
            kind += f" family {told['cpu family']} model {told['model']}"
    return f"{len(os.sched_getaffinity(0))} cores, {kind}"


HOW = {
    "own": "Made by `make bench`. One core; medians and ranges of turns in alternation; see benchmarks/README.md.\n",
    "peers": "Made by `make bench-peers`. One core, but starts on all; medians and ranges of turns that alternate;\n"
    "benchmarks/README.md says how.\n",
    "gpu": "Made by `make bench-gpu`. Seconds on the clock; medians and ranges of turns that alternate.\n",
    "rehearsal": "Made by `make bench-gpu ARGS=--rehearse`, at sizes at which no number means anything.\n",
}
