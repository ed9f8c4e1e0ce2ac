"""What a user's mistake raises; a file of its own because the command line must not import JAX to say `--help`."""

from __future__ import annotations


class RlxError(Exception):
    """A user's mistake: one line that names the thing and the remedy. The command line prints it and exits with 2."""


def install(extra: str) -> str:
    """How to add what only some people need."""
    return f'in the clone, pip install -c constraints.txt -e ".[{extra}]"'
