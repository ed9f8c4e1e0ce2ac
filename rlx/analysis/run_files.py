"""Reads the files of a run folder. They may be damaged or foreign, so every value that is used is checked here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlx import json_files
from rlx.data.limits import printable
from rlx.errors import RlxError
from rlx.runs import metrics

Check = Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _list_of(check: Check, length: int | None = None) -> Check:
    return lambda value: isinstance(value, list) and length in (None, len(value)) and all(map(check, value))


def _mapping_to(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _is_members(value: Any) -> bool:
    """Whether a value is a list of seeds and hyper-parameters, one mapping of the same keys for each member."""
    return _list_of(_mapping_to(_is_number))(value) and len({frozenset(member) for member in value}) == 1


def _is_scalar(value: Any) -> bool:
    return _or_null(lambda x: isinstance(x, (str, bool)) or _is_number(x))(value)


_numbers = _list_of(_or_null(_is_number))  # JSON has null where a number was not finite

CONFIG: dict[str, Check] = {
    "agent": _is_text,
    "env": _is_text,
    "backend": _or_null(_is_text),
    "init_from": _or_null(_is_text),
    "settings": _mapping_to(lambda value: _is_scalar(value) or _list_of(_is_scalar)(value)),
    "versions": _mapping_to(_is_text),
    "hardware": _mapping_to(_is_scalar),
}
SUMMARY: dict[str, Check] = {
    "agent": _is_text,
    "env": _is_text,
    "backend": _or_null(_is_text),
    "members": _is_members,
    "env_steps": _is_count,
    "no_score": _is_text,
    "wall_time_s": _is_number,
    "_interval": _list_of(_or_null(_is_number), 2),
    "_per_seed": _numbers,
    **dict.fromkeys(("_mean", "_iqm", "_return", "_score", "_s"), _or_null(_is_number)),
}
LINE: dict[str, Check] = {
    "run_step": _is_count,
    "wall_time_s": _is_number,
    "_per_seed": _numbers,
    "_s": _or_null(_is_number),
}


def config(folder: Path) -> dict[str, Any]:
    """The content of config.json. Raises RlxError where it is missing, damaged or foreign."""
    path = folder / "config.json"
    return _checked(path, json_files.read(path), CONFIG)


def summary(folder: Path) -> dict[str, Any]:
    """The content of summary.json. Raises RlxError where it is missing, damaged or foreign."""
    path = folder / "summary.json"
    return _checked(path, json_files.read(path), SUMMARY)


def lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, none where there is no such file. Raises RlxError where it is damaged or foreign."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    written = metrics.read(path)
    for number, line in enumerate(written, 1):
        if not isinstance(line, dict):
            raise RlxError(f"{path}, line {number}: is not a line of metrics; remove it, or leave the run out")
        _checked(path, line, LINE)
        for name, value in line.items():
            if isinstance(value, list) and not _numbers(value):
                raise _unexpected(path, name)
    return written


def _checked(path: Path, content: dict[str, Any], checks: Mapping[str, Check]) -> dict[str, Any]:
    """Checks values by their key, or by the end of their key."""
    for name, value in content.items():
        endings = (check for end, check in checks.items() if end.startswith("_") and name.endswith(end))
        check = checks.get(name) or next(endings, None)
        if check is not None and not check(value):
            raise _unexpected(path, name)
    return content


def _unexpected(path: Path, name: str) -> RlxError:
    return RlxError(f"{path}: {printable(name)!r} has an unexpected value; restore the file, or leave the run out")
