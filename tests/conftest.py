"""Settings that must be made before jax starts (tests that start processes pass them on), and what workers share."""

from __future__ import annotations

import gc
import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".cache" / "jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")  # the suite compiles far longer than it computes
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_parallel_codegen_split_count=1".strip()
if importlib.metadata.version("jax").startswith("0.10."):  # see rlx.parallel.quick_compilation
    os.environ["XLA_FLAGS"] = f"{os.environ['XLA_FLAGS']} --xla_cpu_use_fusion_emitters=false"
os.environ["NPROC"] = "16"  # collectives over forced host devices dead-lock in a thread pool as small as two cores
os.environ["MPLBACKEND"] = "Agg"

from tests.commands import refused, say  # noqa: F401 -- fixtures of all tests
from tests.loss_tools import plain_descent  # noqa: F401

gc.set_threshold(200_000, 50, 1000)  # traces are many small objects, which live

# Files that take longest, which are begun first, so that no worker waits for the other's last one.
LONGEST = """contract resume docs distributed pipelined notebooks site randomize fuzz brax offline halves
collect_dataset api extend own_env fused env_params memory nonfinite seams""".split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist loadfile`, a file's tests share a worker, and so the fixtures of their module."""

    def order(item: pytest.Item) -> int:
        name = item.path.stem.removeprefix("test_")
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=order)


MOST_MEMORY = 2 * 2**30  # bytes of a worker


@pytest.fixture(scope="module", autouse=True)
def release_programs() -> Iterator[None]:
    """Compiled programs and traces serve the next module, until they fill the memory."""
    yield
    import jax

    from rlx.parallel import machine
    from tests.programs import REUSE

    if (machine.process_memory() or MOST_MEMORY) >= MOST_MEMORY:
        REUSE.compiled.clear()
        jax.clear_caches()


@pytest.fixture(scope="module")
def reuse_programs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs of a module share their compiled programs, where these are equal; with `ORBAX` they save by Orbax."""
    from tests.programs import REUSE

    with REUSE(orbax=getattr(request.module, "ORBAX", False)):
        yield
