"""A result to look at, in one HTML file or in a notebook: its learning curve, and episodes of its policy."""

from __future__ import annotations

import html
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rlx import config, json_files
from rlx.api.arguments import check_kind
from rlx.api.following import in_notebook
from rlx.envs import no_env
from rlx.evaluate import renderable_scene
from rlx.runs import policies, summaries
from rlx.visual import plots, viewer

HEIGHT = 420  # of the moving episodes, in pixels
STYLE = "body { margin: 1em; font-family: sans-serif; } svg { max-width: 100%; height: auto; } iframe { border: 0; }"


class Page:
    """HTML that needs no network; a notebook shows it."""

    def __init__(self, title: str, body: str) -> None:
        self.title, self.body = title, body

    def save(self, path: str | Path) -> Path:
        """Writes it as one file."""
        check_kind("out", path, (str, Path), "the path of an .html file")
        path = Path(path)
        with viewer.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            title = html.escape(self.title)
            head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            json_files.write_text(path, f"{head}<style>{STYLE}</style></head><body>{self.body}</body></html>\n")
        return path

    def _repr_html_(self) -> str:
        return self.body

    def __repr__(self) -> str:
        return f"Page({self.title!r})"


def show(result: Any, out: str | Path | None, member: int) -> Page:
    """The page of a `rlx.Result`; where no notebook shows it, it is written, and its path is printed."""
    policies.check_member(member, result.members, repr(result))
    title = f"{result.config.agent} on {result.config.env}"
    parts = [_curve(result, title)]
    if not no_env.is_none(result.config.env):
        parts.append(_episodes(result, title, member))
    page = Page(title, "\n".join(parts))
    if out is not None or not in_notebook():
        place = out if out is not None else Path(tempfile.mkdtemp(prefix="rlx-")) / "result.html"
        print(f"{page.save(place)}: open it in a browser")
    return page


def _curve(result: Any, title: str) -> str:
    """Greedy returns at evaluations; of a run without an environment, the losses of its updates."""
    name = "eval/return_per_seed"
    if no_env.is_none(result.config.env):
        losses = [name for line in result.metrics for name in line if name.endswith("_loss")]
        name = next((loss for loss in losses if loss.endswith("critic_loss")), losses[0] if losses else name)
    lines = [line for line in result.metrics if line.get(name)]
    if not lines:
        return f"<p>{html.escape(title)}: no evaluation yet</p>"
    values = np.asarray([line[name] for line in lines], np.float64)
    steps = np.asarray([line["run_step"] for line in lines])
    drawn = summaries.curves(result.config, steps, values)
    figure = plots.curve(drawn, summaries.counted(config.flat(result.config)), title, size=(7, 3.4))
    if name != "eval/return_per_seed":
        figure.axes[0].set_ylabel(name.removeprefix("train/").replace("_", " "))
    return plots.svg(figure, f"curve-{abs(hash((title, len(lines), values.tobytes()))):x}")


def _episodes(result: Any, title: str, member: int) -> str:
    """The recorded episodes of the last evaluation in a frame of their own, whose page runs no other script."""
    scene = renderable_scene(result._task.env)
    recorded = summaries.episodes(result.evaluation, scene is not None, member)
    label = f"{title}, {result.labels[member]}" if len(result.members) > 1 else title
    packed: Any = viewer.pack(scene, recorded, label)
    inside = viewer.PAGE.format(
        generator=viewer.GENERATOR,
        title=html.escape(label),
        style=viewer.FULL_WINDOW,
        body=viewer.player(packed, "single"),
    )
    return f'<iframe srcdoc="{html.escape(inside)}" width="100%" height="{HEIGHT}" style="border: 0"></iframe>'
