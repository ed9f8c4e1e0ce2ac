"""The offline study's table and figure, from the summaries of its runs: `python scripts/offline_table.py FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rlx import json_files
from rlx.visual import plots

TASKS, KINDS, AGENTS = ("inverted_pendulum", "ant"), ("medium", "mixed"), ("bc", "td3_bc", "iql", "idql")
NAMES = {"bc": "BC", "td3_bc": "TD3+BC", "iql": "IQL", "idql": "IDQL"}


def summary(folder: Path, name: str) -> dict[str, Any]:
    """What a run of the study ended with."""
    return json_files.read(folder / name / "summary.json")


def tasks(folder: Path) -> list[str]:
    """The tasks that the study has made."""
    return [task for task in TASKS if (folder / f"{task}-{KINDS[-1]}-{AGENTS[-1]}" / "summary.json").exists()]


def cell(result: dict[str, Any]) -> str:
    low, high = result["eval_return_interval"]
    return f"{result['eval_return_mean']:.0f} ({low:.0f} to {high:.0f})"


def table(folder: Path) -> list[str]:
    """Greedy returns with 95 % intervals over 3 seeds and their episodes, and those of the policies that collected."""
    lines = [
        "| data | mean return | best policy, greedy | " + " | ".join(NAMES[agent] for agent in AGENTS) + " |",
        "| --- " * (3 + len(AGENTS)) + "|",
    ]
    for task in tasks(folder):
        for kind in KINDS:
            results = {agent: summary(folder, f"{task}-{kind}-{agent}") for agent in AGENTS}
            mean, greedy = (results["bc"][f"behaviour{name}_return"] for name in ("", "_greedy"))
            cells = [f"{task}, {kind}", f"{mean:.0f}", f"{greedy:.0f}", *(cell(results[agent]) for agent in AGENTS)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def online(folder: Path) -> list[str]:
    """IQL after further steps online, against where it began and against SAC alone; nothing without this task."""
    if TASKS[0] not in tasks(folder):
        return []
    offline = summary(folder, "inverted_pendulum-medium-iql")
    rows = {
        "IQL offline": offline,
        "IQL, then online": summary(folder, "online-iql"),
        "SAC": summary(folder, "online-sac"),
    }
    lines = ["| inverted_pendulum, medium | environment steps | return |", "| --- | --- | --- |"]
    return lines + [f"| {name} | {result['env_steps']:,} | {cell(result)} |" for name, result in rows.items()]


def figure(folder: Path, path: Path) -> None:
    """Normalised scores of every agent on every set, with their intervals; the data's score as a line."""
    from matplotlib.figure import Figure

    sets = [(task, kind) for task in tasks(folder) for kind in KINDS]
    picture = Figure(figsize=(1 + 2 * len(sets), 3.6), layout="constrained")
    panels = picture.subplots(1, len(sets), sharey=True)
    for panel, (task, kind) in zip(panels, sets, strict=True):
        results = [summary(folder, f"{task}-{kind}-{agent}") for agent in AGENTS]
        for i, result in enumerate(results):
            mean, (low, high) = result["eval_score_mean"], result["eval_score_interval"]
            panel.bar(i, mean, color=plots.COLORS[i], width=0.7)
            panel.errorbar(i, mean, [[max(0.0, mean - low)], [max(0.0, high - mean)]], color="#3b4351", capsize=4)
        panel.axhline(results[0]["behaviour_score"], color="#3b4351", linestyle="--", linewidth=1, label="the data")
        panel.set_title(f"{task}\n{kind}", fontsize=10)
        panel.set_xticks(range(len(AGENTS)), [NAMES[agent] for agent in AGENTS], rotation=40, ha="right")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("normalised score\n(random 0, expert 100)")
    panels[-2].legend(frameon=False, fontsize=9, loc="upper left")  # where the bars are low
    picture.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the study's runs")
    folder = parser.parse_args().folder
    text = "\n".join([*table(folder), "", *online(folder)])
    (folder / "table.md").write_text(text + "\n")
    figure(folder, folder / "scores.png")
    print(f"{text}\n\nwrote {folder / 'table.md'} and {folder / 'scores.png'}")


if __name__ == "__main__":
    main()
