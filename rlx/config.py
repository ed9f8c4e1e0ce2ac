"""From names and flags to a checked configuration, and from that to what runs: presets, settings, JSON and back."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import math
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlx import agents
from rlx.errors import RlxError
from rlx.train.config import TrainConfig


@dataclass(frozen=True)
class RunConfig:
    """Everything that makes a run; `config.json` holds it."""

    agent: str
    env: str
    backend: str | None  # of Brax environments
    train: TrainConfig
    network: Any  # the agent's Config
    hypers: dict[str, tuple[float, ...]]  # every combination of their values is trained
    paired: bool = False  # or, of as many values (or one) each, the first together, then the second, ...


class Setting(typing.NamedTuple):
    """One flag: where its value goes, and what it may be."""

    section: str  # train, network or hypers
    type: type  # int, float, bool or str: of the value, or of each of several
    many: bool  # takes several values
    default: Any
    help: str
    within: tuple[float, float]  # of numbers, ends included


def settings(agent: str) -> dict[str, Setting]:
    """Every setting of a run with this agent, by name."""
    module = agents.load(agent)
    found = {}
    for section, cls in (("train", TrainConfig), ("network", module.Config), ("hypers", module.Hypers)):
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            kind = float if section == "hypers" else hints[field.name]
            many = section == "hypers" or typing.get_origin(kind) is tuple
            kind = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind
            found[field.name] = Setting(
                section, kind, many, field.default, field.metadata["help"], field.metadata["within"]
            )
    return found


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """A hint at the name that was meant, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}?" if close else "see `rlx list` and `--help`"


def presets(agent: str, env: str, name: str | None = None) -> dict[str, Any]:
    """An agent's tuned settings: those for every environment (`*`), and over them those for this one.

    With a name, `*@name` and `env@name` stand in place of `env`; raises RlxError where there is neither. A name that
    ends in .json is a file of settings, over all these. An environment that nobody tuned has only what `*` says.
    """
    if name is not None and name.endswith(".json"):
        return presets(agent, env) | preset_file(agent, Path(name))
    known = agents.tuned_settings(agent)
    keys = [env] if name is None else [f"*@{name}", f"{env}@{name}"]
    if name is not None and not any(key in known for key in keys):
        names = sorted({key.split("@")[1] for key in known if key.startswith(("*@", f"{env}@"))})
        hint = f"choose from {', '.join(names)}" if names else "there are none: leave it out"
        raise RlxError(f"--preset {name}: unknown for {agent} on {env}; {hint}")
    return {name: value for key in ("*", *keys) for name, value in known.get(key, {}).items()}


def preset_file(agent: str, path: Path) -> dict[str, Any]:
    """The settings in a JSON file, as `rlx sweep` writes them. Raises RlxError where it holds something else."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RlxError(f"--preset {path}: cannot be read ({error}); name a JSON file of settings") from None
    if not isinstance(found, dict):
        raise RlxError(f'--preset {path}: holds no settings; write them as {{"critic_lr": 0.001}}')
    known = [*settings(agent), "backend"]
    for name in found:
        if name not in known:
            raise RlxError(f"--preset {path}: {name!r} is no setting of {agent}: {nearest(name, known)}")
    return found


def resolve(
    agent: str, env: str, backend: str | None = None, preset: str | None = None, paired: bool = False, **given: Any
) -> RunConfig:
    """The configuration of a run: defaults, then the agent's `presets`, then what is `given`.

    Hyper-parameters may be lists: each combination of values (`paired`: each row of them) is trained, for every seed,
    in one program. Raises RlxError for an unknown name (with the nearest) or a value that cannot be.
    """
    known = settings(agent)
    chosen = presets(agent, env, None if preset is None else convert("--preset", str, preset))
    tuned = chosen.pop("backend", None)
    backend = tuned if backend is None else backend
    sections: dict[str, dict[str, Any]] = {"train": {}, "network": {}, "hypers": {}}
    for name, value in (chosen | given).items():
        if name not in known:
            raise RlxError(f"unknown setting {name!r} of {agent}: {nearest(name, known)}")
        sections[known[name].section][name] = _checked(name, known[name], value)
    hypers = {name: (float(s.default),) for name, s in known.items() if s.section == "hypers"} | sections["hypers"]
    if paired and len(counts := {len(values) for values in hypers.values()} - {1}) > 1:
        raise RlxError(
            f"paired hyper-parameters have {' and '.join(map(str, sorted(counts)))} values: give as many each"
        )
    module = agents.load(agent)
    train, network = TrainConfig(**sections["train"]), module.Config(**sections["network"])
    return RunConfig(agent, env, backend, train, network, hypers, paired)


def _checked(name: str, setting: Setting, value: Any) -> Any:
    """`value` as the setting's type; tuples where it takes several. Raises RlxError naming the flag."""
    flag = f"--{name.replace('_', '-')}"
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not setting.many and len(values) > 1:
        raise RlxError(f"{flag}: takes one value, not {len(values)}")
    if setting.many and not values:
        raise RlxError(f"{flag}: needs at least one value")
    converted = tuple(convert(flag, setting.type, v) for v in values)
    for value in converted:
        check_within(flag, setting, value)
    return converted if setting.many else converted[0]


