"""What the terminal shows while a run trains: a panel on a terminal, plain lines elsewhere, then a summary.

It shows lines of metrics that the host has anyway: nothing here waits for a device.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlx import parallel
from rlx.build import final_plan
from rlx.config import RunConfig, member_names, members
from rlx.envs import no_env
from rlx.errors import discard_output, printable, say
from rlx.runs.summaries import duration, in_words
from rlx.train import report
from rlx.train.config import TrainConfig
from rlx.train.placement import asked_split, lay_out
from rlx.train.plan import make_offline_plan

BLOCKS = "▁▂▃▄▅▆▇█"
SPARKS = 24  # values that a sparkline shows
RECENT = 10  # lines from which the time left is estimated
MANY = 12  # members whose returns are no longer listed one by one
GREEDY, TRAINING = "eval/return_per_seed", "train/episode_return"
OVER = ("done", "stopped")  # last phases


def brief(line: dict[str, Any]) -> str:
    """One line of metrics in words: the greedy return where there is one, else that of the episodes while training."""
    if "eval/return_mean" in line:
        nominal = line.get("eval/nominal_return_mean")
        also = "" if nominal is None else f", nominal {_number(nominal)}"
        return f"greedy return {_number(line['eval/return_mean'])}{also}"
    returns = line.get(TRAINING)
    losses = {name: _mean(x) for name, x in line.items() if name.endswith("_loss") and isinstance(x, list)}
    if not returns and not line.get("env_step") and losses:
        return "  ".join(f"{name.removeprefix('train/')} {_digits(x)}" for name, x in losses.items())
    return f"training return {_number(_mean(returns))}" if returns else "no episode has ended yet"


def _number(value: float | None) -> str:
    return "not a number: the run has diverged" if value is None else f"{value:.1f}"


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _mean(values: Sequence[float | None]) -> float | None:
    """Of all members; None where one of them is no number."""
    known = [x for x in values if x is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def sparkline(values: Sequence[float | None], width: int = SPARKS) -> str:
    """The newest values as a row of bars, each the mean of as many as it takes to fit; "·" where one is no number."""
    each = math.ceil(len(values) / width) if values else 1
    means = [_mean(values[i : i + each]) for i in range(0, len(values), each)]
    known = [x for x in means if x is not None]
    low, span = (min(known), max(known) - min(known)) if known else (0.0, 0.0)
    level = (len(BLOCKS) - 1) / span if span > 0 else 0.0
    return "".join("·" if x is None else BLOCKS[round((x - low) * level)] for x in means)


class Terminal(RichConsole):
    """Rich's console; where its output is lost (a closed pipe or terminal, a full disk), the run goes on without it."""

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError as error:
            self._lose(error)

    def on_broken_pipe(self) -> None:
        self._lose(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))

    def _lose(self, error: OSError) -> None:
        if not self.quiet:
            self.quiet = True
            say(f"rlx: the output is lost ({error.strerror or error}); the run goes on, and is saved, without it")
        del self._buffer[:]
        discard_output()


