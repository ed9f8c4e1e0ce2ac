"""Every command of `rlx`: a function of its arguments that returns the exit code; its docstring begins with its help.

Whatever takes long to import is imported inside the functions, after their arguments were read.
"""

from __future__ import annotations

from collections.abc import Callable

from rlx.commands.datasets import collect, data
from rlx.commands.estimating import ope
from rlx.commands.looking import compare, diff, evaluate, export, list_names, runs
from rlx.commands.pages import play, report
from rlx.commands.studying import study
from rlx.commands.sweeping import sweep
from rlx.commands.training import train

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "sweep": sweep,
    "study": study,
    "eval": evaluate,
    "collect": collect,
    "data": data,
    "runs": runs,
    "diff": diff,
    "compare": compare,
    "ope": ope,
    "report": report,
    "play": play,
    "export": export,
    "list": list_names,
}