def check_within(flag: str, setting: Setting, value: Any) -> None:
    """Raises RlxError for a number that makes no sense there, such as a discount over 1."""
    low, high = setting.within
    if setting.type in (int, float) and not low <= value <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"at least {low:g} and at most {high:g}"
        raise RlxError(f"{flag} {value:g}: must be {bounds}")


def convert(flag: str, kind: type, value: Any) -> Any:
    """`value` as an int, float, bool or str; 1e6 is a whole number. Raises RlxError naming the flag."""
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
        if kind is str and isinstance(value, str):
            return value
    except (TypeError, ValueError, OverflowError):
        pass
    wanted = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}[kind]
    raise RlxError(f"{flag} {value}: must be {wanted}")


def flat(config: RunConfig) -> dict[str, Any]:
    """All settings by name, as `resolve` takes them."""
    return dataclasses.asdict(config.train) | dataclasses.asdict(config.network) | config.hypers


def to_json(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain JSON values."""
    content = {"agent": config.agent, "env": config.env, "backend": config.backend, "settings": flat(config)}
    return content | ({"paired": True} if config.paired else {})


def from_json(path: Path) -> RunConfig:
    """Reads a run's config.json. Raises RlxError where it is missing, damaged or not one of ours."""
    try:
        content = json.loads(path.read_text())
        names, paired = (content["agent"], content["env"], content["backend"]), bool(content.get("paired"))
        return resolve(*names, paired=paired, **content["settings"])
    except (FileNotFoundError, NotADirectoryError):
        found = f"is not a run folder (no {path.name})" if path.parent.exists() else "is not there"
        inside = sorted(path.parent.glob(f"*/{path.name}"))
        example = f", such as {inside[0].parent}" if inside else ""
        raise RlxError(f"{path.parent}: {found}; give a folder that `rlx train` made{example}") from None
    except KeyError as error:
        raise RlxError(f"{path}: is damaged ({error} is missing); restore it from a copy") from None
    except (RlxError, ValueError, TypeError, OSError, LookupError, ArithmeticError, RecursionError) as error:
        raise RlxError(f"{path}: is damaged ({error}); restore it from a copy") from None


def members(config: RunConfig) -> list[dict[str, float]]:
    """Seed and hyper-parameters of every member: all seeds of one combination of list values, then of the next."""
    seeds = range(config.train.seed, config.train.seed + config.train.num_seeds)
    return [combination | {"seed": seed} for combination in combinations(config) for seed in seeds]


def told_apart(everyone: typing.Sequence[dict[str, float]]) -> list[str]:
    """What tells each member's combination of hyper-parameters from others': `actor_lr=0.001 tau=0.5`, or nothing."""
    varied = [name for name in everyone[0] if name != "seed" and len({member[name] for member in everyone}) > 1]
    return [" ".join(f"{name}={member[name]:.10g}" for name in varied) for member in everyone]


def combinations(config: RunConfig) -> list[dict[str, float]]:
    """The hyper-parameters of every combination that is trained."""
    rows: typing.Iterable[tuple[float, ...]] = itertools.product(*config.hypers.values())
    if config.paired:
        count = max(map(len, config.hypers.values()))
        rows = zip(*(values * (count // len(values)) for values in config.hypers.values()), strict=True)
    return [dict(zip(config.hypers, values, strict=True)) for values in rows]
