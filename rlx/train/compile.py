"""A compiled program: lowered and compiled once, ahead of its first call and off the controlling thread."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from rlx import parallel

_pausing = threading.Lock()
_paused = 0  # by how many threads
_was_on = True


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Python's garbage collector pauses inside: jax traces into many small objects that live on."""
    global _paused, _was_on
    with _pausing:
        if _paused == 0:
            _was_on = gc.isenabled()
            gc.disable()
        _paused += 1
    try:
        yield
    finally:
        with _pausing:
            _paused -= 1
            if _paused == 0 and _was_on:
                gc.enable()


def keep_compiled_programs() -> None:
    """JAX's persistent cache, so that a program compiles only once; JAX_COMPILATION_CACHE_DIR rules."""
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]  # `read` refuses it
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and not chosen:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlx" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))


class Program:
    """`function` for arguments of these shapes. Compiles in the background; calling it waits for that.

    A call with other shapes or types fails instead of compiling again, so each program is compiled exactly once.
    Where shapes take long to find, give the function that finds them: it is called when compiling begins.
    `seldom` programs run so rarely that compiling them quickly matters more than running them quickly.
    """

    def __init__(self, name: str, function: Any, *arguments: Any, seldom: bool = False) -> None:
        self.name, self.seldom = name, seldom
        self.compile_s = 0.0
        self._function, self._arguments = function, arguments
        self._compiled: Future[Callable[..., Any]] | None = None

    @property
    def shapes(self) -> Any:
        """Shapes and types of the result."""
        return jax.eval_shape(self._function, *self._argument_shapes())

    def start(self, pool: ThreadPoolExecutor) -> None:
        """Begins to compile on a thread of `pool`."""
        if self._compiled is None:
            self._compiled = pool.submit(self._compile)

    def compiled(self) -> Any:
        """The compiled program; compiles here and now if nothing began to."""
        if self._compiled is None:
            self._compiled = Future()
            self._compiled.set_result(self._compile())
        return self._compiled.result()

    def __call__(self, *arguments: Any) -> Any:
        return self.compiled()(*arguments)

    def _compile(self) -> Any:
        begun = time.perf_counter()
        if parallel.several_processes():  # jax cannot lower such a pmap ahead of time: it compiles in the first call
            return self._function
        options = parallel.quick_compilation() if self.seldom else None
        with tracing():
            lowered = self._function.lower(*self._argument_shapes())
        compiled = lowered.compile(options)
        self.compile_s = time.perf_counter() - begun
        return compiled

    def _argument_shapes(self) -> list[Any]:
        return [shapes() if callable(shapes) else shapes for shapes in self._arguments]
