"""Programs: what compiles when, and Python's garbage collector meanwhile."""

import gc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from rlx import parallel
from rlx.train.compile import Program, keep_compiled_programs, tracing

SHAPE = jax.ShapeDtypeStruct((3,), jnp.float32)


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """Leaves the garbage collector as it was."""
    on = gc.isenabled()
    gc.enable()
    yield
    (gc.enable if on else gc.disable)()


@pytest.mark.parametrize(("chosen", "kept"), [(None, "cache/rlx/xla"), ("own", "own")])
def test_programs_are_kept_where_nobody_has_chosen_a_place(chosen: str | None, kept: str, monkeypatch: Any) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    before = jax.config.values["jax_compilation_cache_dir"]
    try:
        jax.config.update("jax_compilation_cache_dir", chosen)
        keep_compiled_programs()
        assert jax.config.values["jax_compilation_cache_dir"] == kept
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_shapes_may_be_found_later() -> None:
    """A function that finds a shape is called once compiling begins, on the compiling thread, and for `shapes`."""
    asked: list[bool] = []

    def found() -> jax.ShapeDtypeStruct:
        asked.append(gc.isenabled())
        return SHAPE

    program = Program("sum", jax.jit(lambda x, y: x + y), SHAPE, found)
    assert asked == []
    with ThreadPoolExecutor(1) as pool:
        program.start(pool)
        assert program(jnp.ones(3), jnp.full(3, 2.0)).tolist() == [3, 3, 3]
    assert asked == [False]  # while it traces, the collector pauses
    assert program.shapes.shape == (3,)
    with pytest.raises(TypeError):
        program(jnp.ones(4), jnp.ones(4))


@pytest.mark.parametrize("switch, after", [(gc.enable, True), (gc.disable, False)])
def test_the_collector_is_left_as_it_was(switch: Callable[[], None], after: bool) -> None:
    """Also after an error, and where somebody has switched it off for good."""
    switch()
    with pytest.raises(ZeroDivisionError), tracing(), tracing():
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled() == after
    gc.enable()  # and it pauses until the last thread is done
    first, second = tracing(), tracing()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not gc.isenabled()
    second.__exit__(None, None, None)
    assert gc.isenabled()


@pytest.mark.parametrize("ahead", [True, False])
def test_mapped_functions_are_freed_with_what_they_hold(ahead: bool) -> None:
    """With their programs: JAX's own cache would keep every run's for good, and the memory for code runs out."""

    class Held:
        """What a function of a run holds."""

    def run() -> list[weakref.ref[Any]]:
        held = Held()

        def function(x: jax.Array) -> jax.Array:
            assert isinstance(held, Held)
            return x + 1

        mapped, rows = parallel.pmap(function, parallel.local_devices()[:1]), jnp.ones((1, 3))
        program = Program("mapped", mapped, rows) if ahead else mapped
        assert (program(rows) == 2).all()
        return [weakref.ref(function), weakref.ref(held)]

    known = run()
    gc.collect()
    assert [reference() for reference in known] == [None, None]


def test_a_mapped_function_outlives_others_of_the_same() -> None:
    def function(x: jax.Array) -> jax.Array:
        return 2 * x

    first, second = (parallel.pmap(function, parallel.local_devices()[:1]) for _ in range(2))
    rows = jnp.ones((1, 3))
    assert (first(rows) == second(rows)).all()
    del first
    gc.collect()
    assert (second(rows) == 2).all() and (second(jnp.ones((1, 5))) == 2).all()
