"""rlx: off-policy reinforcement learning in JAX at the speed of the accelerator."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlx.errors import RlxError as RlxError
    from rlx.experiment import Result as Result
    from rlx.experiment import fit as fit

__version__ = "0.1.0"

# what is imported at first use, so that `import rlx` and `rlx --help` are quick
_LAZY = {
    "fit": "rlx.experiment",
    "Result": "rlx.experiment",
    "RlxError": "rlx.errors",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'rlx' has no attribute {name!r}")
