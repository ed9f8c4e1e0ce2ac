"""What a user is told: mistakes as exceptions of one line, and notes on the error stream. Imports nothing of JAX."""

from __future__ import annotations

import sys


class RlxError(Exception):
    """A user's mistake: one line that names the thing and the remedy. The command line prints it and exits with 2."""


def install(extra: str) -> str:
    """How to install an optional extra."""
    return f'in the clone, pip install -c constraints.txt -e ".[{extra}]"'


def say(text: str) -> None:
    """Prints one line on the error stream at once, since a command's output may go into a file."""
    print(text, file=sys.stderr, flush=True)


def say_compiling(what: str) -> None:
    """Says what begins now and that it compiles first; call it after everything that can be refused at once."""
    say(f"{what} (compiling takes 10 to 40 s, the next time less) ...")
