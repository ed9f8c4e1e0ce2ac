"""Figures of a sweep: a heat map of two hyper-parameters, or parallel coordinates of any number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlx.visual import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RETURN = "return (interquartile mean of seeds)"
COLORS = "viridis"
MISSING, INK = "#c9ced6", "#3b4351"
FEW = 6  # values of a hyper-parameter up to which its axis labels all
DECADES = 10.0  # ratio of highest to lowest value from which an axis is logarithmic


def draw(
    path: Path, combinations: Sequence[Mapping[str, float]], values: np.ndarray, is_grid: bool, title: str
) -> Figure:
    """Draws the returns `values` `[C]` of combinations (NaN where one diverged); saves the figure and returns it.

    A grid of two hyper-parameters is a heat map; else there is one axis per hyper-parameter and one for returns.
    """
    from matplotlib.figure import Figure

    names = list(combinations[0])
    columns = {name: np.asarray([combination[name] for combination in combinations]) for name in names}
    flat = is_grid and len(names) == 2
    figure = Figure(figsize=(7.5, 5.2) if flat else (max(7.0, 2.4 * (len(names) + 1)), 5.0), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=14)
    (_heat_map if flat else _parallel)(axes, columns, values)
    axes.tick_params(color="#9aa3b0", labelcolor=INK)
    plots.save(figure, path)
    return figure


def _scale(values: np.ndarray) -> Any:
    """Maps returns to [0, 1], for colours."""
    from matplotlib.colors import Normalize

    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    return Normalize(low, high if high > low else low + 1)


def _heat_map(axes: Axes, columns: Mapping[str, np.ndarray], values: np.ndarray) -> None:
    import matplotlib

    (x_name, x), (y_name, y) = columns.items()
    across, up = np.unique(x), np.unique(y)
    cells = np.full((len(up), len(across)), np.nan)
    cells[np.searchsorted(up, y), np.searchsorted(across, x)] = values
    colors, scale = matplotlib.colormaps[COLORS].with_extremes(bad=MISSING), _scale(values)
    image = axes.imshow(np.ma.masked_invalid(cells), cmap=colors, norm=scale, origin="lower", aspect="auto")
    for (row, column), value in np.ndenumerate(cells):
        dark = np.isfinite(value) and scale(value) < 0.6
        text = _brief(value) if np.isfinite(value) else "diverged"
        axes.text(column, row, text, ha="center", va="center", fontsize=10, color="white" if dark else "black")
    axes.set_xticks(range(len(across)), [f"{value:g}" for value in across])
    axes.set_yticks(range(len(up)), [f"{value:g}" for value in up])
    axes.set_xlabel(x_name)
    axes.set_ylabel(y_name)
    axes.spines[:].set_visible(False)
    _color_bar(axes, image)


def _parallel(axes: Axes, columns: Mapping[str, np.ndarray], values: np.ndarray) -> None:
    import matplotlib
    from matplotlib.cm import ScalarMappable

    axis_values = {**columns, RETURN: values}
    heights = np.stack([_height(name, column)(column) for name, column in axis_values.items()], axis=1)  # [C, axes]
    colors, scale = matplotlib.colormaps[COLORS], _scale(values)
    for i in np.argsort(np.nan_to_num(values, nan=-np.inf)):  # the best on top
        bad = not np.isfinite(values[i])
        look: dict[str, Any] = {"color": MISSING if bad else colors(scale(values[i])), "alpha": 0.85}
        best = values[i] == np.nanmax(values)
        axes.plot(heights[i], linewidth=3.2 if best else 1.4, linestyle=":" if bad else "-", **look)
    for position, (name, column) in enumerate(axis_values.items()):
        axes.axvline(position, color=INK, linewidth=1)
        for value in _ticks(name, column):
            height = float(_height(name, column)(np.asarray(value)))
            axes.plot([position - 0.02, position], [height, height], color=INK, linewidth=1)
            behind: dict[str, Any] = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
            place: dict[str, Any] = {"ha": "right", "va": "center", "zorder": 5}
            axes.text(position - 0.04, height, _brief(value), fontsize=9, color=INK, bbox=behind, **place)
    labels = [name.replace(" (", "\n(") for name in axis_values]
    axes.set_xticks(range(len(axis_values)), labels, fontsize=11)
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.set_xlim(-0.45, len(columns) + 0.1)
    axes.set_ylim(-0.05, 1.05)
    axes.spines[:].set_visible(False)
    _color_bar(axes, ScalarMappable(scale, colors))


def _color_bar(axes: Axes, shown: Any) -> None:
    figure = axes.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(shown, ax=axes, label=RETURN, pad=0.03)
    bar.outline.set_visible(False)


def _is_log(name: str, column: np.ndarray) -> bool:
    return name != RETURN and column.min() > 0 and column.max() / column.min() >= DECADES


def _height(name: str, column: np.ndarray) -> Any:
    """Maps a column's values to heights in [0, 1]; equal values are all in the middle."""
    log = _is_log(name, column)
    known = column[np.isfinite(column)]
    ends = (known.min(), known.max()) if known.size else (0.0, 0.0)
    low, high = np.log(ends) if log else ends

    def height(values: np.ndarray) -> np.ndarray:
        at = np.log(values) if log else values
        return (at - low) / (high - low) if high > low else np.where(np.isnan(at), np.nan, 0.5)

    return height


def _ticks(name: str, column: np.ndarray) -> np.ndarray:
    """The values labelled on an axis: all where they are few, else round numbers in their range."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    known = np.unique(column[np.isfinite(column)])
    if len(known) <= FEW:
        return known
    locator = LogLocator(subs=(1, 3)) if _is_log(name, column) else MaxNLocator(FEW)
    ticks = np.asarray(locator.tick_values(known[0], known[-1]))
    return ticks[(ticks >= known[0]) & (ticks <= known[-1])]


def _brief(value: float) -> str:
    return f"{value:.0f}" if 100 <= abs(value) < 1e5 else f"{value:.3g}"
