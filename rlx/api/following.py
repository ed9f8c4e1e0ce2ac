"""How `rlx.fit` follows a run: callbacks, the progress that it shows, and being interrupted."""

from __future__ import annotations

import html
import inspect
import signal
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rlx.api.arguments import as_list
from rlx.build import final_plan
from rlx.config import RunConfig, members
from rlx.errors import RlxError
from rlx.experiment import Moment
from rlx.runs import signals
from rlx.runs.console import Console, brief
from rlx.runs.summaries import Rates, duration

Progress = bool | Callable[[dict[str, Any]], Any] | None  # whether it is shown; or a function of each line of metrics
Callback = Callable[[dict[str, Any], Any], Any]  # (line of metrics, the agent's state [M, ...]) -> True to stop


class Interrupts(signals.Interrupts):
    """The first Ctrl-C ends the run in order; the second raises KeyboardInterrupt."""

    first = "rlx: {name}: ending, and returning what was learnt; once more raises KeyboardInterrupt"

    def again(self, number: int, name: str) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        super().again(number, name)


class Follower:
    """Collects what a run reports, for its result; see `rlx.runs.recording.Follower`."""

    def __init__(self, callbacks: Any, progress: Progress, in_folder: bool) -> None:
        self.callbacks, self.progress = check_callbacks(callbacks), check_progress(progress)
        self.interrupts = Interrupts(signals.NUMBERS if in_folder else (signal.SIGINT,))
        self.lines: list[dict[str, Any]] = []
        self.rates = Rates()
        self.run_config: RunConfig | None = None  # as it runs
        self.moment: Moment | None = None  # the last one
        self.evaluation: Any = None  # of the last moment, if it has one
        self.stopped = ""  # why the run ended early
        self.error: Exception | None = None  # of a callback
        self._begun = time.perf_counter()

    def clock(self) -> float:
        """Seconds since `fit` was called."""
        return time.perf_counter() - self._begun

    def console(self, run_config: RunConfig) -> Any:
        """What shows the run's progress: a bar in a notebook, a panel on a terminal, else nothing unless asked for."""
        self.run_config = run_config
        if self.progress is False or callable(self.progress):
            return Silent()
        if in_notebook():
            return NotebookBar(run_config)
        return Panel(run_config) if self.progress or sys.stdout.isatty() else Silent()

    def saw(self, line: dict[str, Any] | None, moment: Moment) -> bool:
        """Takes a report; returns whether a callback wants the run to end here."""
        self.moment, self.evaluation = moment, moment.report.evaluation
        if line is None:
            return False
        self.lines.append(line)
        self.rates.add(moment.report)
        try:
            if callable(self.progress):
                self.progress(line)
            if not self.callbacks:
                return False
            driver, report = moment.driver, moment.report
            state = driver.fetch(driver.policy_snapshot(report.state))["agent"]
            answers = [callback(line, state) for callback in self.callbacks]
        except KeyboardInterrupt:
            if self.interrupts.asked():  # the second Ctrl-C
                raise
            self.interrupts.number, self.stopped = signal.SIGINT, "interrupted"
            return True
        except Exception as error:
            self.error, self.stopped = error, "a callback failed"
            return True
        if any(answer is True for answer in answers):
            self.stopped = "stopped by a callback"
        return bool(self.stopped)


def check_callbacks(callbacks: Any) -> list[Callback]:
    """A function, or a list of them. Raises RlxError for what cannot be called with metrics and state."""
    checked = as_list(callbacks)
    for callback in checked:
        if not callable(callback):
            raise RlxError(f"callbacks: {callback!r} is no function; give functions of (metrics, state)")
        try:
            inspect.signature(callback).bind({}, None)
        except TypeError:
            raise RlxError(f"callbacks: {callback!r} must take two arguments, (metrics, state)") from None
        except ValueError:  # of some built-in functions nothing is known
            pass
    return checked


def check_progress(progress: Any) -> Progress:
    """Raises RlxError for what is neither true, false, None nor a function."""
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise RlxError(f"progress: {progress!r} is neither True, False nor a function of each line of metrics")
    return progress


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    interpreter = shell.get_ipython() if shell is not None and hasattr(shell, "get_ipython") else None
    return interpreter is not None and hasattr(interpreter, "kernel")


class Silent:
    """Shows nothing; the interface of `rlx.runs.console.Console`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def begin(self, phase: str) -> None:
        """Takes the host's next phase."""

    def show(self, line: dict[str, Any]) -> None:
        """Takes a line of metrics."""

    def finish(self, summary: dict[str, Any], folder: Any) -> None:
        """Hears the summary."""


class Panel(Console):
    """The command's panel, without a summary at the end."""

    def __init__(self, run_config: RunConfig) -> None:
        super().__init__(run_config, quiet=False, age_s=0.0)

    def finish(self, summary: dict[str, Any], folder: Any) -> None:
        pass


class NotebookBar(Silent):
    """A progress bar below a notebook's cell; needs no extension."""

    def __init__(self, run_config: RunConfig) -> None:
        plan, count = final_plan(run_config), len(members(run_config))
        self._title = f"{run_config.agent} on {run_config.env}" + (f", {count} runs" if count > 1 else "")
        self._total, self._step, self._news, self._phase = plan.run_step(plan.iterations), 0, "", "compiling"
        self._begun, self._handle = time.monotonic(), None

    def __enter__(self) -> Self:
        from IPython.display import display

        self._handle = display(self, display_id=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.begin("stopped" if error or self._step < self._total else "done")

    def begin(self, phase: str) -> None:
        self._phase = phase
        self._update()

    def show(self, line: dict[str, Any]) -> None:
        self._step = line["run_step"]
        self._news = brief(line) if "eval/return_mean" in line or not self._news else self._news
        self._update()

    def _update(self) -> None:
        if self._handle is not None:
            self._handle.update(self)

    def __repr__(self) -> str:
        seconds = duration(time.monotonic() - self._begun)
        parts = [self._title, f"{self._step:,} of {self._total:,} steps", seconds, self._phase, self._news]
        return "   ".join(filter(None, parts))

    def _repr_html_(self) -> str:
        style = "width: 16em; margin-right: 1em; vertical-align: middle"
        bar = f'<progress style="{style}" max="{self._total}" value="{self._step}"></progress>'
        return f'<div style="font-family: monospace">{bar}{html.escape(repr(self))}</div>'
