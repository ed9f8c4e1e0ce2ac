"""The figures of a report: learning curves, scores and seconds, or the losses of runs that nobody evaluates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rlx.analysis import curves, run_data
from rlx.analysis.compare import Comparison
from rlx.analysis.curves import Curve
from rlx.analysis.run_data import Run
from rlx.errors import RlxError
from rlx.runs import summaries
from rlx.visual import plots, viewer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = ("return-steps", "return-time", "scores", "time")  # names of files, each as PNG and SVG
SECONDS = "seconds since the run began (all its seeds together)"
LOSSES = 12  # figures of training metrics at most
SIZE = (6, 4)  # of a learning curve, in inches: two fit side by side


class Picture(NamedTuple):
    """A figure with the name of its file, a text alternative and a caption."""

    stem: str
    figure: Figure
    alt: str
    caption: str


def evaluated(runs: Sequence[Run], curves: Sequence[Curve], comparison: Comparison) -> list[Picture]:
    """Returns against steps and seconds, the last scores, and what the seconds were spent on."""
    steps = _counted(runs)
    single = [curve.name for curve in curves if curve.values.shape[1] == 1]
    bands = "the band is the 95 % bootstrap interval over seeds" if len(single) < len(curves) else ""
    legend = ["thin lines are seeds"] * (len(curves) == 1 and not single) + [bands] * bool(bands)
    legend += [f"{', '.join(single)}: one seed, so there is no band"] * bool(single)

    def learning_curve(stem: str, x: Callable[[Curve], Any], counted: str, caption: str) -> Picture:
        series = [plots.Series(curve.name, x(curve), curve.values) for curve in curves]
        return Picture(stem, plots.curve(series, counted, size=SIZE), f"return against {counted}", caption)

    text = f"Greedy return at each evaluation; {'; '.join(legend)}."
    pictures = [learning_curve("return-steps", lambda curve: curve.steps, steps, text)]
    text = "The same against wall time, which includes compiling, evaluating and saving."
    pictures.append(learning_curve("return-time", lambda curve: curve.wall_s, SECONDS, text))
    if len(curves) > len(single):
        rows = {row.name: row.iqm for row in comparison.rows}
        text = "Interquartile mean over seeds of the last evaluation, with its 95 % bootstrap interval."
        value = f"{last(runs)} return"
        pictures.append(Picture("scores", plots.intervals(rows, value), f"{value} of each run", text))
    return [*pictures, *_seconds(runs)]


def trained(runs: Sequence[Run]) -> list[Picture]:
    """Curves of what the runs' updates logged, losses first. Raises RlxError where that is nothing."""
    last = [{name: x for line in run.lines for name, x in line.items() if isinstance(x, list)} for run in runs]
    shared = sorted(set.intersection(*map(set, last)), key=lambda name: (not name.endswith("loss"), name))
    pictures = []
    for name in shared:
        if not name.startswith("train/") or any(None in values[name] for values in last):  # None was not finite
            continue
        of_runs = curves.read([run.folder for run in runs], name, unfinished=True)
        if all(np.ptp(curve.values) == 0 for curve in of_runs):  # such as episodes, of which there are none
            continue
        label, steps = name.removeprefix("train/").replace("_", " "), _counted(runs)
        figure = plots.curve([plots.Series(c.name, c.steps, c.values) for c in of_runs], steps, size=SIZE)
        figure.axes[0].set_ylabel(label)
        stem = f"train-{label.replace('/', '-').replace(' ', '-')}"
        pictures.append(Picture(stem, figure, f"{label} against {steps}", f"{label}, means since the line before."))
    if not pictures:
        raise RlxError(
            f"{runs[0].folder}: has no evaluation and no line of metrics yet; wait until it has learned for a while"
        )
    return [*pictures[:LOSSES], *_seconds(runs)]


def last(runs: Sequence[Run]) -> str:
    """The word for the last evaluations."""
    return "last" if any(run.unfinished for run in runs) else "final"


def _counted(runs: Sequence[Run]) -> str:
    """What the runs' steps are, in words."""
    counts = {summaries.counted(run.content["settings"]) for run in runs}
    return counts.pop() if len(counts) == 1 else "steps per seed (updates where a run is offline)"


def _seconds(runs: Sequence[Run]) -> list[Picture]:
    """The figure of seconds by activity, none where no run has recorded them."""
    seconds = {run.name: run_data.time_split(run.summary, run.lines, run.content["settings"]) for run in runs}
    if not any(seconds.values()):
        return []
    text = "What the host spent the run's seconds on."
    return [Picture("time", plots.durations(seconds), "seconds by activity", text)]


def write(folder: Path, pictures: Sequence[Picture]) -> None:
    """Writes every figure as PNG and SVG, and removes those of a report before this one."""
    with viewer.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for kind in ("png", "svg"):
            for old in [*(folder / f"{stem}.{kind}" for stem in FIGURES), *folder.glob(f"train-*.{kind}")]:
                old.unlink(missing_ok=True)
            for picture in pictures:
                plots.save(picture.figure, folder / f"{picture.stem}.{kind}")
