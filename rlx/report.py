"""What people see of a run: learning curves as pictures and recorded episodes as one page that moves by itself."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rlx.scores import interquartile_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRAME_S = 0.05  # how long a step is shown where the environment has no time of its own
SHAPES = ("sphere", "capsule", "cylinder", "ellipsoid", "box", "plane")  # that robot.js draws
COLORS = ("#2f6fde", "#d9622b", "#2a9d6f", "#8a4fc8", "#c23b5a", "#6b7280")

# The page may run its own script and nothing else: the policy refuses every request over the network.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>html, body {{ margin: 0; height: 100%; }}</style>
</head>
<body>
<div id="view"></div>
<script type="application/json" id="data">{data}</script>
<script>
{script}
rlxView(document.getElementById("view"), JSON.parse(document.getElementById("data").textContent));
</script>
</body>
</html>
"""


class Series(NamedTuple):
    """One line of a learning curve, with a thin line for every seed."""

    label: str
    env_steps: ArrayLike  # [N], of one seed
    returns: ArrayLike  # [N, S], of S seeds


STEPS = "environment steps per seed"


def curve(path: Path, series: Sequence[Series], title: str, counted: str = STEPS) -> Figure:
    """Draws return against steps: every seed thin, their (interquartile) mean bold; saves and returns it.

    `counted` says what steps are. The kind of picture follows the ending of `path` (.png, .svg, .pdf).
    """
    from matplotlib.figure import Figure  # half a second that most commands need not spend
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    for i, (label, env_steps, returns) in enumerate(series):
        color = COLORS[i % len(COLORS)]
        seeds = np.asarray(returns, np.float64)
        count = seeds.shape[1]
        middle = "interquartile mean" if count >= 4 else "mean"
        of = f"{middle} of {count} seeds" if count > 1 else "1 seed"
        if count > 1:
            axes.plot(env_steps, seeds, color=color, linewidth=0.9, alpha=0.35)
        marker = "o" if len(seeds) <= 30 else ""
        name = f"{label}: {of}" if label else of
        axes.plot(
            env_steps, interquartile_mean(seeds), color=color, linewidth=2.4, marker=marker, markersize=4, label=name
        )
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=12)
    axes.set_xlabel(counted)
    axes.set_ylabel("episode return (sum of rewards)")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.margins(x=0.02)
    axes.grid(axis="y", color="#e3e6eb")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9aa3b0")
    axes.tick_params(color="#9aa3b0", labelcolor="#3b4351")
    axes.legend(frameon=False, loc="best")
    figure.savefig(path, dpi=150)
    return figure


def rollout_page(
    path: Path, scene: Mapping[str, Any] | None, episodes: Sequence[Mapping[str, Any]], title: str
) -> None:
    """Writes one HTML file that plays recorded episodes in any browser, without a network.

    `scene` is what an environment's `scene()` gives (see `rlx.envs.base.Watchable`). Each episode has `return` (a
    number), `rewards` `[T]`, `actions` `[T, A]` and, for a scene, `poses` `[T, links, 7]` (position x, y, z and
    quaternion w, x, y, z); without a scene `observations` `[T, O]`, which are drawn as moving strips instead.
    Raises ValueError for a shape that the viewer cannot draw and for arrays that do not fit each other.
    """
    geoms = [] if scene is None else scene["geoms"]
    unknown = {geom["shape"] for geom in geoms} - set(SHAPES)
    if unknown:
        raise ValueError(f"the viewer draws {', '.join(SHAPES)}, not {', '.join(sorted(unknown))}")
    links = max((geom["link"] for geom in geoms), default=-1) + 1
    data = {
        "title": title,
        "dt": FRAME_S if scene is None else scene["dt"],
        "geoms": geoms if links else None,
        "episodes": [_episode(episode, links) for episode in episodes],
    }
    script = "\n".join(resources.files("rlx").joinpath(name).read_text("utf-8") for name in ("robot.js", "viewer.js"))
    # In JSON a "<" can only stand in a string, where its escape is the same; so no string can end the script.
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    path.write_text(PAGE.format(title=html.escape(title), data=text, script=script), encoding="utf-8")


def _episode(episode: Mapping[str, Any], links: int) -> dict[str, Any]:
    shown = "poses" if links else "observations"
    arrays = {name: np.asarray(episode[name], np.float32) for name in ("rewards", "actions", shown)}
    steps = len(arrays["rewards"])
    if not steps or any(len(array) != steps for array in arrays.values()):
        sizes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        raise ValueError(f"an episode needs as many rows in every array, and at least one: {sizes}")
    if links and (arrays["poses"].shape[1] < links or arrays["poses"].shape[2] != 7):
        raise ValueError(f"poses {list(arrays['poses'].shape)} do not fit the scene: [T, {links} or more, 7]")
    total = float(episode["return"])
    return {"return": total if np.isfinite(total) else None} | {name: _packed(array) for name, array in arrays.items()}


def _packed(array: np.ndarray) -> dict[str, Any]:
    data = np.ascontiguousarray(array, "<f4").tobytes()
    return {"shape": list(array.shape), "data": base64.b64encode(data).decode("ascii")}
