"""Messages to the user: mistakes as exceptions of one line, notes on the error stream. Imports nothing of JAX."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Iterable


class RlxError(Exception):
    """A user's mistake: one line that names the thing and the remedy. The command line prints it and exits with 2."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The nearest of the known names, in whatever case; None where none is near."""
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[close[0]] if close else None


def unknown(flag: str, value: str, choices: Iterable[str]) -> RlxError:
    """The error for a value that is not one of `choices`; it names the nearest of them."""
    known = list(choices)
    close = nearest(value, known)
    hint = f"did you mean {close}?" if close else f"choose from {', '.join(known)}"
    return RlxError(f"{flag} {value}: unknown; {hint}")


def printable(text: str) -> str:
    """`text`, which may come from anybody's file, as a terminal may show it: control characters are escaped."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else repr(sign)[1:-1] for sign in text)


def install(extra: str) -> str:
    """How to install an optional extra."""
    return f'in the clone, pip install -c constraints.txt -e ".[{extra}]"'


def say(text: str) -> None:
    """Prints one line on the error stream at once, since a command's output may go into a file.

    A terminal that was closed ends nothing.
    """
    with contextlib.suppress(OSError, ValueError):
        print(printable(text).replace("\n", " "), file=sys.stderr, flush=True)


def discard_output() -> None:
    """From here on, what is printed on the output is discarded: its reader has closed it, or its disk is full."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        sys.stdout.flush()


def say_compiling(activity: str) -> None:
    """Says what begins now and that it compiles first; call it after everything that can be refused at once."""
    say(f"{activity} (compiling takes 10 s to 2 minutes, the next time less) ...")
