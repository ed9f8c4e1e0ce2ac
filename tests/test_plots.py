"""Every picture has its labels, and as many lines, bands and bars as were asked for."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from rlx import statistics
from rlx.visual import plots
from tests import processes

STEPS = np.arange(4) * 1000
RETURNS = np.random.default_rng(0).normal(size=(4, 5))


def legend(figure: Figure) -> list[str]:
    match = figure.axes[0].get_legend() or figure.legends[0]
    return [text.get_text() for text in match.get_texts()]


def test_one_series_has_a_line_for_every_seed_their_middle_and_a_band(tmp_path: Path) -> None:
    figure = plots.curve([plots.Series("sac", STEPS, RETURNS)], title="sac on brax:ant")
    (axes,) = figure.axes
    *seeds, middle = axes.get_lines()
    np.testing.assert_array_equal(np.stack([line.get_ydata() for line in seeds], axis=1), RETURNS)
    np.testing.assert_allclose(np.asarray(middle.get_ydata()), statistics.interquartile_mean(RETURNS))
    assert middle.get_linewidth() > 2 * seeds[0].get_linewidth()
    assert axes.get_title("left") == "sac on brax:ant"
    assert "environment steps" in axes.get_xlabel() and "return" in axes.get_ylabel()
    assert legend(figure) == ["sac: interquartile mean of 5 seeds"]
    plots.save(figure, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_several_series_have_a_line_and_a_band_each() -> None:
    """Each at steps of its own; one seed has no band, and fewer than four a plain mean."""
    drawn = [plots.Series("a", STEPS, RETURNS), plots.Series("b", STEPS[:3] * 2, RETURNS[:3, :2])]
    drawn += [plots.Series("", STEPS, RETURNS[:, :1])]
    figure = plots.curve(drawn, "updates")
    (axes,) = figure.axes
    lines, bands = axes.get_lines(), axes.collections
    assert (len(lines), len(bands)) == (3, 2)
    for line, series in zip(lines, drawn, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), series.x)
    assert len({line.get_color() for line in lines}) == 3
    edges = np.unique(np.asarray(bands[0].get_paths()[0].vertices)[:, 1].round(12))
    result = statistics.bootstrap_band(RETURNS)
    assert set(np.concatenate([result.low, result.high]).round(12)) <= set(edges)
    assert axes.get_xlabel() == "updates"
    assert legend(figure) == ["a: interquartile mean of 5 seeds", "b: mean of 2 seeds", "1 seed"]


@pytest.mark.parametrize("name", ["_hidden", "a$^$", "$5"])
def test_names_are_shown_as_they_are(name: str, tmp_path: Path) -> None:
    """Neither left out nor read as mathematics, wherever they stand."""
    curve = plots.curve([plots.Series(name, STEPS, RETURNS)] * 2, title=name)
    bars = plots.durations({name: {"learn": 1.0}})
    dots = plots.intervals({name: statistics.Interval(3.0, 2.0, 5.0)})
    assert plots.svg(curve, "a").count(f">{name}: interquartile mean of 5 seeds<") == 2
    assert all(f">{name}<" in plots.svg(figure, "a") for figure in (curve, bars, dots))


def test_gaps_and_colors_of_lines() -> None:
    """Where a return is missing, the line of their middle has a gap; colours that return are dashed."""
    holed = RETURNS.copy()
    holed[1, 2] = np.nan
    *_, middle = plots.curve([plots.Series("a", STEPS, holed)]).axes[0].get_lines()
    assert np.isnan(np.asarray(middle.get_ydata(), float)).tolist() == [False, True, False, False]
    lines = plots.curve([plots.Series(str(i), STEPS, RETURNS[:, :1] + i) for i in range(8)]).axes[0].get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 8


@pytest.mark.parametrize("first", [0, 10, 2000])
def test_steps_begin_at_none(first: int) -> None:
    """With room for a marker that stands at the edge."""
    low, high = plots.curve([plots.Series("a", STEPS + first, RETURNS)]).axes[0].get_xlim()
    assert low == (0 if first == 2000 else pytest.approx(first - 60))
    assert high == pytest.approx(first + 3060)


def test_intervals() -> None:
    rows = {"good": statistics.Interval(3.0, 2.0, 5.0), "bad": statistics.Interval(-1.0, -2.0, 0.5)}
    figure = plots.intervals(rows, "final return")
    (axes,) = figure.axes
    bars, dots = axes.get_lines()[::2], axes.get_lines()[1::2]
    assert [list(bar.get_xdata()) for bar in bars] == [[2, 5], [-2, 0.5]]
    assert [list(dot.get_xdata()) for dot in dots] == [[3], [-1]]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["good", "bad"]
    assert axes.yaxis_inverted() and axes.get_xlabel() == "final return"


def test_durations() -> None:
    """Parts follow each other in the run's own order; one that a run lacks has no width there."""
    figure = plots.durations({"a": {"compile": 2.0, "learn": 5.0}, "b": {"save": 1.0, "learn": 4.0}})
    (axes,) = figure.axes
    spans = [[(bar.get_x(), bar.get_width()) for bar in part.patches] for part in axes.containers]  # type: ignore[attr-defined]
    assert spans == [[(0, 2), (0, 0)], [(2, 5), (1, 4)], [(0, 0), (0, 1)]]
    assert legend(figure) == ["compile", "learn", "save"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"] and axes.get_xlabel() == "seconds"


@pytest.mark.parametrize("name", ["one", "other"])
def test_svg_goes_into_a_page(name: str) -> None:
    """Text is text, identifiers are the figure's own, and nothing points outside."""
    result = plots.svg(plots.curve([plots.Series("sac", STEPS, RETURNS)]), name)
    assert result.startswith("<svg") and result.endswith("</svg>")
    for text in ("environment steps per seed", "episode return", "sac: interquartile mean of 5 seeds"):
        assert f">{text}" in result
    assert not re.search(r"https?:|<metadata", result)
    owned: Any = re.findall(r'(?:\bid="|="#|url\(#)([^")]*)', result)
    assert owned and all(word.startswith(f"{name}-") for word in owned)
    used = set(re.findall(r'(?:="#|url\(#)([^")]*)', result))
    assert used <= set(re.findall(r'\bid="([^"]*)', result))


@pytest.mark.slow
def test_importing_leaves_matplotlib_alone() -> None:
    modules = "rlx.visual.plots, rlx.analysis.report, rlx.analysis.play"
    code = f"import sys, {modules}; sys.exit('matplotlib.figure' in sys.modules)"
    assert processes.python("-c", code).returncode == 0
