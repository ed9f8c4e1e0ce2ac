"""The command line, from what was typed to one of `rlx.commands`."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from rlx.commands import COMMANDS
from rlx.errors import RlxError, discard_output, nearest, say
from rlx.runs.signals import Interrupted

REMEDIES = {
    **{number: "make room" for number in (errno.ENOSPC, errno.EDQUOT)},
    **{number: "change the permissions, or choose another place" for number in (errno.EACCES, errno.EPERM)},
    errno.ENAMETOOLONG: "choose a shorter name",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. A user's mistake, or a system's refusal, is one line on the error stream and exit code 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may hold what the terminal cannot show
    try:
        try:
            return _dispatch(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except RlxError as error:
        say(f"rlx: {error}")
        return 2
    except Interrupted as end:
        say(f"rlx: {end}")
        return end.code
    except (RuntimeError, AssertionError) as error:  # jax raises either where a platform is missing
        if Path(traceback.extract_tb(error.__traceback__)[-1].filename).name != "xla_bridge.py":
            raise
        platforms = os.environ.get("JAX_PLATFORMS", "")
        say(f"rlx: JAX_PLATFORMS={platforms}: jax finds no such device here; unset it, or set it to cpu")
        return 2
    except KeyboardInterrupt:
        say("rlx: interrupted")
        return 130
    except BrokenPipeError:  # as in `rlx list | head`
        discard_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if not error.filename:
            discard_output()
        remedy = REMEDIES.get(error.errno or 0, "choose another place")
        say(f"rlx: {error.filename or 'the output'}: {error.strerror or error}; {remedy}")
        return 2


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
        close = nearest(arguments[0], [*COMMANDS, "--help", "--version"])
        raise RlxError(
            f"unknown command {arguments[0]!r}: " + (f"did you mean {close}?" if close else "see `rlx --help`")
        )
    return COMMANDS[arguments[0]](arguments[1:])
