"""The agents, one file each. This is their registry: names to modules, imported when asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from rlx import json_files, user_code
from rlx.errors import RlxError, nearest
from rlx.settings import check, converted, declared

if __name__ != "rlx.agents":
    raise ImportError(f"import rlx.agents, not {__name__}: the folder is part of the rlx package")

REGISTRY = {
    "sac": "rlx.agents.sac",
    "tqc": "rlx.agents.tqc",
    "redq": "rlx.agents.redq",
    "dsac": "rlx.agents.dsac",
    "dsac_t": "rlx.agents.dsac_t",
    "mdpo": "rlx.agents.mdpo",
    "ace": "rlx.agents.ace",
    "pmoe": "rlx.agents.pmoe",
    "sac_flow": "rlx.agents.sac_flow",
    "crossq": "rlx.agents.crossq",
    "xqc": "rlx.agents.xqc",
    "flash_sac": "rlx.agents.flash_sac",
    "td3": "rlx.agents.td3",
    "aro_ddpg": "rlx.agents.aro_ddpg",
    "pql": "rlx.agents.pql",
    "fast_td3": "rlx.agents.fast_td3",
    "iql": "rlx.agents.iql",
    "idql": "rlx.agents.idql",
    "bc": "rlx.agents.bc",
    "td3_bc": "rlx.agents.td3_bc",
    "rebrac": "rlx.agents.rebrac",
    "awac": "rlx.agents.awac",
    "dqn": "rlx.agents.dqn",
    "sac_discrete": "rlx.agents.sac_discrete",
    "pqn": "rlx.agents.pqn",
    "cql": "rlx.agents.cql",
    "edac": "rlx.agents.edac",
    "riql": "rlx.agents.riql",
    "fql": "rlx.agents.fql",
    "qc": "rlx.agents.qc",
    "ifql": "rlx.agents.ifql",
    "cfgrl": "rlx.agents.cfgrl",
    "mcep": "rlx.agents.mcep",
    "odice": "rlx.agents.odice",
    "dual_rl": "rlx.agents.dual_rl",
    "expo": "rlx.agents.expo",
    "dql": "rlx.agents.dql",
    "srpo": "rlx.agents.srpo",
    "edp": "rlx.agents.edp",
    "eda": "rlx.agents.eda",
    "cdsa": "rlx.agents.cdsa",
    "ppo": "rlx.agents.ppo",
    "lpo": "rlx.agents.lpo",
    "spo": "rlx.agents.spo",
    "ppo_ewma": "rlx.agents.ppo_ewma",
    "props": "rlx.agents.props",
    "reppo": "rlx.agents.reppo",
}
STARTS = {  # by what is to be learned, from the tables that docs/agents/index.md names
    "a new task with continuous actions": ("sac",),
    "few environment steps, on a robot's body": ("flash_sac",),
    "few environment steps, on a small task": ("redq",),
    "thousands of environments, or several devices": ("pql",),
    "environment steps that cost next to nothing": ("ppo",),
    "discrete actions": ("sac_discrete", "pqn"),
    "a data set": ("iql", "bc"),
}


PARTS = ("Config", "Hypers", "make")  # of an agent's module; PRESETS is optional


def register(module: ModuleType) -> str:
    """Adds an agent of your own, a module that was imported, under the last part of its name; returns that.

    Raises RlxError where it is no module or lacks a part, or another agent has the name.
    """
    if not isinstance(module, ModuleType):
        raise RlxError(f"an agent is the name of one or a module, not {type(module).__name__}: give the file's module")
    name = module.__name__.rpartition(".")[2]
    _check_parts(module.__name__, module)
    if REGISTRY.setdefault(name, module.__name__) != module.__name__:
        raise RlxError(f"an agent named {name!r} is registered already: rename the file {name}.py")
    return name


def _check_parts(name: str, module: ModuleType) -> None:
    for part in PARTS:
        if not hasattr(module, part):
            raise RlxError(f"{name} is no agent: it has no {part}; it needs {', '.join(PARTS)}")
    for part in PARTS[:2]:
        _check_settings(f"{name}: {part}", part, getattr(module, part))
    presets = getattr(module, "PRESETS", {})
    if not isinstance(presets, Mapping) or not all(isinstance(preset, Mapping) for preset in presets.values()):
        raise RlxError(f"{name}: PRESETS must map environments, or *, to dictionaries of settings; make it so")


def _check_settings(where: str, part: str, cls: Any) -> None:
    """Raises RlxError for a class of settings whose fields do not become flags."""
    if not isinstance(cls, type) or not dataclasses.is_dataclass(cls):
        raise RlxError(f"{where} is no dataclass; derive it from rlx.halves.{part}")
    for field in dataclasses.fields(cls):
        if "help" not in field.metadata:
            raise RlxError(f"{where}.{field.name} is no setting; declare it as = rlx.types.setting(default, help)")
        if part == "Hypers" and not np.issubdtype(np.asarray(field.default).dtype, np.number):
            raise RlxError(
                f"{where}.{field.name} is {field.default!r}; hyper-parameters are numbers, texts go to Config"
            )


def is_user_code(name: str) -> bool:
    """Whether a name is that of a Python file, `path/to/agent.py`, or a dotted module of the user's."""
    return user_code.is_file(name) or ("." in name and name not in REGISTRY)


