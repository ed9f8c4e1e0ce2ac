"""rlx: off-policy reinforcement learning in JAX at the speed of the accelerator."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlx import agents as agents
    from rlx import config as config
    from rlx import data as data
    from rlx import envs as envs
    from rlx import export as export
    from rlx import losses as losses
    from rlx import ope as ope
    from rlx import types as types
    from rlx.api.fitting import fit as fit
    from rlx.api.fitting import load as load
    from rlx.api.result import Result as Result
    from rlx.api.sweeping import SweepResult as SweepResult
    from rlx.api.sweeping import resume_sweep as resume_sweep
    from rlx.api.sweeping import sweep as sweep
    from rlx.errors import RlxError as RlxError
    from rlx.sweeps.space import Range as Range

__version__ = "0.1.0"

# what is imported at first use, so that `import rlx` and `rlx --help` are quick
_LAZY = {
    "fit": "rlx.api.fitting",
    "load": "rlx.api.fitting",
    "sweep": "rlx.api.sweeping",
    "resume_sweep": "rlx.api.sweeping",
    "Result": "rlx.api.result",
    "SweepResult": "rlx.api.sweeping",
    "Range": "rlx.sweeps.space",
    "RlxError": "rlx.errors",
}
_MODULES = ("agents", "config", "data", "envs", "export", "losses", "ope", "types")

__all__ = [*_LAZY, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name in _MODULES:
        return import_module(f"rlx.{name}")
    raise AttributeError(f"module 'rlx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
