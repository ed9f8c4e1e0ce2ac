"""What decides a run's bits besides its settings: how JAX draws random numbers, and how precisely XLA computes."""

from __future__ import annotations

import enum
import os
from typing import Any

import jax

from rlx.errors import RlxError

HARMLESS = ("--xla_force_host_platform_device_count", "--xla_dump", "--xla_hlo_profile")  # flags that change no number
FLAGS = "xla_flags"


def check() -> None:
    """Raises RlxError for random numbers that repeat: `unsafe_rbg` derives one key from different indices."""
    if describe()["jax_default_prng_impl"] == "unsafe_rbg":
        raise RlxError("JAX_DEFAULT_PRNG_IMPL=unsafe_rbg: derived keys collide; leave it out, or use threefry2x32")


def describe() -> dict[str, Any]:
    """JAX's settings that change numbers, by name, and the flags of XLA that may."""
    names = (
        *("jax_default_prng_impl", "jax_threefry_partitionable", "jax_enable_x64", "jax_default_matmul_precision"),
        *("jax_disable_most_optimizations", "jax_numpy_dtype_promotion"),
    )
    flags = sorted(flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(HARMLESS))
    return {name: _read(name) for name in names} | {FLAGS: " ".join(flags)}


def _read(name: str) -> Any:
    """A setting of JAX: those with a context manager are attributes, others are not."""
    value = getattr(jax.config, name) if hasattr(jax.config, name) else jax.config.read(name)
    return value.value if isinstance(value, enum.Enum) else value
