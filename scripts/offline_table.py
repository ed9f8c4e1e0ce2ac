"""The offline study's table and figure, from the summaries of its runs: `python scripts/offline_table.py FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rlx import json_files
from rlx.analysis import report

TASKS, KINDS, AGENTS = ("inverted_pendulum", "ant"), ("medium", "mixed"), ("bc", "td3_bc", "iql", "idql")
NAMES = {"bc": "BC", "td3_bc": "TD3+BC", "iql": "IQL", "idql": "IDQL"}


def summary(folder: Path, name: str) -> dict[str, Any]:
    """What a run of the study ended with."""
    return json_files.read(folder / name / "summary.json")


def cell(found: dict[str, Any]) -> str:
    low, high = found["eval_return_interval"]
    return f"{found['eval_return_mean']:.0f} ({low:.0f} to {high:.0f})"


def table(folder: Path) -> list[str]:
    """Greedy returns with 95 % intervals over 3 seeds and their episodes, beside who collected."""
    lines = [
        "| data | mean return | best policy, greedy | " + " | ".join(NAMES[agent] for agent in AGENTS) + " |",
        "| --- " * (3 + len(AGENTS)) + "|",
    ]
    for task in TASKS:
        for kind in KINDS:
            found = {agent: summary(folder, f"{task}-{kind}-{agent}") for agent in AGENTS}
            own, greedy = (found["bc"][f"behaviour{name}_return"] for name in ("", "_greedy"))
            cells = [f"{task}, {kind}", f"{own:.0f}", f"{greedy:.0f}", *(cell(found[agent]) for agent in AGENTS)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def online(folder: Path) -> list[str]:
    """The way back online, against what it began with and against SAC alone."""
    offline = summary(folder, "inverted_pendulum-medium-iql")
    rows = {
        "IQL offline": offline,
        "IQL, then online": summary(folder, "online-iql"),
        "SAC": summary(folder, "online-sac"),
    }
    lines = ["| inverted_pendulum, medium | environment steps | return |", "| --- | --- | --- |"]
    return lines + [f"| {name} | {found['env_steps']:,} | {cell(found)} |" for name, found in rows.items()]


def figure(folder: Path, path: Path) -> None:
    """Normalised scores of every agent on every set, with their intervals; the data's own as a line."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(9, 3.6), layout="constrained")
    panels = picture.subplots(1, len(TASKS) * len(KINDS), sharey=True)
    for panel, (task, kind) in zip(panels, [(task, kind) for task in TASKS for kind in KINDS], strict=True):
        found = [summary(folder, f"{task}-{kind}-{agent}") for agent in AGENTS]
        for i, one in enumerate(found):
            mean, (low, high) = one["eval_score_mean"], one["eval_score_interval"]
            panel.bar(i, mean, color=report.COLORS[i], width=0.7)
            panel.errorbar(i, mean, [[max(0.0, mean - low)], [max(0.0, high - mean)]], color="#3b4351", capsize=4)
        panel.axhline(found[0]["behaviour_score"], color="#3b4351", linestyle="--", linewidth=1, label="the data's own")
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
