"""One page that says what runs did: curves, scores, where the time went, the robot moving, and what made them.

Everything is read from run folders: nothing is simulated, and no accelerator is needed.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlx.analysis import compare, run_data
from rlx.analysis.compare import Comparison, Curve
from rlx.analysis.run_data import Run
from rlx.errors import RlxError, say
from rlx.runs import summaries
from rlx.visual import markup, plots, viewer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = ("return-steps", "return-time", "scores", "time")  # files that a report may hold, each as PNG and SVG
PANES = 12  # runs whose first episode is shown
SECONDS = "seconds since the run began (all its seeds together)"
SIZE = (6, 4)  # of a learning curve, in inches: two fit beside each other


class Picture(NamedTuple):
    """A figure with its file's name, what it is in words, and its caption."""

    stem: str
    figure: Figure
    words: str
    caption: str


def make(folders: Sequence[Path], out: Path) -> Comparison:
    """Writes the report of runs into the folder `out`, and returns the scores that it tells of.

    Of a run that is not finished it shows what there is, and says so. `index.html` needs no other file; `figures/`
    holds its figures as PNG and SVG. Raises RlxError for runs that `compare.read` refuses, and where `out` is there
    already and is no report.
    """
    curves = compare.read(folders, unfinished=True)
    _refuse_others(out)
    runs = [run_data.read(folder, name) for folder, name in zip(folders, compare.names(folders), strict=True)]
    for folder, run in zip(folders, runs, strict=True):
        if run.unfinished:
            say(f"rlx: {folder}: is not finished ({run.unfinished}); the report shows what there is")
    found = compare.compare(curves)
    pictures = _pictures(runs, curves, found)
    _write_figures(out / "figures", pictures)
    with viewer.writing(out / "index.html"):
        viewer.page(out / "index.html", _title(runs), markup.STYLE, _body(runs, curves, found, pictures))
    return found


