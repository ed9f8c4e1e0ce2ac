"""A report of one or several runs as an HTML page: curves, scores, time, recorded episodes, settings and versions.

Everything is read from run folders: nothing is simulated, and no accelerator is needed.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlx.analysis import compare, curves, run_data
from rlx.analysis.compare import Comparison
from rlx.analysis.curves import Curve
from rlx.analysis.run_data import Run
from rlx.errors import RlxError, say
from rlx.runs import summaries
from rlx.visual import markup, plots, viewer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = ("return-steps", "return-time", "scores", "time")  # names of files, each as PNG and SVG
PANES = 12  # runs whose first episode is shown
SECONDS = "seconds since the run began (all its seeds together)"
SIZE = (6, 4)  # of a learning curve, in inches: two fit side by side


class Picture(NamedTuple):
    """A figure with the name of its file, a text alternative and a caption."""

    stem: str
    figure: Figure
    alt: str
    caption: str


def make(folders: Sequence[Path], out: Path) -> Comparison:
    """Writes the report of runs into the folder `out`, and returns the scores in it.

    An unfinished run is shown up to its last evaluation, with a warning. `index.html` needs no other file; `figures/`
    holds its figures as PNG and SVG. Raises RlxError for runs that `curves.read` refuses, and where `out` exists and
    is not a report.
    """
    of_runs = curves.read(folders, unfinished=True)
    _check_not_foreign(out)
    runs = [run_data.read(folder, name) for folder, name in zip(folders, curves.names(folders), strict=True)]
    for folder, run in zip(folders, runs, strict=True):
        if run.unfinished:
            say(f"rlx: {folder}: is not finished ({run.unfinished}); the report ends at its last evaluation")
    comparison = compare.compare(of_runs)
    pictures = _pictures(runs, of_runs, comparison)
    _write_figures(out / "figures", pictures)
    with viewer.writing(out / "index.html"):
        viewer.page(out / "index.html", _title(runs), markup.STYLE, _body(runs, of_runs, comparison, pictures))
    return comparison


def _check_not_foreign(out: Path) -> None:
    """Raises RlxError where something other than a report would be overwritten."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "index.html").is_file() or not viewer.is_ours(out / "index.html"):
        raise RlxError(f"{out}: already exists and is not a report of rlx; choose another --out")


def _write_figures(folder: Path, pictures: Sequence[Picture]) -> None:
    with viewer.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in (f"{stem}.{kind}" for stem in FIGURES for kind in ("png", "svg")):
            (folder / name).unlink(missing_ok=True)  # of a report before this one
        for picture in pictures:
            for kind in ("png", "svg"):
                plots.save(picture.figure, folder / f"{picture.stem}.{kind}")


# ---- figures ---------------------------------------------------------------------------------------------------------


def _pictures(runs: Sequence[Run], curves: Sequence[Curve], comparison: Comparison) -> list[Picture]:
    counts = {summaries.counted(run.content["settings"]) for run in runs}
    steps = counts.pop() if len(counts) == 1 else "steps per seed (updates where a run is offline)"
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
        value = f"{_last(runs)} return"
        pictures.append(Picture("scores", plots.intervals(rows, value), f"{value} of each run", text))
    seconds = {run.name: run_data.time_split(run.summary, run.lines, run.content["settings"]) for run in runs}
    if any(seconds.values()):
        text = "What the host spent the run's seconds on."
        pictures.append(Picture("time", plots.durations(seconds), "seconds by activity", text))
    return pictures


# ---- the page --------------------------------------------------------------------------------------------------------


def _title(runs: Sequence[Run]) -> str:
    agents = list(dict.fromkeys(run.summary["agent"] for run in runs))
    return f"{', '.join(agents)} on {runs[0].summary['env']}"


def _body(runs: Sequence[Run], curves: Sequence[Curve], comparison: Comparison, pictures: Sequence[Picture]) -> str:
    colors = {curve.name: plots.color(i) for i, curve in enumerate(curves)}
    drawn = {p.stem: (plots.svg(p.figure, p.stem), p.alt, p.caption) for p in pictures}
    backend = runs[0].summary["backend"]
    about = " · ".join([*(run.name for run in runs), *([f"{backend} backend"] if backend else [])])
    parts = [
        f'<h1>{html.escape(_title(runs))}</h1><p class="about">{html.escape(about)}</p>',
        *(markup.warning(f"{run.name} is not finished: {run.unfinished}") for run in runs if run.unfinished),
        markup.tiles(_tiles(runs[0], comparison)) if len(curves) == 1 else "",
        markup.card("Learning curves", markup.side_by_side(*(markup.figure(*drawn[stem]) for stem in FIGURES[:2]))),
        _player(runs),
        markup.card(f"{_last(runs).capitalize()} scores", *_scores(runs, comparison, colors, drawn.get("scores"))),
        markup.card("Time", *_time(runs, colors, drawn.get("time"))),
        markup.card("Configuration", *_configuration(runs, colors)),
    ]
    return f'<div class="sheet">{"".join(parts)}</div>'


def _last(runs: Sequence[Run]) -> str:
    """The word for the last evaluations."""
    return "last" if any(run.unfinished for run in runs) else "final"


