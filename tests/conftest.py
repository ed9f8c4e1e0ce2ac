"""Settings that must stand before jax starts; tests that start processes of their own hand them on."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".cache" / "jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")  # the suite compiles far longer than it computes
if importlib.metadata.version("jax").startswith("0.10."):  # see rlx.parallel.quick_compilation
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()
os.environ["NPROC"] = "16"  # collectives over forced host devices dead-lock in a thread pool as small as two cores
os.environ["MPLBACKEND"] = "Agg"