def _refuse_others(out: Path) -> None:
    """Raises RlxError where something else than a report would be written over."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "index.html").is_file() or not viewer.is_ours(out / "index.html"):
        raise RlxError(f"{out}: is there already and is no report of rlx; choose another --out")


def _write_figures(folder: Path, pictures: Sequence[Picture]) -> None:
    with viewer.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in (f"{stem}.{kind}" for stem in FIGURES for kind in ("png", "svg")):
            (folder / name).unlink(missing_ok=True)  # of a report before this one
        for picture in pictures:
            for kind in ("png", "svg"):
                plots.save(picture.figure, folder / f"{picture.stem}.{kind}")


# ---- figures ---------------------------------------------------------------------------------------------------------


def _pictures(runs: Sequence[Run], curves: Sequence[Curve], found: Comparison) -> list[Picture]:
    counts = {summaries.counted(run.content["settings"]) for run in runs}
    steps = counts.pop() if len(counts) == 1 else "steps per seed (updates where a run is offline)"
    alone = [curve.name for curve in curves if curve.values.shape[1] == 1]
    bands = "the band is the 95 % bootstrap interval over seeds" if len(alone) < len(curves) else ""
    said = ["thin lines are seeds"] * (len(curves) == 1 and not alone) + [bands] * bool(bands)
    said += [f"{', '.join(alone)}: one seed, so there is no band"] * bool(alone)

    def drawn(stem: str, x: Callable[[Curve], Any], counted: str, caption: str) -> Picture:
        series = [plots.Series(curve.name, x(curve), curve.values) for curve in curves]
        return Picture(stem, plots.curve(series, counted, size=SIZE), f"return against {counted}", caption)

    text = f"Greedy return at each evaluation; {'; '.join(said)}."
    made = [drawn("return-steps", lambda curve: curve.steps, steps, text)]
    text = "The same against wall time: compiling, evaluating and saving are part of it."
    made.append(drawn("return-time", lambda curve: curve.wall_s, SECONDS, text))
    if len(curves) > len(alone):
        rows = {row.name: row.iqm for row in found.rows}
        text = "Interquartile mean over seeds of the last evaluation, with its 95 % bootstrap interval."
        value = f"{_last(runs)} return"
        made.append(Picture("scores", plots.intervals(rows, value), f"{value} of each run", text))
    spent = {run.name: run_data.time_split(run.summary, run.lines, run.content["settings"]) for run in runs}
    if any(spent.values()):
        text = "Where the run's seconds went, as the host saw them."
        made.append(Picture("time", plots.durations(spent), "seconds by what they were spent on", text))
    return made


# ---- the page --------------------------------------------------------------------------------------------------------


def _title(runs: Sequence[Run]) -> str:
    agents = list(dict.fromkeys(run.summary["agent"] for run in runs))
    return f"{', '.join(agents)} on {runs[0].summary['env']}"


def _body(runs: Sequence[Run], curves: Sequence[Curve], found: Comparison, pictures: Sequence[Picture]) -> str:
    colors = {curve.name: plots.color(i) for i, curve in enumerate(curves)}
    drawn = {p.stem: (plots.svg(p.figure, p.stem), p.words, p.caption) for p in pictures}
    backend = runs[0].summary["backend"]
    about = " · ".join([*(run.name for run in runs), *([f"{backend} backend"] if backend else [])])
    parts = [
        f'<h1>{html.escape(_title(runs))}</h1><p class="about">{html.escape(about)}</p>',
        *(markup.warning(f"{run.name} is not finished: {run.unfinished}") for run in runs if run.unfinished),
        markup.tiles(_tiles(runs[0], found)) if len(curves) == 1 else "",
        markup.card("Learning curves", markup.beside(*(markup.figure(*drawn[stem]) for stem in FIGURES[:2]))),
        _player(runs),
        markup.card(f"{_last(runs).capitalize()} scores", *_scores(runs, found, colors, drawn.get("scores"))),
        markup.card("Time", *_time(runs, colors, drawn.get("time"))),
        markup.card("Configuration", *_configuration(runs, colors)),
    ]
    return f'<div class="sheet">{"".join(parts)}</div>'


def _last(runs: Sequence[Run]) -> str:
    """What the last evaluations are called."""
    return "last" if any(run.unfinished for run in runs) else "final"


def _tiles(run: Run, found: Comparison) -> list[tuple[str, str]]:
    (row,), summary = found.rows, run.summary
    spread = f", 95 % interval {row.iqm.low:,.1f} to {row.iqm.high:,.1f}" if row.seeds > 1 else ""
    middle = "interquartile mean" if row.seeds >= 4 else "mean"
    of = f"{middle} of {row.seeds} seeds" if row.seeds > 1 else "one seed"
    shown = [(f"{row.iqm.estimate:,.1f}", f"{_last([run])} return, {of}{spread}")]
    shown.append((f"{row.steps:,}", summaries.counted(run.content["settings"])))
    shown.append((summaries.duration(row.wall_s), "to the last evaluation"))
    if "env_steps_per_s" in summary:
        name = "environment steps" if summary["env_steps"] else "updates"
        rate = summary["env_steps_per_s"] or summary["updates_per_s"]
        shown.append((f"{rate:,.0f}", f"{name} per second"))
    return shown


def _scores(
    runs: Sequence[Run], found: Comparison, colors: dict[str, str], drawn: tuple[str, str, str] | None
) -> list[str]:
    first, *pairs = compare.tables(found)
    final = [
        f"{run.name}: {line}"
        for run in runs
        if "eval_return_iqm" in run.summary
        for line in summaries.in_words(run.summary)
    ]
    parts = [markup.table(first, colors)]
    if found.thresholds:
        text = "Steps and seconds to a return: the first evaluation whose interquartile mean over seeds was no lower."
        parts.append(markup.note(text))
    chances = ""
    for table in pairs:
        chances = markup.subtitle("Probability of improvement") + markup.table(table, colors)
        chances += markup.note("How likely a seed of the row ends above one of the column, with 95 % intervals.")
    if drawn:
        interval = markup.subtitle(f"{_last(runs).capitalize()} return with its interval") + markup.figure(*drawn)
        parts.append(markup.beside(interval, chances))
    elif chances:
        parts.append(chances)
    if final:
        parts += [markup.subtitle("Final policies, intervals over seeds and episodes"), markup.words(final)]
    return parts


def _player(runs: Sequence[Run]) -> str:
    """The episodes of one run, or the first of each of several, from the pages that training left."""
    told = [(run, data) for run in runs if (data := viewer.recorded(run.folder / "rollout.html"))][:PANES]
    if not told:
        text = "No run here left a rollout.html to show; training writes it when it ends."
        return markup.card("Rollout", markup.note(text))
    (_, data), *_ = told
    if len(runs) > 1:
        firsts = [episode | {"label": run.name} for run, one in told for episode in one["episodes"][:1]]
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
        whole = summary.get("wall_time_s")
        for name, seconds in run_data.time_split(summary, run.lines, settings).items():
            add(name, i, summaries.duration(seconds) + (f" ({seconds / whole:.0%})" if whole else ""))
        for role, share in run_data.busy(run.lines).items():
            add(f"{role} busy", i, f"{share:.0%} of an iteration")
        if whole:
            add("in all", i, summaries.duration(whole))
        for key, name in (("time_to_first_update_s", "first update after"), ("compile_s", "all compilers' work")):
            if key in summary:
                add(name, i, summaries.duration(summary[key]))
        for key, name in (("env_steps_per_s", "environment steps/s"), ("updates_per_s", "updates/s")):
            if summary.get(key):
                add(name, i, f"{summary[key]:,.0f}")
    text = "Compilers work beside each other and beside training; rates are of all seeds, after the first stretch."
    if any(not run_data.busy(run.lines) and run.content["settings"].get("total_env_steps") for run in runs):
        text += " Where one program collects and learns, the two cannot be told apart."
    if any(run_data.busy(run.lines) for run in runs):
        text += " The roles of a pipeline work at once: busy is the share of an iteration in which each did."
    table = markup.table([["", *(run.name for run in runs)], *([name, *cells] for name, cells in rows.items())], colors)
    return [markup.beside(markup.figure(*drawn), table) if drawn else table, markup.note(text)]


def _configuration(runs: Sequence[Run], colors: dict[str, str]) -> list[str]:
    changed, rest = run_data.settings_table(runs)
    origin = [["", *(run.name for run in runs)], *run_data.origin_table(runs)]
    parts = [markup.subtitle("Settings that are not the default")]
    parts += [markup.table(changed, colors) if len(changed) > 1 else markup.note("Every setting is the default.")]
    parts += [markup.note("What the preset of the environment changes is among them.")]
    parts += [markup.fold(f"{len(rest) - 1} settings at their defaults", markup.table(rest))]
    made = markup.subtitle("What made it") + markup.table(origin, colors)
    return [markup.beside("".join(parts), made)] if len(runs) == 1 else [*parts, made]
