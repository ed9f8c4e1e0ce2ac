"""Metadata of data sets, checked where it is read, so that no run fails over it after its training."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlx.data.limits import AGAIN, printable
from rlx.errors import RlxError

DEPTH = 16  # of nested lists and records
LETTERS = 10_000  # of one text


def check_info(path: Path, info: Any) -> dict[str, Any]:
    """A copy of `info`: known fields are of their kinds, texts such that a terminal can show them; None is absent.

    Raises RlxError, naming the field, for what does not fit.
    """
    if not isinstance(info, dict):
        raise _misfit(path, "info", "a record")
    for name, (fits, kind) in FIELDS.items():
        if info.get(name) is not None and not fits(info[name]):
            raise _misfit(path, name, kind)
    return {printable(name): _clean(path, name, value, DEPTH) for name, value in info.items()}


def _misfit(path: Path, name: str, kind: str) -> RlxError:
    return RlxError(f"{path} is not what Minari writes: {printable(name)} of the data set is not {kind}; {AGAIN}")


def _clean(path: Path, name: str, value: Any, depth: int) -> Any:
    """JSON values without control characters, of bounded depth and size."""
    if depth == 0:
        raise _misfit(path, name, f"nested at most {DEPTH} deep")
    if isinstance(value, str):
        return printable(value, LETTERS)
    if isinstance(value, list):
        return [_clean(path, name, x, depth - 1) for x in value]
    if isinstance(value, dict):
        return {printable(key): _clean(path, name, x, depth - 1) for key, x in value.items()}
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise _misfit(path, name, "a number of at most 64 bits")
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return known and abs(value) < 2**127 and math.isfinite(value)  # what float32 holds


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_behaviours(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and _is_text(one.get("name"))
        and (one.get("step") is None or isinstance(one["step"], int))
        and _is_number(one.get("return"))
        and _is_number(one.get("greedy_return"))
        for one in value
    )


def _are_ranges(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(one, list)
        and len(one) == 2
        and all(isinstance(x, int) for x in one)
        and 0 <= one[0] < one[1] < 2**31
        for one in value.values()
    )


TEXT, NUMBER, TEXTS = (_is_text, "a text"), (_is_number, "a finite number"), (_are_texts, "a list of texts")
FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("name", "format", "env", "backend", "kind", "agent", "run", "env_id"), TEXT),
    **dict.fromkeys(("random_return", "expert_return", "behaviour_return", "noise"), NUMBER),
    "greedy": (lambda value: isinstance(value, bool), "true or false"),
    **dict.fromkeys(("notes", "missing", "env_args", "env_params", "wrappers", "randomize"), TEXTS),
    "episode_length": (_is_count, "an integer of at least 1"),
    "observation_parts": (_are_ranges, "a record of ranges, each of two integers"),
    "behaviours": (_are_behaviours, "a list of records with name, step, return and greedy_return"),
}
