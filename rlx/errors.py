"""What a user is told: mistakes as exceptions of one line, and notes on the error stream. Imports nothing of JAX."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable


class RlxError(Exception):
    """A user's mistake: one line that names the thing and the remedy. The command line prints it and exits with 2."""


def unknown(flag: str, value: str, choices: Iterable[str]) -> RlxError:
    """The error for a value that is none of `choices`, with the nearest of them."""
    known = list(choices)
    close = difflib.get_close_matches(value, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}"
    return RlxError(f"{flag} {value}: unknown; {hint}")


def install(extra: str) -> str:
    """How to install an optional extra."""
    return f'in the clone, pip install -c constraints.txt -e ".[{extra}]"'


def say(text: str) -> None:
    """Prints one line on the error stream at once, since a command's output may go into a file."""
    print(text, file=sys.stderr, flush=True)


def say_compiling(what: str) -> None:
    """Says what begins now and that it compiles first; call it after everything that can be refused at once."""
    say(f"{what} (compiling takes 10 to 40 s, the next time less) ...")
