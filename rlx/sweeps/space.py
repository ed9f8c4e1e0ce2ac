"""The search space of a sweep: ranges and values of hyper-parameters, as text and as combinations of numbers."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlx.errors import RlxError
from rlx.settings import Setting, check_value, convert, flag_of


class Range(NamedTuple):
    """An interval from which a hyper-parameter is sampled."""

    low: float
    high: float
    log: bool = False  # uniformly in its logarithm

    def __str__(self) -> str:
        return f"{self.low!r}:{self.high!r}" + ":log" * self.log


Dimension = Range | tuple[float, ...]  # of a search space: a range, or the values to choose from


def parse_range(flag: str, text: str) -> Range:
    """`1e-5:1e-3:log` or `0.9:0.99`. Raises RlxError for what is no range."""
    low, *rest = text.split(":")
    if len(rest) not in (1, 2) or rest[1:] not in ([], ["log"]):
        raise RlxError(f"{flag} {text}: must be LOW:HIGH, or LOW:HIGH:log to sample uniformly in the logarithm")
    parsed = Range(convert(flag, float, low), convert(flag, float, rest[0]), len(rest) == 2)
    if parsed.low >= parsed.high or (parsed.log and parsed.low <= 0):
        raise RlxError(f"{flag} {text}: must begin below its end" + " and over 0" * parsed.log)
    return parsed


def take_ranges(
    known: Mapping[str, Setting], settings: Mapping[str, Any]
) -> tuple[dict[str, Dimension], dict[str, Any]]:
    """The ranges among the settings, and the others as `config.resolve` takes them.

    Raises RlxError for a range that cannot be, and for several values of what is no hyper-parameter.
    """
    hypers = [name for name, setting in known.items() if setting.section == "hypers"]
    ranges: dict[str, Dimension] = {}
    rest = dict(settings)
    for name, value in settings.items():
        values = [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)
        flag, single = flag_of(name), name in known and not known[name].many
        if name in hypers and any(isinstance(x, str) and ":" in x for x in values):
            if len(values) > 1:
                raise RlxError(f"{flag} {' '.join(map(str, values))}: give one range, or values without one")
            ranges[name] = parsed = parse_range(flag, values[0])
            check_value(flag, known[name], parsed.low)
            check_value(flag, known[name], parsed.high)
            del rest[name]
        elif single and len(values) > 1:
            raise RlxError(f"{flag}: takes one value; only hyper-parameters can be swept: {', '.join(hypers)}")
        elif single:
            rest[name] = values[0]
    return ranges, rest


def grid(space: Mapping[str, Dimension]) -> list[dict[str, float]]:
    """Every combination of values; the last hyper-parameter varies fastest."""
    rows: list[dict[str, float]] = [{}]
    for name, values in space.items():
        rows = [row | {name: value} for row in rows for value in values]
    return rows


def sample(space: Mapping[str, Dimension], number: int, seed: int) -> list[dict[str, float]]:
    """Random combinations. Each hyper-parameter has a random stream of its own: others, or more samples, change none.

    Values have six digits, so that they print as they are.
    """
    columns = {}
    for name, dimension in space.items():
        shares = np.random.default_rng([seed, zlib.crc32(name.encode())]).random(number)
        columns[name] = [_at(dimension, float(share)) for share in shares]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _at(dimension: Dimension, share: float) -> float:
    if not isinstance(dimension, Range):
        return dimension[int(share * len(dimension))]
    low, high, log = dimension
    value = low * (high / low) ** share if log else low + share * (high - low)
    return min(max(float(f"{value:.6g}"), low), high)
