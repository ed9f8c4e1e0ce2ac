"""Settings of an environment as text, `name=value`: how the command line gives them and config.json keeps them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rlx import json_files
from rlx.errors import RlxError

FLAG = "--env-args"
PYTHON = {"True": True, "False": False, "None": None}


def parse(texts: Iterable[str]) -> dict[str, Any]:
    """`["g=9.81", "reward_type=sparse"]` as a dictionary; values are JSON or Python's constants, else text.

    Raises RlxError for what is no `name=value`, for a name that comes twice, and for a number that is not finite.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise RlxError(f"{FLAG} {text}: must be name=value, as episode_length=500")
        if name in values:
            raise RlxError(f"{FLAG} {text}: {name} comes twice; give it once")
        values[name] = _value(value)
        _check_numbers(text, value)
    return values


def _check_numbers(setting: str, value: str) -> None:
    """Raises RlxError for JSON with a number that is not finite, or longer than int64."""
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return  # it is text
    try:
        json_files.parse(value)
    except ValueError as error:
        raise RlxError(f"{FLAG} {setting}: holds {error}; give another value") from None


def _value(text: str) -> Any:
    if text in PYTHON:
        return PYTHON[text]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def texts(values: Mapping[str, Any]) -> list[str]:
    """What `parse` reads as `values`. Raises RlxError for a value that is neither text nor JSON."""
    return [f"{name}={_text(name, value)}" for name, value in values.items()]


def merge(old: Iterable[str], new: Iterable[str]) -> tuple[str, ...]:
    """Settings `old` with those of `new` in place of the same names, or added."""
    return tuple(texts(parse(old) | parse(new)))


def _text(name: str, value: Any) -> str:
    if isinstance(value, str) and _value(value) == value:
        return value
    value = value.tolist() if hasattr(value, "tolist") else value  # NumPy's and JAX's
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        what = f"{name} is of type {type(value).__name__}"
        raise RlxError(f"env_args: {what}; give numbers, texts, lists, or make the environment yourself") from None