class PanelContent:
    """The text of the panel, from lines of metrics."""

    def __init__(self, title: str, total: int, count: int, devices: int) -> None:
        self.title, self.total, self.count = title, total, count
        self.line: dict[str, Any] = {}
        self.before: dict[str, Any] = {}
        self.returns: dict[str, list[float | None]] = {GREEDY: [], TRAINING: []}
        self.latest: dict[str, list[float | None]] = {}
        self.pace: deque[tuple[int, float]] = deque(maxlen=RECENT)  # (run_step, seconds) of lines that learned
        self.memory: parallel.Memory | None = None
        self.phase = "compiling"
        self.updated = self.begun = time.monotonic()
        self.device = f"{devices} x {parallel.describe()['kind']}".removeprefix("1 x ")

    def add(self, line: dict[str, Any]) -> None:
        """The next line of metrics."""
        self.before, self.line, self.updated = self.line, line, time.monotonic()
        self.memory = parallel.memory_in_use()
        for name, history in self.returns.items():
            if line.get(name):
                self.latest[name] = line[name]
                history.append(_mean(line[name]))
        if line["critic_step"]:
            self.pace.append((line["run_step"], line["wall_time_s"]))

    def left_s(self) -> float | None:
        """Seconds to the end, at the pace of the last lines."""
        if len(self.pace) < 2 or self.pace[-1][0] == self.pace[0][0]:
            return None
        (step, begun), (last, ended) = self.pace[0], self.pace[-1]
        at_line = (ended - begun) / (last - step) * (self.total - last)
        return max(0.0, at_line - (time.monotonic() - self.updated))

    def _rate(self, counter: str) -> str:
        """Of all members together, a second of training since the line before."""
        seconds, steps = self.line.get("train_s", 0), self.line[counter] - self.before.get(counter, 0)
        return f"{steps * self.count / seconds:,.0f}/s now" if seconds and self.before else "-"

    def _returns(self, name: str, ascii_only: bool) -> Text:
        values = self.latest[name]
        text = Text(_number(_mean(values)), style="bold" if name == GREEDY else "")
        known = [x for x in values if x is not None]
        if not ascii_only:
            text.append(f"  {sparkline(self.returns[name])}", style="cyan")
        if len(known) > 1:
            text.append(f"  seeds from {min(known):.1f} to {max(known):.1f}", style="dim")
        return text

    def rows(self, ascii_only: bool) -> dict[str, Text]:
        """What is known, by name; bars only where the terminal can show them."""
        line, rows = self.line, {}
        if line:
            updates = f"{line['critic_step']:,} critic, {line['actor_step']:,} actor"
            rows["steps"] = Text(f"{self._rate('env_step')}  {line['env_step']:,}" + " a run" * (self.count > 1))
            rows["updates"] = Text(f"{self._rate('critic_step')}  {updates}")
            if GREEDY in self.latest:
                rows["greedy"] = self._returns(GREEDY, ascii_only)
            if TRAINING in self.latest:
                rows["training"] = self._returns(TRAINING, ascii_only)
            losses = {name: _mean(x) for name, x in line.items() if name.endswith("_loss") and isinstance(x, list)}
            if losses:
                shown = (
                    f"of {name.removeprefix('train/').removesuffix('_loss')} {_digits(x)}" for name, x in losses.items()
                )
                rows["losses"] = Text("  ".join(shown))
        rows["device"] = Text(self.device)
        if self.memory is not None:
            rows["memory"] = Text(str(self.memory))
        return rows

    def __rich_console__(self, terminal: RichConsole, options: ConsoleOptions) -> RenderResult:
        step, elapsed, left = self.line.get("run_step", 0), time.monotonic() - self.begun, self.left_s()
        progress = [f"{step:,} of {self.total:,} steps", duration(elapsed)]
        progress += [self.phase] if self.phase != "training" or not left else []
        progress += [f"{duration(left)} left"] if left and self.phase not in OVER else []
        head, table = Table.grid(expand=True), Table.grid(padding=(0, 2))
        head.add_row(ProgressBar(total=self.total, completed=step))
        head.add_row(Text("   ".join(progress), no_wrap=True, overflow="ellipsis"))
        table.add_column(style="dim", no_wrap=True, min_width=8)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for name, text in self.rows(options.ascii_only).items():
            table.add_row(name, text)
        yield Panel(Group(head, table), title=Text(self.title), title_align="left", border_style="blue")


