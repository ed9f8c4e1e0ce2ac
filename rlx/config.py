"""Names and flags become a checked configuration: presets, then settings; its members; config.json and back."""

from __future__ import annotations

import dataclasses
import itertools
import math
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlx import agents, errors, json_files
from rlx.envs import arguments, env_params
from rlx.errors import RlxError
from rlx.settings import Setting, check_order, convert, converted, declared, flag_of
from rlx.train import other_names
from rlx.train.config import TrainConfig
from rlx.types import COUNT


class Unregistered(RlxError):
    """A run of an agent that this process does not know."""


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


def settings(agent: str) -> dict[str, Setting]:
    """Every setting of a run with this agent, by name."""
    module = agents.load(agent)
    known: dict[str, Setting] = {}
    for section, cls in (("train", TrainConfig), ("network", module.Config), ("hypers", module.Hypers)):
        found = declared(cls, section)
        if twice := sorted(known.keys() & found.keys()):
            raise RlxError(f"{agent}: {cls.__name__}.{twice[0]} is the name of another setting, too; rename it")
        known |= found
    return known


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """A hint at the name that was meant, or nothing."""
    known = list(known)
    plain = {setting.lstrip("-").replace("-", "_"): setting for setting in known}
    named = other_names.meant(name, plain)
    if named == ["env_args"]:
        flag = plain["env_args"]
        return f"did you mean {flag}" + (" episode_length=N?" if flag.startswith("-") else "={'episode_length': N}?")
    if named:
        return f"did you mean {' and '.join(plain[setting] for setting in named)}?"
    close = errors.nearest(name, known)
    return f"did you mean {close}?" if close else "see `rlx list` and `--help`"


def presets(agent: str, env: str, name: str | None = None) -> dict[str, Any]:
    """An agent's tuned settings: for every environment (`*`), over them for its library (`brax:*`), then for this one.

    With a name, `*@name`, `brax:*@name` and `env@name` stand in place of the latter two; raises RlxError where there is
    none of them. A name that ends in .json is a file of settings, over all these.
    """
    if name is not None and name.endswith(".json"):
        return presets(agent, env) | preset_file(agent, Path(name))
    known = agents.tuned_settings(agent)
    of_this = [f"{env.partition(':')[0]}:*", env]
    keys = of_this if name is None else [f"{key}@{name}" for key in ("*", *of_this)]
    if name is not None and not any(key in known for key in keys):
        names = sorted({key.split("@")[1] for key in known if "@" in key and key.split("@")[0] in ("*", *of_this)})
        hint = f"choose from {', '.join(names)}" if names else "there are none: leave it out"
        raise RlxError(f"--preset {name}: unknown for {agent} on {env}; {hint}")
    return {name: value for key in ("*", *keys) for name, value in known.get(key, {}).items()}


def preset_file(agent: str, path: Path) -> dict[str, Any]:
    """The settings in a JSON file, as `rlx sweep` writes them. Raises RlxError where it holds something else."""
    try:
        content = json_files.parse(json_files.read_bytes(path))
    except (OSError, ValueError) as error:
        raise RlxError(f"--preset {path}: cannot be read ({error}); name a JSON file of settings") from None
    if not isinstance(content, dict):
        raise RlxError(f'--preset {path}: holds no settings; write them as {{"critic_lr": 0.001}}')
    known = [*settings(agent), "backend"]
    for name in content:
        if name not in known:
            raise RlxError(f"--preset {path}: {name!r} is no setting of {agent}: {nearest(name, known)}")
    return content


def resolve(
    agent: str, env: str, backend: str | None = None, preset: str | None = None, paired: bool = False, **values: Any
) -> RunConfig:
    """The configuration of a run: defaults, then the agent's `presets`, then `values` by the settings' names.

    The wrappers of a preset are for learning without a data set; with one, those of the collected environment count.
    Hyper-parameters may be lists: each combination of values (`paired`: each row of them) is trained, for every seed,
    in one program. Raises RlxError for an unknown name (with the nearest) or a value that cannot be.
    """
    known = settings(agent)
    chosen = presets(agent, env, None if preset is None else convert("--preset", str, preset))
    tuned = chosen.pop("backend", None)
    if values.get("dataset") and not str(preset).endswith(".json"):
        chosen.pop("wrappers", None)  # a data set holds steps as they were collected, whatever suits the task
    backend = tuned if backend is None else backend
    sections: dict[str, dict[str, Any]] = {"train": {}, "network": {}, "hypers": {}}
    for name, value in (chosen | values).items():
        if name not in known:
            raise RlxError(f"unknown setting {name!r} of {agent}: {nearest(name, known)}")
        sections[known[name].section][name] = _converted(name, known[name], value)
    hypers = {name: (float(s.default),) for name, s in known.items() if s.section == "hypers"} | sections["hypers"]
    if paired and len(counts := {len(values) for values in hypers.values()} - {1}) > 1:
        raise RlxError(
            f"paired hyper-parameters have {' and '.join(map(str, sorted(counts)))} values: give as many each"
        )
    train, network = TrainConfig(**sections["train"]), agents.load(agent).Config(**sections["network"])
    config = RunConfig(agent, env, backend, train, network, hypers, paired)
    check_order(known, vars(train) | vars(network))
    _check_members(known, config)
    return config


