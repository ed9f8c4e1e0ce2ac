"""What a person sees while a run trains: a progress bar on a terminal, plain lines elsewhere, then a summary."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from rlx.config import RunConfig, members
from rlx.experiment import final_plan
from rlx.results import in_words


def brief(line: dict[str, Any]) -> str:
    """One line of metrics in words: the greedy return where there is one, else that of the episodes while training."""
    if "eval/return_mean" in line:
        return f"greedy return {_number(line['eval/return_mean'])}"
    returns = line.get("train/episode_return")
    if not returns:
        return "no episode has ended yet"
    return f"training return {_number(None if None in returns else sum(returns) / len(returns))}"


def _number(value: float | None) -> str:
    return "not a number: the run has diverged" if value is None else f"{value:.1f}"


class Console:
    """Shows the lines of a run as they come."""

    def __init__(self, run_config: RunConfig, quiet: bool) -> None:
        self._terminal = Terminal(quiet=quiet, highlight=False, emoji=False)
        self._summary = Terminal(highlight=False, emoji=False)
        plan, count = final_plan(run_config), len(members(run_config))
        self._total = plan.run_step(plan.ticks)
        self._title = f"{run_config.agent} on {run_config.env}" + (f", {count} runs" if count > 1 else "")
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps"),
        )
        times = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[brief]}")
        self._progress = Progress(*columns, *times, console=self._terminal)
        self._task = self._progress.add_task(self._title, total=self._total, brief="compiling")

    def __enter__(self) -> Self:
        if self._terminal.is_terminal:
            self._progress.start()
        else:
            self._terminal.print(f"{self._title}: compiling")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, line: dict[str, Any]) -> None:
        """Moves the bar, or prints a line where nobody watches a bar: then evaluations only."""
        if self._terminal.is_terminal:
            self._progress.update(self._task, completed=line["run_step"], brief=brief(line))
        elif "eval/return_mean" in line:
            self._terminal.print(f"{line['wall_time_s']:8.1f} s  {line['run_step']:>12,} steps  {brief(line)}")

    def finish(self, summary: dict[str, Any], folder: Path) -> None:
        """The summary, also when quiet."""
        table = Table(title=self._title, show_header=False)
        per_seed = ", ".join(f"{value:.1f}" for value in summary["eval_return_per_seed"])
        env, critic, actor = (summary[f"{name}_steps"] for name in ("env", "critic", "actor"))
        env_rate, update_rate = summary["env_steps_per_s"], summary["updates_per_s"]
        episodes = summary["eval_episodes"]
        rows = {
            "greedy episodes": "\n".join(in_words(summary)),
            "per seed": f"{per_seed}, each over {episodes} episodes",
            "steps": f"{env:,} environment, {critic:,} critic, {actor:,} actor",
            "speed": f"{env_rate:,.0f} environment steps/s, {update_rate:,.0f} updates/s",
            "time": f"{summary['wall_time_s']:.1f} s; first update after {summary['time_to_first_update_s']:.1f} s",
            "run folder": str(folder),
            "watch it": str(folder / "rollout.html"),
            "judge it again": f"rlx eval {folder}",
        }
        for name, value in rows.items():
            table.add_row(name, value)
        self._summary.print(table)