class Console:
    """Shows the lines of a run as they come."""

    def __init__(self, run_config: RunConfig, quiet: bool, part_of: str = "", age_s: float | None = None) -> None:
        verbatim: dict[str, Any] = {"highlight": False, "emoji": False, "markup": False}  # paths may hold any sign
        self._terminal = Terminal(quiet=quiet, **verbatim)
        self._summary = Terminal(quiet=bool(part_of), **verbatim)
        plan, count = final_plan(run_config), len(members(run_config))
        self._title = f"{run_config.agent} on {run_config.env}" + (f", {count} members" if count > 1 else "")
        if part_of:
            self._title = f"{part_of}: {self._title}"
        self._panel = PanelContent(self._title, plan.run_step(plan.iterations), count, _devices(run_config.train))
        if not part_of:
            self._panel.begun -= report.process_age_s() if age_s is None else age_s  # as all other seconds of a run
        self._live = Live(self._panel, console=self._terminal, refresh_per_second=2)
        self._rounded, self._no_env = rounded(run_config), no_env.is_none(run_config.env)
        self._labels = member_names(members(run_config))

    def __enter__(self) -> Self:
        for line in self._rounded:
            self._terminal.print(line, soft_wrap=True)
        if self._terminal.is_terminal:
            self._live.start()
        else:
            self._terminal.print(f"{self._title}: compiling")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.begin(OVER[error is not None])
        self._live.stop()

    def begin(self, phase: str) -> None:
        """Says on the panel what the host turns to: compiling, evaluating, saving."""
        self._panel.phase = phase

    def show(self, line: dict[str, Any]) -> None:
        """Renews the panel, or prints a line where there is no terminal: then evaluations only."""
        if self._terminal.is_terminal:
            self._panel.add(line)
        elif "eval/return_mean" in line or self._no_env:
            self._terminal.print(f"{line['wall_time_s']:8.1f} s  {line['run_step']:>12,} steps  {brief(line)}")

    def finish(self, summary: dict[str, Any], folder: Path) -> None:
        """The summary, also when quiet; a part of a sweep has none."""
        table = Table(title=self._title, show_header=False)
        env, critic, actor = (summary[f"{name}_steps"] for name in ("env", "critic", "actor"))
        env_rate, update_rate = summary["env_steps_per_s"], summary["updates_per_s"]
        steps = [f"{critic:,} critic", f"{actor:,} actor"]
        speed = [f"{update_rate:,.0f} updates/s"]
        if env:  # offline there are none
            steps, speed = [f"{env:,} environment", *steps], [f"{env_rate:,.0f} environment steps/s", *speed]
        first_s, count = summary["time_to_first_update_s"], self._panel.count
        first = "" if first_s is None else f", first update after {first_s:.1f} s"
        rows = {"greedy episodes": "none: the run has no environment"}
        if not self._no_env:
            returns, episodes = summary["eval_return_per_seed"], summary["eval_episodes"]
            kind = "member" if any(self._labels) else "seed"  # members with equal hyper-parameters are seeds
            rows = {"greedy episodes": "\n".join(in_words(summary, f"{kind}s"))}
            rows[f"per {kind}"] = f"{_each(returns, self._labels)}, each over {episodes} episodes"
        rows |= {
            "steps": ", ".join(steps),
            "speed": ", ".join(speed) + " on average" + (", of all members together" if count > 1 else ""),
            "time": f"{summary['wall_time_s']:.1f} s in all{first}",
            "run folder": str(folder),
        }
        if not self._no_env:
            rows |= {"watch it": str(folder / "rollout.html"), "evaluate it again": f"rlx eval {folder}"}
        for name, value in rows.items():
            table.add_row(name, printable(value))
        self._summary.print(table)


def rounded(run_config: RunConfig) -> list[str]:
    """Totals that are rounded up to full iterations, a line each."""
    plan, train = final_plan(run_config), run_config.train
    offline = make_offline_plan(train, plan.shards) if train.offline_steps else plan
    updates = offline.iterations * offline.iteration_steps if train.offline_steps else 0
    parts = (
        ("updates on the data set", train.offline_steps, updates, offline.iteration_steps),
        (
            "environment steps",
            train.total_env_steps,
            plan.iterations * plan.iteration_env_steps,
            plan.iteration_env_steps,
        ),
    )
    return [
        f"{made:,} {what}: {total:,} rounded up to a multiple of {iteration:,} (one iteration)"
        for what, total, made, iteration in parts
        if made > total
    ]


def _devices(train: TrainConfig) -> int:
    """How many devices a run works on."""
    return len({device for group in lay_out(train, asked_split(train)).groups for device in group})


def _each(returns: Sequence[float], labels: Sequence[str]) -> str:
    """Returns one by one, each with its member's label, or of many the ends and the middle."""
    if len(returns) <= MANY:
        pairs = zip(labels, returns, strict=True)
        return ", ".join(f"{label}: {value:.1f}".removeprefix(": ") for label, value in pairs)
    low, *_, high = ordered = sorted(returns)
    return f"{low:.1f} to {high:.1f}, the middle one {ordered[len(ordered) // 2]:.1f}, of {len(ordered)}"