def _tiles(run: Run, comparison: Comparison) -> list[tuple[str, str]]:
    (row,), summary = comparison.rows, run.summary
    spread = f", 95 % interval {row.iqm.low:,.1f} to {row.iqm.high:,.1f}" if row.seeds > 1 else ""
    middle = "interquartile mean" if row.seeds >= 4 else "mean"
    of = f"{middle} of {row.seeds} seeds" if row.seeds > 1 else "one seed"
    tiles = [(f"{row.iqm.estimate:,.1f}", f"{_last([run])} return, {of}{spread}")]
    tiles.append((f"{row.steps:,}", summaries.counted(run.content["settings"])))
    tiles.append((summaries.duration(row.wall_s), "to the last evaluation"))
    name, key = ("environment steps", "env_steps_per_s") if summary.get("env_steps") else ("updates", "updates_per_s")
    if (rate := summary.get(key)) is not None:
        tiles.append((f"{rate:,.0f}", f"{name} per second"))
    return tiles


def _scores(
    runs: Sequence[Run], comparison: Comparison, colors: dict[str, str], drawn: tuple[str, str, str] | None
) -> list[str]:
    first, *pairs = compare.tables(comparison)
    final = [f"{run.name}: {line}" for run in runs for line in _final_words(run)]
    parts = [markup.table(first, colors)]
    if comparison.thresholds:
        text = "Steps and seconds to a return: the first evaluation whose interquartile mean over seeds reached it."
        parts.append(markup.note(text))
    chances = ""
    for table in pairs:
        chances = markup.subtitle("Probability of improvement") + markup.table(table, colors)
        chances += markup.note("How likely a seed of the row ends above one of the column, with 95 % intervals.")
    if drawn:
        interval = markup.subtitle(f"{_last(runs).capitalize()} return with its interval") + markup.figure(*drawn)
        parts.append(markup.side_by_side(interval, chances))
    elif chances:
        parts.append(chances)
    if final:
        parts += [markup.subtitle("Final policies, intervals over seeds and episodes"), markup.words(final)]
    return parts


def _final_words(run: Run) -> list[str]:
    """The final evaluation in words; empty where the summary lacks it, or where it was not finite."""
    try:
        return summaries.in_words(run.summary)
    except (KeyError, TypeError):
        return []


def _player(runs: Sequence[Run]) -> str:
    """The episodes of one run, or the first of each of several, from the pages that training wrote."""
    recordings: list[tuple[Run, dict[str, Any]]] = []
    for run in runs:
        path = run.folder / "rollout.html"
        if data := viewer.recorded(path):
            recordings.append((run, data))
        elif path.exists():
            say(f"rlx: {path}: is not a page of episodes that rlx wrote; left out")
    if not recordings:
        text = "No run here has a rollout.html to show; training writes it at its end."
        return markup.card("Rollout", markup.note(text))
    (_, data), *_ = recordings
    if len(runs) > 1:
        recordings = recordings[:PANES]
        firsts = [episode | {"label": run.name} for run, one in recordings for episode in one["episodes"][:1]]
        data = data | {"episodes": firsts, "title": "The final policies, one episode each"}
    else:
        labelled = [{"label": f"episode {i}"} | one for i, one in enumerate(data["episodes"], 1)]
        data = data | {"episodes": labelled, "title": "The final policy"}
    return f'<section class="card player">{viewer.player(data, "grid")}</section>'


def _time(runs: Sequence[Run], colors: dict[str, str], drawn: tuple[str, str, str] | None) -> list[str]:
    rows: dict[str, list[str]] = {}

    def add(name: str, i: int, text: str) -> None:
        rows.setdefault(name, ["-"] * len(runs))[i] = text

    for i, run in enumerate(runs):
        summary, settings = run.summary, run.content["settings"]
        total = summary.get("wall_time_s")
        for name, seconds in run_data.time_split(summary, run.lines, settings).items():
            add(name, i, summaries.duration(seconds) + (f" ({seconds / total:.0%})" if total else ""))
        for role, share in run_data.busy(run.lines).items():
            add(f"{role} busy", i, f"{share:.0%} of an iteration")
        if total:
            add("total", i, summaries.duration(total))
        for key, name in (("time_to_first_update_s", "first update after"), ("compile_s", "compilers, summed")):
            if summary.get(key) is not None:
                add(name, i, summaries.duration(summary[key]))
        for key, name in (("env_steps_per_s", "environment steps/s"), ("updates_per_s", "updates/s")):
            if summary.get(key):
                add(name, i, f"{summary[key]:,.0f}")
    text = "Programs compile in parallel and while training runs; rates are of all seeds, after the first epoch."
    if any(not run_data.busy(run.lines) and run.content["settings"].get("total_env_steps") for run in runs):
        text += " One program collects and learns, so the time of each is not known separately."
    if any(run_data.busy(run.lines) for run in runs):
        text += (
            " The roles of a pipeline work at the same time: busy is the share of an iteration in which a role works."
        )
    table = markup.table([["", *(run.name for run in runs)], *([name, *cells] for name, cells in rows.items())], colors)
    return [markup.side_by_side(markup.figure(*drawn), table) if drawn else table, markup.note(text)]


def _configuration(runs: Sequence[Run], colors: dict[str, str]) -> list[str]:
    changed, rest = run_data.settings_table(runs)
    origin = [["", *(run.name for run in runs)], *run_data.origin_table(runs)]
    parts = [markup.subtitle("Settings that differ from the defaults")]
    parts += [markup.table(changed, colors) if len(changed) > 1 else markup.note("Every setting is the default.")]
    parts += [markup.note("Changes by the environment's preset are included.")]
    parts += [markup.fold(f"{len(rest) - 1} settings at their defaults", markup.table(rest))]
    origins = markup.subtitle("Versions and hardware") + markup.table(origin, colors)
    return [markup.side_by_side("".join(parts), origins)] if len(runs) == 1 else [*parts, origins]
