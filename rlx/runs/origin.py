"""What made a run: versions, hardware, JAX's settings; and what is different where it is resumed or evaluated."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlx import parallel
from rlx.config import RunConfig
from rlx.errors import RlxError
from rlx.train import numerics
from rlx.user_files import code_of

PACKAGES = ("jax", "jaxlib", "flax", "optax", "distrax", "brax", "gymnax", "orbax-checkpoint", "numpy")
X64 = "jax_enable_x64"


def describe() -> dict[str, Any]:
    """Versions, hardware, the commit of a checkout, and what else decides a run's bits; for config.json."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    git = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--abbrev=40"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        versions["commit"] = commit
    hardware = parallel.describe() | {"machine": platform.machine(), "system": platform.system()}
    return {
        "versions": versions | {"python": platform.python_version()},
        "hardware": hardware,
        "numerics": numerics.describe(),
    }


def differences(content: Mapping[str, Any], saved: RunConfig, now: RunConfig) -> list[str]:
    """What has changed since a run began, so that its bits may differ from those of an uninterrupted one."""
    old, new = _flat(content), _flat(describe())
    for name in ("num_devices", "split", "members", "on_nonfinite"):
        old[name], new[name] = getattr(saved.train, name), getattr(now.train, name)
    return [
        f"{name} {_text(old[name])} is now {_text(new.get(name))}"
        for name in old
        if _text(old[name]) != _text(new.get(name))
    ]


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, hardware and numerics of a config.json; an rlx before this one wrote no numerics."""
    sections = (content.get(name) for name in ("versions", "hardware", "numerics"))
    return {name: value for section in sections if isinstance(section, dict) for name, value in section.items()}


def _text(value: Any) -> str:
    return f"{value}" or "none"


def changed_files(content: Mapping[str, Any], now: RunConfig) -> list[str]:
    """A line for each file of the user's own code that is not as it was when the run began."""
    before, files = content.get("files"), code_of(now)
    before = before if isinstance(before, dict) else {}
    return [
        f"{file['path']}: has changed since the run began (its {what}); it goes on with the file as it is now"
        for what, file in files.items()
        if isinstance(old := before.get(what), dict) and old.get("sha256") != file["sha256"]
    ]


def check_x64(content: Mapping[str, Any], folder: Path) -> None:
    """Raises RlxError where a run would go on with wider or narrower numbers than it began with."""
    before, now = _x64(content)
    if before is not None and before != now:
        remedy = f"set JAX_ENABLE_X64={int(before)}"
        raise RlxError(f"{folder}: began with JAX_ENABLE_X64={int(before)} and cannot go on without; {remedy}")


def x64_note(content: Mapping[str, Any], folder: Path) -> str:
    """What to say where a run is evaluated with other numbers than it was trained with; empty if they are the same."""
    before, now = _x64(content)
    if before is None or before == now:
        return ""
    return (
        f"{folder}: was trained with JAX_ENABLE_X64={int(before)} and is evaluated with JAX_ENABLE_X64={int(now)},"
        " so returns may differ"
    )


def _x64(content: Mapping[str, Any]) -> tuple[bool | None, bool]:
    before = _flat(content).get(X64)
    return (before if isinstance(before, bool) else None), bool(numerics.describe()[X64])
