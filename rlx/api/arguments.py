"""Messages for Python: those about flags, with the names of arguments."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from rlx.errors import RlxError

P = ParamSpec("P")
R = TypeVar("R")

COMMAND = re.compile(r"(`[^`]*`)")  # stays as it is
FLAG = re.compile(r"(?<![=\w])--(no-)?([a-z][a-z0-9-]*)(?: (\S+?)(?=[:;,]?(?:\s|$)))?")
NUMBER = re.compile(r"[-+]?\d[\d.,:e+-]*")
WORDS = ("fused", "pipelined", "skip", "reset-env", "stop", "seeds", "data", "threads", "vmap", "range")  # of choices


def speaks_python(function: Callable[P, R]) -> Callable[P, R]:
    """`function` with errors that name arguments: `num_envs=0: must be at least 1`, not `--num-envs 0`."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except RlxError as error:
            text = in_python(str(error))
            if text == str(error):
                raise
            raise type(error)(text) from None

    return call


def in_python(message: str) -> str:
    """A message with its flags as arguments; commands between backticks stay."""
    parts = COMMAND.split(message)
    return "".join(part if i % 2 else FLAG.sub(_argument, part) for i, part in enumerate(parts))


def _argument(match: re.Match[str]) -> str:
    negated, flag, value = match[1], match[2], match[3]
    name = flag.replace("-", "_")
    opens = match.start() == 0 and match.string[match.end() : match.end() + 1] == ":"  # the value that was passed
    if negated:
        return f"{name}=False" + (f" {value}" if value else "")
    if value is None:
        return name
    if NUMBER.fullmatch(value):
        return f"{name}={value!r}" if ":" in value or value.count(",") else f"{name}={value}"
    if opens or value in WORDS:
        is_python = value in ("True", "False", "None", "nan", "inf") or value[0] in "'\"(["
        return f"{name}={value}" if is_python else f"{name}={value!r}"
    return f"{name} {value}"


def as_list(value: Any) -> list[Any]:
    """One object, or a list or tuple of them, as a list; None as an empty one."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def check_kind(name: str, value: Any, kinds: type | tuple[type, ...], wanted: str) -> None:
    """Raises RlxError where an argument is of another type."""
    if not isinstance(value, kinds):
        raise RlxError(f"{name}: is of type {type(value).__name__}; give {wanted}")
