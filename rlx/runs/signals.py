"""How a run is asked to end: SIGTERM (a machine is taken away), SIGINT (Ctrl-C), SIGHUP (its terminal was closed)."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Self

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Interrupted(Exception):
    """The run was asked to end, and did so in order; `code` is the process's exit code."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.code = 128 + number


class Interrupts:
    """While entered, the first signal is noted in `number`; a second leaves at once, without saving.

    A SIGHUP that is ignored, as under nohup, stays so.
    """

    first = "rlx: {name}: saving, then leaving; once more leaves at once"

    def __init__(self, numbers: Sequence[int] = NUMBERS) -> None:
        self.number: int | None = None
        self._numbers = numbers
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # signals reach no other
            numbers = [n for n in self._numbers if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        name = signal.Signals(number).name
        if self.number is not None:
            self.again(number, name)
        self.number = number
        _say(self.first.format(name=name))

    def again(self, number: int, name: str) -> None:
        """What a second signal does."""
        _say(f"rlx: {name} again: leaving at once; the last checkpoint is intact")
        os._exit(128 + number)

    def asked(self) -> bool:
        """Whether a signal came."""
        return self.number is not None


def _say(text: str) -> None:
    """Past all buffers: the signal may have come in the middle of a print."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())
