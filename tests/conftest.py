"""Settings that must be made before jax starts (tests that start processes pass them on), and what workers share."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".cache" / "jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")  # the suite compiles far longer than it computes
if importlib.metadata.version("jax").startswith("0.10."):  # see rlx.parallel.quick_compilation
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()
os.environ["NPROC"] = "16"  # collectives over forced host devices dead-lock in a thread pool as small as two cores
os.environ["MPLBACKEND"] = "Agg"

from tests.commands import refused, say  # noqa: F401 -- fixtures of all tests
from tests.loss_tools import plain_descent  # noqa: F401


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist loadgroup`, a module's tests share a worker and what it makes for them; slow tests go alone."""
    for item in items:
        fixtures = [f for each in getattr(item, "_fixtureinfo").name2fixturedefs.values() for f in each]  # noqa: B009
        shares = any(f.scope == "module" and f.argname != "release_programs" for f in fixtures)
        if not item.get_closest_marker("xdist_group") and (shares or not item.get_closest_marker("slow")):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


@pytest.fixture(scope="module", autouse=True)
def release_programs() -> Iterator[None]:
    """Compiled programs of a module are of no use to the next: kept, they are gigabytes."""
    yield
    import jax

    jax.clear_caches()
