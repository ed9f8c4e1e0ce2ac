"""Settings as dataclasses declare them (see `rlx.types.setting`): their types and limits, and checks of values."""

from __future__ import annotations

import dataclasses
import math
import os
import typing
from typing import Any

import numpy as np

from rlx.errors import RlxError, unknown

KINDS = {int: "an integer", float: "a finite number", bool: "true or false", str: "text"}
FLOAT32 = (float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max))  # its smallest and largest numbers


class Setting(typing.NamedTuple):
    """One flag: where its value goes, and what it may be (see `rlx.types.setting`)."""

    section: str  # train, network or hypers
    type: type  # int, float, bool or str: of the value, or of each of several
    many: bool  # takes several values
    default: Any
    help: str
    within: tuple[float, float] = (-math.inf, math.inf)
    choices: tuple[str, ...] = ()
    below: str = ""
    up_to: str = ""
    plan: str = ""
    describes: str = ""


def declared(cls: type, section: str) -> dict[str, Setting]:
    """The settings that a dataclass declares; hyper-parameters are numbers or arrays of them, all else as annotated."""
    hints, by_name = typing.get_type_hints(cls), {}
    for field in dataclasses.fields(cls):
        kind, many = hints[field.name], section == "hypers"
        if typing.get_origin(kind) is tuple:
            kind, many = typing.get_args(kind)[0], True
        kind = kind if kind in (int, float, bool, str) else float
        by_name[field.name] = Setting(section, kind, many, field.default, **field.metadata)
    return by_name


def flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def converted(flag: str, setting: Setting, value: Any) -> Any:
    """`value` as the setting's type, checked; a tuple where it takes several. Raises RlxError naming the flag."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not setting.many and len(values) != 1:
        raise RlxError(f"{flag}: takes one value, not {len(values)}")
    if setting.many and not values and setting.default != ():
        raise RlxError(f"{flag}: needs at least one value")
    result = tuple(convert(flag, setting.type, v) for v in values)
    for v in result:
        check_value(flag, setting, v)
    return result if setting.many else result[0]


def check(settings: Any) -> None:
    """Checks a record of settings, such as `sac.Config(...)` or `sac.Hypers(...)`, as `resolve` checks flags.

    For agents that are embedded elsewhere. Values of hyper-parameters may be arrays, but not traced. Raises RlxError
    naming the flag.
    """
    known = declared(type(settings), "network")
    for name, setting in known.items():
        value = getattr(settings, name)
        several = value if setting.many else np.ravel(value).tolist() if hasattr(value, "shape") else [value]
        for v in several:
            if convert(flag_of(name), setting.type, v) != v or (setting.type is int and not isinstance(v, int)):
                raise RlxError(f"{flag_of(name)} {v}: must be {KINDS[setting.type]}")
            check_value(flag_of(name), setting, v)
    check_order(known, vars(settings))


def check_value(flag: str, setting: Setting, value: Any) -> None:
    """Raises RlxError for a value that makes no sense as one of the setting's: a discount over 1, an unknown name."""
    low, high = setting.within
    if setting.type in (int, float) and not low <= value <= high:
        bounds = [f"at least {low:.10g}"] * (low > -math.inf) + [f"at most {high:.10g}"] * (high < math.inf)
        raise RlxError(f"{flag} {value:.10g}: must be {' and '.join(bounds)}")
    if setting.type is float and value and not FLOAT32[0] <= abs(value) <= FLOAT32[1]:
        raise RlxError(f"{flag} {value:g}: is beyond float32; give 0, or {FLOAT32[0]:.2g} to {FLOAT32[1]:.2g}")
    if setting.choices and value not in setting.choices:
        raise unknown(flag, str(value), setting.choices)


def check_order(known: typing.Mapping[str, Setting], values: typing.Mapping[str, Any]) -> None:
    """Raises RlxError where a value is not `below`, or is over (`up_to`), that of another setting, one number each."""
    for name, setting in known.items():
        limits = ((setting.below, np.less, "be under"), (setting.up_to, np.less_equal, "not be over"))
        for other, is_fine, must in limits:
            if other and name in values and not np.all(is_fine(values[name], values[other])):
                raise RlxError(f"{flag_of(name)} {values[name]}: must {must} {flag_of(other)} {values[other]}")


def convert(flag: str, kind: type, value: Any) -> Any:
    """`value` as an int, float, bool or str; 1e6 is an integer. Raises RlxError naming the flag."""
    try:
        if kind is bool and isinstance(value, bool):
            return value
        if kind is int and not isinstance(value, bool):
            number = float(value)
            if number == int(number):
                return int(number)
        if kind is float and not isinstance(value, bool):
            number = float(value)
            if math.isfinite(number):
                return number
        if kind is str and isinstance(value, str) and b"\0" not in os.fsencode(value):  # texts name files
            return value
    except (TypeError, ValueError, OverflowError):
        pass
    raise RlxError(f"{flag} {value}: must be {KINDS[kind]}")
