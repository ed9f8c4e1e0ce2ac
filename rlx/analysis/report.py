"""A report of one or several runs as an HTML page: curves, scores, time, recorded episodes, settings and versions.

Everything is read from run folders: nothing is simulated, and no accelerator is needed.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlx.analysis import compare, curves, report_figures, run_data
from rlx.analysis.compare import Comparison
from rlx.analysis.curves import Curve
from rlx.analysis.report_figures import Picture, last
from rlx.analysis.run_data import Run
from rlx.envs import no_env
from rlx.errors import RlxError, say
from rlx.runs import summaries
from rlx.visual import markup, plots, viewer

PANES = 12  # runs whose first episode is shown


def make(folders: Sequence[Path], out: Path) -> Comparison | None:
    """Writes the report of runs into the folder `out`, and returns the scores in it; None where no run was evaluated.

    An unfinished run is shown up to its last evaluation, with a warning. `index.html` needs no other file; `figures/`
    holds its figures as PNG and SVG. Raises RlxError for runs that `curves.read` refuses, and where `out` exists and
    is not a report.
    """
    are_evaluated = any(map(curves.is_evaluated, folders))
    of_runs = curves.read(folders, unfinished=True) if are_evaluated else []
    _check_not_foreign(out)
    named = zip(folders, curves.names(folders), strict=True)
    runs = [run_data.read(folder, name, are_evaluated) for folder, name in named]
    end = "evaluation" if are_evaluated else "line of metrics"
    for folder, run in zip(folders, runs, strict=True):
        if run.unfinished:
            say(f"rlx: {folder}: is not finished ({run.unfinished}); the report ends at its last {end}")
    comparison = compare.compare(of_runs) if of_runs else None
    evaluated = comparison and report_figures.evaluated(runs, of_runs, comparison)
    pictures = evaluated or report_figures.trained(runs)
    report_figures.write(out / "figures", pictures)
    with viewer.writing(out / "index.html"):
        viewer.page(out / "index.html", _title(runs), markup.STYLE, _body(runs, of_runs, comparison, pictures))
    return comparison


def _check_not_foreign(out: Path) -> None:
    """Raises RlxError where something other than a report would be overwritten."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "index.html").is_file() or not viewer.is_ours(out / "index.html"):
        raise RlxError(f"{out}: already exists and is not a report of rlx; choose another --out")


# ---- the page --------------------------------------------------------------------------------------------------------


def _title(runs: Sequence[Run]) -> str:
    agents = list(dict.fromkeys(run.summary["agent"] for run in runs))
    env = str(runs[0].summary["env"])
    return f"{', '.join(agents)} on {'data without an environment' if no_env.is_none(env) else env}"


def _body(
    runs: Sequence[Run], curves: Sequence[Curve], comparison: Comparison | None, pictures: Sequence[Picture]
) -> str:
    colors = {curve.name: plots.color(i) for i, curve in enumerate(curves)}
    drawn = {p.stem: (plots.svg(p.figure, p.stem), p.alt, p.caption) for p in pictures}
    backend = runs[0].summary["backend"]
    about = " · ".join([*(run.name for run in runs), *([f"{backend} backend"] if backend else [])])
    figures = [markup.figure(*drawn[stem]) for stem in drawn if stem not in ("scores", "time")]
    rows = [markup.side_by_side(*figures[i : i + 2]) for i in range(0, len(figures), 2)]
    if comparison:
        scores = _scores(runs, comparison, colors, drawn.get("scores"))
        parts = [markup.tiles(_tiles(runs[0], comparison)) if len(curves) == 1 else ""]
        parts += [markup.card("Learning curves", *rows), _player(runs)]
        parts += [markup.card(f"{last(runs).capitalize()} scores", *scores)]
    else:
        text = "No policy was evaluated: these are metrics of the updates."
        parts = [markup.tiles(_rates(runs[0])) if len(runs) == 1 else ""]
        parts += [markup.card("Training", markup.note(text), *rows)]
    parts = [
        f'<h1>{html.escape(_title(runs))}</h1><p class="about">{html.escape(about)}</p>',
        *(markup.warning(f"{run.name} is not finished: {run.unfinished}") for run in runs if run.unfinished),
        *parts,
        markup.card("Time", *_time(runs, colors, drawn.get("time"))),
        markup.card("Configuration", *_configuration(runs, colors)),
    ]
    return f'<div class="sheet">{"".join(parts)}</div>'


def _tiles(run: Run, comparison: Comparison) -> list[tuple[str, str]]:
    (row,) = comparison.rows
    spread = f", 95 % interval {row.iqm.low:,.1f} to {row.iqm.high:,.1f}" if row.seeds > 1 else ""
    middle = "interquartile mean" if row.seeds >= 4 else "mean"
    of = f"{middle} of {row.seeds} seeds" if row.seeds > 1 else "one seed"
    tiles = [(f"{row.iqm.estimate:,.1f}", f"{last([run])} return, {of}{spread}")]
    tiles.append((f"{row.steps:,}", summaries.counted(run.content["settings"])))
    tiles.append((summaries.duration(row.wall_s), "to the last evaluation"))
    return [*tiles, *_rate(run.summary)]


def _rates(run: Run) -> list[tuple[str, str]]:
    """The tiles of a run that nobody evaluates."""
    line = run.lines[-1]
    tiles = [(f"{line['run_step']:,}", summaries.counted(run.content["settings"]))]
    tiles += [(summaries.duration(line["wall_time_s"]), "to the last line of metrics")] * ("wall_time_s" in line)
    return [*tiles, *_rate(run.summary)]


def _rate(summary: dict[str, Any]) -> list[tuple[str, str]]:
    name, key = ("environment steps", "env_steps_per_s") if summary.get("env_steps") else ("updates", "updates_per_s")
    return [] if summary.get(key) is None else [(f"{summary[key]:,.0f}", f"{name} per second")]


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
        interval = markup.subtitle(f"{last(runs).capitalize()} return with its interval") + markup.figure(*drawn)
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