def _check_members(known: dict[str, Setting], config: RunConfig) -> None:
    """Raises RlxError for more members than COUNT, and for hyper-parameters that contradict each other in one."""
    counts = [len(values) for values in config.hypers.values()]
    count = config.train.num_seeds * (max(counts) if config.paired else math.prod(counts))
    if count > COUNT[1]:
        raise RlxError(
            f"--num-seeds {config.train.num_seeds}: with the hyper-parameters' values these are {count} runs"
        )
    if any(setting.below or setting.up_to for setting in known.values() if setting.section == "hypers"):
        for combination in combinations(config):
            check_order(known, combination)


def _converted(name: str, setting: Setting, value: Any) -> Any:
    """`value` as the setting's type; tuples where it takes several. Raises RlxError naming the flag."""
    if name == "env_args" and isinstance(value, dict):
        value = arguments.texts(value)
    if name == "env_params" and not _are_texts(value):
        value = env_params.texts(value)
    return converted(flag_of(name), setting, value)


def _are_texts(value: Any) -> bool:
    values = value if isinstance(value, (list, tuple)) else [value]
    return all(isinstance(text, str) for text in values) and not hasattr(value, "_fields")


def flat(config: RunConfig) -> dict[str, Any]:
    """All settings by name, as `resolve` takes them."""
    return dataclasses.asdict(config.train) | dataclasses.asdict(config.network) | config.hypers


def to_json(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain JSON values."""
    content = {"agent": config.agent, "env": config.env, "backend": config.backend, "settings": flat(config)}
    return content | ({"paired": True} if config.paired else {})


def description(config: RunConfig) -> str:
    """A run's agent and its settings, as a setting that `describes` a part of the run has them."""
    return agents.to_text(config.agent, config.network)


def from_json(path: Path) -> RunConfig:
    """Reads a run's config.json. Raises RlxError where it is missing, damaged or not one of ours."""
    try:
        content = json_files.parse(json_files.read_bytes(path))
        agent = content["agent"]
        if isinstance(agent, str) and agents.is_user_code(agent):
            _load_agent(agent, content, path)
        elif agent not in agents.REGISTRY:
            raise Unregistered(
                f"{path.parent}: its agent {agent!r} is not registered ({nearest(agent, agents.REGISTRY)});"
                " import its module and give it to rlx.agents.register before rlx.commands.main.main"
            )
        names, paired = (content["agent"], content["env"], content["backend"]), bool(content.get("paired"))
        if not isinstance(content["env"], str) or not isinstance(content["backend"], (str, type(None))):
            raise ValueError("env and backend must be text")
        return resolve(*names, paired=paired, **content["settings"])
    except (FileNotFoundError, NotADirectoryError):
        problem = f"is not a run folder (no {path.name})" if path.parent.exists() else "does not exist"
        inside = sorted(path.parent.glob(f"*/{path.name}"))
        example = f", such as {inside[0].parent}" if inside else ""
        raise RlxError(f"{path.parent}: {problem}; give a folder that `rlx train` made{example}") from None
    except KeyError as error:
        raise RlxError(f"{path}: is damaged ({error} is missing); restore it from a copy") from None
    except Unregistered:
        raise
    except (
        RlxError,
        ValueError,
        TypeError,
        OSError,
        LookupError,
        ArithmeticError,
        RecursionError,
        AttributeError,
    ) as error:
        raise RlxError(f"{path}: is damaged ({error}); restore it from a copy") from None


def _load_agent(agent: str, content: dict[str, Any], path: Path) -> None:
    """Loads an agent's file. Raises Unregistered where it is missing, or lacks settings of the run since it changed."""
    try:
        known = settings(agent)
    except RlxError as error:
        raise Unregistered(f"{path.parent}: {error}{_where_it_was(content)}") from None
    if isinstance(content.get("settings"), dict) and (unknown := sorted(content["settings"].keys() - known.keys())):
        raise Unregistered(
            f"{path.parent}: {agent} has no setting {unknown[0]!r} any more; restore the file of the run"
        )


def _where_it_was(content: dict[str, Any]) -> str:
    """Where an agent's file was when the run began."""
    file = (content.get("files") or {}).get("agent") or {}
    return f" (the run had {file['path']})" if isinstance(file.get("path"), str) else ""


def members(config: RunConfig) -> list[dict[str, float]]:
    """Seed and hyper-parameters of every member: all seeds of one combination of list values, then of the next."""
    seeds = range(config.train.seed, config.train.seed + config.train.num_seeds)
    return [combination | {"seed": seed} for combination in combinations(config) for seed in seeds]


def member_labels(every_member: typing.Sequence[dict[str, float]]) -> list[str]:
    """The hyper-parameters in which members differ, of each: `actor_lr=0.001 tau=0.5`, or nothing."""
    varied = [name for name in every_member[0] if name != "seed" and len({member[name] for member in every_member}) > 1]
    return [" ".join(f"{name}={member[name]:.10g}" for name in varied) for member in every_member]


def member_names(every_member: typing.Sequence[dict[str, float]]) -> list[str]:
    """`member_labels`, with the seed where several seeds have the same label; nothing where seeds alone differ."""
    labels = member_labels(every_member)
    if not any(labels) or len(set(labels)) == len(labels):
        return labels
    return [f"{label} seed={member['seed']:g}" for label, member in zip(labels, every_member, strict=True)]


def combinations(config: RunConfig) -> list[dict[str, float]]:
    """The hyper-parameters of every combination that is trained."""
    rows: typing.Iterable[tuple[float, ...]] = itertools.product(*config.hypers.values())
    if config.paired:
        count = max(map(len, config.hypers.values()))
        rows = zip(*(values * (count // len(values)) for values in config.hypers.values()), strict=True)
    return [dict(zip(config.hypers, values, strict=True)) for values in rows]
