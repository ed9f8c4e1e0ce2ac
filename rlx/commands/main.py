"""The command line, from what was typed to one of `rlx.commands`."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from rlx.commands import COMMANDS
from rlx.errors import RlxError
from rlx.runs.signals import Interrupted


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. A user's mistake is one line on the error stream and exit code 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(arguments)
    except RlxError as error:
        print(f"rlx: {error}", file=sys.stderr)
        return 2
    except Interrupted as end:
        print(f"rlx: {end}", file=sys.stderr)
        return end.code
    except (RuntimeError, AssertionError) as error:  # jax raises either where a platform is missing
        if Path(traceback.extract_tb(error.__traceback__)[-1].filename).name != "xla_bridge.py":
            raise
        asked = os.environ.get("JAX_PLATFORMS", "")
        print(f"rlx: JAX_PLATFORMS={asked}: jax finds no such device here; unset it, or set it to cpu", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rlx: interrupted", file=sys.stderr)
        return 130


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: rlx COMMAND ...\n\ncommands:")
        for name, command in COMMANDS.items():
            print(f"  {name:8}{(command.__doc__ or '').splitlines()[0]}")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from rlx import __version__

        print(f"rlx {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        from difflib import get_close_matches

        close = get_close_matches(arguments[0], [*COMMANDS, "--help", "--version"], n=1)
        raise RlxError(
            f"unknown command {arguments[0]!r}: " + (f"did you mean {close[0]}?" if close else "see `rlx --help`")
        )
    return COMMANDS[arguments[0]](arguments[1:])