@contextlib.contextmanager
def mistakes_in_one_line(name: str) -> Iterator[None]:
    """Raises RlxError for what the file of a user's agent raises meanwhile; errors of rlx's own agents pass."""
    try:
        yield
    except RlxError:
        raise
    except Exception as error:
        module = load(name)
        path = Path(str(module.__file__)).resolve()
        if module.__name__.startswith(f"{__name__}.") or not user_code.is_raised_in(error, path):
            raise
        raise RlxError(
            f"{name}: cannot be traced by JAX ({user_code.describe(error, path)}); look at that line of the agent"
        ) from error


def load(name: str) -> ModuleType:
    """The module of an agent: `Config`, `Hypers` and `make`. Raises RlxError for an unknown name."""
    if is_user_code(name):
        module = user_code.module(name)
        _check_parts(name, module)
        return module
    if name not in REGISTRY:
        close = nearest(name, REGISTRY)
        hint = f"did you mean {close}?" if close else f"choose from {', '.join(REGISTRY)}"
        raise RlxError(f"unknown agent {name!r}: {hint}")
    return importlib.import_module(REGISTRY[name])


def tuned_settings(name: str) -> dict[str, dict[str, Any]]:
    """An agent's presets: `PRESETS` of its module, or of the module of its name in `rlx.agents.presets`, or none."""
    module, path = load(name), f"{__name__}.presets.{name}"
    if not hasattr(module, "PRESETS"):
        if is_user_code(name) or importlib.util.find_spec(path) is None:
            return {}
        module = importlib.import_module(path)
    presets: dict[str, dict[str, Any]] = module.PRESETS
    return presets


def to_text(name: str, network: Any) -> str:
    """An agent's name and its Config as JSON, which a setting of another agent can hold."""
    return json.dumps({"agent": name, "network": dataclasses.asdict(network)})


def from_text(flag: str, text: str) -> tuple[str, Any]:
    """Name and Config of the agent that a text of `to_text` describes. Raises RlxError, naming the flag, for another.

    `load(name).make(config, spec)` makes the agent.
    """
    try:
        content = json_files.parse(text.encode())
        name, values = content["agent"], content["network"]
        config = load(name).Config
        known = declared(config, "network")
        network = config(**{key: converted(key, known[key], value) for key, value in values.items()})
        check(network)
    except RlxError as error:
        raise RlxError(f"{flag}: {error}") from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise RlxError(f"{flag}: describes no agent ({error}); leave it to --init-from, which fills it in") from None
    return name, network
