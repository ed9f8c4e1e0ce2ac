"""Draws the learning curves of docs/agents from finished runs, and prints what goes under them.

    python scripts/agent_curves.py runs/sac-gymnax-Pendulum-v1-s0 runs/iql-gymnax-Pendulum-v1-s0 ...

The pages say which commands make the runs. A picture is named after its run's agent.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rlx import json_files
from rlx.runs import metrics
from rlx.visual import plots

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images" / "agents"


def draw(run: Path) -> str:
    """One picture, and its run's final return in words."""
    from PIL import Image

    summary = json_files.read(run / "summary.json")
    lines = [line for line in metrics.read(run / "metrics.jsonl") if "eval/return_per_seed" in line]
    offline = summary["env_steps"] == 0
    steps = [line["run_step"] for line in lines]
    series = plots.Series("", steps, [line["eval/return_per_seed"] for line in lines])
    figure = plots.curve([series], "updates on the data set" if offline else plots.STEPS)
    axes = figure.axes[0]
    if offline:
        for name, style in (("behaviour_return", "-"), ("behaviour_greedy_return", "--")):
            label = "the data" if style == "-" else "its policy, greedy"
            axes.axhline(summary[name], color="#9aa3b0", linestyle=style, linewidth=1.2, label=label)
        axes.legend(frameon=False)
    figure.set_size_inches(7.2, 3.8)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    IMAGES.mkdir(parents=True, exist_ok=True)
    Image.open(drawn).convert("RGB").quantize(64).save(IMAGES / f"{summary['agent']}.png", optimize=True)
    low, high = summary["eval_return_interval"]
    return f"{summary['agent']}: {summary['eval_return_mean']:.0f} ({low:.0f} to {high:.0f})"


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        print(draw(Path(folder)))
