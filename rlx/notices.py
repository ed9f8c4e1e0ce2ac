"""What a person is told beside a command's output: on the error stream, since the output may go into a file."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """One line, at once."""
    print(text, file=sys.stderr, flush=True)


def say_compiling(what: str) -> None:
    """What begins now, and why nothing will be heard for a while; to be said after all that can be refused at once."""
    say(f"{what} (compiling takes 10 to 40 s, the next time less) ...")
