"""Figures of runs: learning curves, final scores and time spent, as matplotlib figures."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rlx import json_files
from rlx.statistics import Interval, bootstrap_band

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#2f6fde", "#d9622b", "#2a9d6f", "#8a4fc8", "#c23b5a", "#6b7280")
# Colours of the names in `run_data.time_split`; different from those of runs.
PARTS = ("#b6c2d4", "#35507a", "#7fa6d9", "#e0a458", "#e8ebf0", "#9cc5b0", "#cfa3bd")
DASHES = ("-", "--", ":", "-.")  # the next one where colours repeat
STEPS = "environment steps per seed"
RETURN = "episode return (sum of rewards)"


class Series(NamedTuple):
    """One line of a learning curve."""

    label: str
    x: ArrayLike  # [T], of one seed
    returns: ArrayLike  # [T, S], of S seeds
    kind: str = "seed"  # or what else the S are


def color(i: int) -> str:
    """The colour of line `i`, the same in every figure."""
    return COLORS[i % len(COLORS)]


def curve(
    series: Sequence[Series], counted: str = STEPS, title: str = "", size: tuple[float, float] = (8, 4.8)
) -> Figure:
    """Return against steps or seconds (`counted`): the (interquartile) mean of seeds, its 95 % interval as a band.

    The interval is from `statistics.bootstrap_band`. A single series also shows every seed, thin. One seed has no band.
    """
    figure, axes = _figure(size, title)
    lines, labels = [], []
    for i, (label, x, returns, kind) in enumerate(series):
        seeds = np.asarray(returns, np.float64)
        count, band = seeds.shape[1], bootstrap_band(seeds)
        if count > 1 and len(series) == 1:
            axes.plot(x, seeds, color=color(i), linewidth=0.8, alpha=0.4)
        if count > 1:
            axes.fill_between(x, band.low, band.high, color=color(i), alpha=0.18, linewidth=0)
        middle = "interquartile mean" if count >= 4 else "mean"
        of = f"{middle} of {count} {kind}s" if count > 1 else f"1 {kind}"
        (line,) = axes.plot(x, band.estimate, color=color(i), linewidth=2.2)
        line.set(linestyle=DASHES[i // len(COLORS) % len(DASHES)], marker="o" if len(seeds) <= 30 else "", markersize=4)
        lines.append(line)
        labels.append(_literal(f"{label}: {of}" if label else of))
    from matplotlib.ticker import EngFormatter

    axes.set_xlabel(counted)
    axes.set_ylabel(RETURN)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.margins(x=0.02)
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.grid(axis="y", color="#e3e6eb")
    axes.legend(lines, labels, frameon=False, loc="best")  # explicit, since labels that begin with "_" would be hidden
    return figure


def intervals(rows: Mapping[str, Interval], measured: str = RETURN, title: str = "") -> Figure:
    """A dot for each estimate and a bar for its interval, one row each, the first on top."""
    figure, axes = _figure((6, 0.9 + 0.4 * len(rows)), title)
    for i, interval in enumerate(rows.values()):
        axes.plot([interval.low, interval.high], [i, i], color=color(i), linewidth=7, alpha=0.3, solid_capstyle="butt")
        axes.plot([interval.estimate], [i], color=color(i), marker="o", markersize=8)
    axes.set_yticks(range(len(rows)), [_literal(name) for name in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(measured)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="x", color="#e3e6eb")
    return figure


def durations(rows: Mapping[str, Mapping[str, float]], title: str = "") -> Figure:
    """Seconds of each run as a stacked bar; a part has the same colour in all bars."""
    parts = list(dict.fromkeys(name for parts in rows.values() for name in parts))
    figure, axes = _figure((6, 1.4 + 0.4 * len(rows)), title)
    starts = [dict(zip(spent, accumulate(spent.values(), initial=0.0), strict=False)) for spent in rows.values()]
    for i, part in enumerate(parts):
        widths = [spent.get(part, 0.0) for spent in rows.values()]
        left = [start.get(part, 0.0) for start in starts]
        axes.barh(range(len(rows)), widths, left=left, height=0.6, color=PARTS[i % len(PARTS)], label=part)
    axes.set_yticks(range(len(rows)), [_literal(name) for name in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("seconds")
    figure.legend(frameon=False, ncols=3, loc="outside upper left", columnspacing=1, handlelength=1.2)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a figure in the format of the suffix of `path` (.png, .svg, .pdf)."""
    with json_files.replacing(path) as draft:
        figure.savefig(draft, format=path.suffix[1:], dpi=150)


def svg(figure: Figure, name: str) -> str:
    """A figure as an `<svg>` element for a page: text stays text, and there are no links.

    `name` makes the ids of several figures in one page unique.
    """
    import matplotlib

    text = io.StringIO()
    no_metadata: dict[str, Any] = {key: None for key in ("Creator", "Date", "Format", "Type")}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata=no_metadata)
    element = text.getvalue()
    element = re.sub(r"<metadata>.*?</metadata>", "", element[element.index("<svg") :], flags=re.DOTALL)
    element = re.sub(r' xmlns(:xlink)?="[^"]*"', "", element)  # not needed in HTML
    return re.sub(r'(\bid="|="#|url\(#)', rf"\g<1>{name}-", element).rstrip()


def _literal(text: str) -> str:
    """Escapes a text so that matplotlib does not read it as mathematics."""
    return text.replace("$", r"\$")


def _figure(size: tuple[float, float], title: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # half a second of import that most commands do not need

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    if title:
        axes.set_title(_literal(title), loc="left", fontsize=13, fontweight="bold", pad=12)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9aa3b0")
    axes.tick_params(color="#9aa3b0", labelcolor="#3b4351")
    return figure, axes
