"""Everything that a run's future hangs on, as it is saved and restored: a driver's whole state and where it stood."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from rlx import config, parallel
from rlx.config import RunConfig
from rlx.errors import RlxError
from rlx.experiment import Moment
from rlx.replay import Replay
from rlx.runs import checkpoint
from rlx.train.loop import Driver, Report, Resumed

HOW = (  # not what
    *("num_devices", "split", "depth", "keep", "on_nonfinite", "max_magnitude"),
    *("checkpoint_every", "checkpoint_replay"),
    *("tensorboard", "wandb", "members"),
)


def identity(run_config: RunConfig) -> str:
    """A digest of what a run computes; how and where it does may change when it is resumed."""
    content = config.to_json(run_config)
    content["settings"] = {name: value for name, value in content["settings"].items() if name not in HOW}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def place(run_config: RunConfig, folder: Path) -> checkpoint.Folder:
    """Where a run keeps its checkpoints of everything; each of several processes its own."""
    root = checkpoint.home(folder, run_config.train.checkpoint_dir)
    return root / f"process-{parallel.process()}" if parallel.several_processes() else root


def check_place(run_config: RunConfig, folder: Path) -> None:
    """Raises RlxError where a run's checkpoints cannot go: an address that cannot be, or a file in the way."""
    found, base = place(run_config, folder), run_config.train.checkpoint_dir
    if not base or "://" in base:
        return
    for path in (Path(found), *Path(found).parents):
        if os.path.exists(path) and not os.path.isdir(path):  # which answer also where nothing may be looked at
            raise RlxError(f"{path}: is no folder, so checkpoints cannot go there; choose another --checkpoint-dir")


def _is_ring(node: Any) -> bool:
    return isinstance(node, Replay)


def pack(driver: Driver, report: Report, with_replay: bool) -> Any:
    """A copy on the host of all that there is, of rings the filled part; waits for the device, for no disk."""

    def trimmed(node: Any) -> Any:
        if not _is_ring(node):
            return np.array(node)
        size = int(node.cursor.size) if with_replay else 0
        cursor = jax.tree.map(np.array if size else np.zeros_like, node.cursor)
        return Replay(jax.tree.map(lambda x: np.array(x[:, :, :size]), node.rows) if size else None, cursor)

    return jax.tree.map(trimmed, driver.training_state(report.state, report.totals), is_leaf=_is_ring)


def about(moment: Moment) -> dict[str, Any]:
    """Where a run stood, to keep beside what `pack` returned."""
    return {"offline": moment.offline, "iteration": moment.report.iteration, "learned": moment.report.learned}


def unpack(folder: checkpoint.Folder, step: int, driver: Driver) -> Resumed:
    """What was packed, for a driver of the same run, on as many devices or not.

    Raises RlxError naming a leaf that does not fit.
    """
    known = checkpoint.manifest(folder, step)
    saved, shapes = known["leaves"], driver.training_state_shapes

    def as_saved(path: Any, node: Any) -> Any:
        if not _is_ring(node):
            return node
        name = jax.tree_util.keystr(path)
        size = next((leaf["shape"][2] for other, leaf in saved.items() if other.startswith(f"{name}.rows")), 0)
        return Replay(jax.tree.map(lambda x: _with_slots(x, size), node.rows) if size else None, node.cursor)

    template = jax.tree_util.tree_map_with_path(as_saved, shapes, is_leaf=_is_ring)
    whole = checkpoint.restore(folder, template, step)

    def filled(node: Any, like: Any) -> Any:
        if not _is_ring(node):
            return node
        rows = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like.rows)
        if node.rows is not None:
            jax.tree.map(lambda full, part: np.copyto(full[:, :, : part.shape[2]], part), rows, node.rows)
        return Replay(rows, node.cursor)

    whole = jax.tree.map(filled, whole, shapes, is_leaf=_is_ring)
    return Resumed(whole, known["about"]["iteration"], known["about"]["learned"])


def _with_slots(x: Any, size: int) -> jax.ShapeDtypeStruct:
    """A ring's leaf `[M, shards, T, ...]` with the slots that were saved; one that has fewer keeps its own."""
    return jax.ShapeDtypeStruct((*x.shape[:2], min(size, x.shape[2]), *x.shape[3:]), x.dtype)


def find(folder: checkpoint.Folder, warn: Callable[[str], None]) -> tuple[int, bool] | None:
    """The newest step that is good in all processes, and whether it was offline; None where there is none."""
    step = checkpoint.newest(folder, warn)
    step = min(parallel.of_all_processes(0 if step is None else step + 1)) - 1
    if step < 0:
        return None
    checkpoint.verify(folder, step)
    return step, checkpoint.manifest(folder, step)["about"]["offline"]


class Keeper:
    """Saves what a run learns, on a thread of its own: policies at evaluations, everything at checkpoints."""

    def __init__(self, run_config: RunConfig, folder: Path) -> None:
        self.train, self.identity = run_config.train, identity(run_config)
        self.policies, self.wholes = checkpoint.locate(folder) / "checkpoints", place(run_config, folder)
        self.digest: str | None = None  # of everything, at the last checkpoint
        self.blocked_s, self.count = 0.0, 0
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.nullcontext() if error is None else contextlib.suppress(RlxError):
            self.wait()

    def forget_after(self, run_step: int) -> None:
        """Removes what a resumed run will make again."""
        checkpoint.remove_after(self.wholes, run_step)
        if parallel.is_first_process():
            checkpoint.remove_after(self.policies, run_step)

    def keep(self, moment: Moment) -> None:
        """Copies what is due here off the device and begins to save it. Raises RlxError where the last save failed."""
        found, driver = moment.report, moment.driver
        if self._pending is not None and self._pending.done():
            self.wait()
        if not found.saves and found.evaluation is None:
            return
        begun = time.perf_counter()
        learned = (
            jax.tree.map(np.array, driver.fetch(driver.policy_snapshot(found.state))) if found.evaluation else None
        )
        whole = pack(driver, found, self.train.checkpoint_replay) if found.saves else None
        self.wait()
        self._pending = self._thread.submit(self._save, learned, whole, found.run_step, about(moment))
        self.blocked_s += time.perf_counter() - begun
        self.count += found.saves

    def wait(self) -> None:
        """Until nothing is being saved. Raises RlxError where it failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _save(self, learned: Any, whole: Any, run_step: int, stood: dict[str, Any]) -> None:
        """The policy first: a run that goes on from here does not evaluate again."""
        if learned is not None and parallel.is_first_process() and run_step not in checkpoint.steps(self.policies):
            checkpoint.save(self.policies, run_step, learned)
        if whole is not None:
            if run_step not in checkpoint.steps(self.wholes):
                checkpoint.save(self.wholes, run_step, whole, stood | {"identity": self.identity})
                checkpoint.prune(self.wholes, self.train.keep)
            self.digest = checkpoint.manifest(self.wholes, run_step)["digest"]
