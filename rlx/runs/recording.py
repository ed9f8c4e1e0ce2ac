"""A run while it trains: its reports become metrics, checkpoints, log lines and a summary in its folder."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from rlx import json_files, parallel
from rlx.build import Setup, parts
from rlx.config import RunConfig
from rlx.errors import RlxError, say
from rlx.experiment import Moment, run
from rlx.runs import folders, loggers, metrics, saver, summaries
from rlx.runs.console import Console
from rlx.runs.signals import Interrupted, Interrupts
from rlx.train import report as reports
from rlx.train.loop import Driver, Report, Resumed


class Follower(Protocol):
    """What in this process follows a run from report to report, such as `rlx.fit`."""

    @property
    def interrupts(self) -> Interrupts: ...

    def clock(self) -> float:
        """Seconds since the run, or this part of it, was asked for."""
        ...

    def console(self, run_config: RunConfig) -> Console:
        """What shows the run's progress."""
        ...

    def saw(self, line: dict[str, Any] | None, moment: Moment) -> bool:
        """Takes a report, and its line of metrics if that is new; returns whether the run should end here."""
        ...


def warn(text: str) -> None:
    """Prints a warning."""
    say(f"rlx: {text}")


class Start(NamedTuple):
    """What a run begins with."""

    snapshot: Any = None  # the policy of another run
    resumed: Resumed | None = None
    run_step: int = -1  # up to which it was done before
    restore_s: float | None = None  # for finding, verifying and reading the checkpoint


@contextlib.contextmanager
def marked(folder: Path) -> Iterator[None]:
    """Notes in the folder that the run goes on, and then how it ended."""
    if not parallel.is_first_process():
        yield
        return
    try:
        folders.mark(folder, "running")
        yield
        folders.mark(folder, "finished")
    except Interrupted as end:
        folders.mark(folder, "interrupted", str(end))
        raise
    except BaseException as error:
        with contextlib.suppress(OSError):
            folders.mark(folder, "failed", f"{type(error).__name__}: {error}".splitlines()[0])
        if isinstance(error, OSError) and error.errno:
            remedy = f"make room, then go on with `rlx train --resume {shlex.quote(str(folder))}`"
            raise RlxError(f"{folder}: cannot be written ({error.strerror}); {remedy}") from None
        raise


def record(
    prepared: Setup,
    driver: Driver,
    start: Start,
    folder: Path,
    console: Console,
    interrupts: Interrupts,
    follower: Follower | None,
) -> dict[str, Any]:
    """Trains from wherever the run stands, in the part of `driver`, to its end; returns the summary."""
    writes, age_s = parallel.is_first_process(), follower.clock if follower else reports.process_age_s
    checkpoints, rates = saver.Saver(prepared.config, folder), summaries.Rates()
    checkpoints.remove_after(start.run_step)
    spent_s = metrics.cut(folder / "metrics.jsonl", start.run_step, warn) if writes else 0.0
    for note in (*prepared.notes, *_notes(prepared.config)):
        warn(note)
    sinks = loggers.Sinks(prepared.config if writes else None, folder, start.run_step, warn)
    warned_of_outliers = warned_of_edges = False
    with checkpoints, sinks, console, open_metrics(folder, writes) as lines:
        for moment in run(prepared, driver, start.snapshot, start.resumed, interrupts.asked, console.begin):
            report = moment.report
            line = reports.record(report, spent_s + age_s())
            if is_new := bool(report.metrics) and report.run_step > start.run_step:
                lines.write(json.dumps(line) + "\n")
                lines.flush()
                rates.add(report)
                sinks.write(line)
                console.show(line)
            if report.evaluation and (diverged := reports.nonfinite_episodes(report.evaluation)):
                warn(f"step {report.run_step:,}: {diverged}")
            if not warned_of_outliers and (outliers := reports.outliers(report, prepared.config.train)):
                warned_of_outliers = True  # metrics.jsonl counts all of them
                warn(outliers)
            if not warned_of_edges and (edges := reports.edge_mass(report)):
                warned_of_edges = True
                warn(edges)
            if follower and follower.saw(line if is_new else None, moment) and not is_last(prepared, moment):
                report = report._replace(saves=True, ended=True)
                moment = moment._replace(report=report)
            if report.saves or report.saves_policy:
                console.begin("saving")
            checkpoints.save(moment)
            if report.ended:
                checkpoints.wait()
                _leave(folder, report, interrupts)
        console.begin("saving")
        checkpoints.wait()
        if writes and report.evaluation is not None:  # there is none without an environment
            summaries.write_pictures(folder, prepared.config, moment.driver, report.evaluation)
    summary = summaries.summarise(prepared, moment, rates, checkpoints)
    if writes:
        if start.restore_s is not None:
            summary["restore_s"] = round(start.restore_s, 3)
        write_summary(folder, summary, spent_s + age_s())
        console.finish(summary, folder)
    return summary


def write_summary(folder: Path, summary: dict[str, Any], wall_time_s: float) -> None:
    """Completes a summary and writes summary.json."""
    summary["wall_time_s"] = round(wall_time_s, 2)
    all_lines = metrics.read(folder / "metrics.jsonl")  # also those from before the run was resumed
    summary["time_to_first_update_s"] = metrics.first_update_s(all_lines)
    json_files.write(folder / "summary.json", summary)


def is_last(prepared: Setup, moment: Moment) -> bool:
    """Whether a report is that of a run's end."""
    at_end = moment.report.iteration == moment.driver.task.plan.iterations
    return at_end and moment.offline == parts(prepared.config)[-1]


def _notes(run_config: RunConfig) -> list[str]:
    if run_config.train.checkpoint_replay or not run_config.train.total_env_steps:
        return []
    return [
        "replay is not saved: a resumed run collects the warm-up's steps into an empty one before it learns on,"
        " and ends in other bits"
    ]


def _leave(folder: Path, report: Report, interrupts: Interrupts) -> None:
    number = interrupts.number or 15  # of several processes, another one had the signal
    remedy = f"go on with `rlx train --resume {shlex.quote(str(folder))}`"
    raise Interrupted(number, f"saved at step {report.run_step} in {folder}; {remedy}")


def open_metrics(folder: Path, writes: bool) -> IO[str]:
    """Where metrics go: metrics.jsonl, or nowhere in the processes that do not write."""
    return json_files.open_to_append(folder / "metrics.jsonl") if writes else open(os.devnull, "w")
