"""The full training state of a run, saved and restored: a driver's state, and where the run stood."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
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

RUNTIME = (  # settings of how and where a run computes, not of what
    *("num_devices", "split", "depth", "keep", "on_nonfinite", "max_magnitude"),
    *("checkpoint_every", "checkpoint_replay"),
    *("tensorboard", "wandb", "members"),
)


def identity(run_config: RunConfig) -> str:
    """A digest of what a run computes; how and where it does may change when it is resumed."""
    content = config.to_json(run_config)
    content["settings"] = {name: value for name, value in content["settings"].items() if name not in RUNTIME}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def place(run_config: RunConfig, folder: Path) -> checkpoint.Folder:
    """Where a run keeps its full checkpoints; each of several processes its own."""
    root = checkpoint.home(folder, run_config.train.checkpoint_dir)
    return root / f"process-{parallel.process()}" if parallel.several_processes() else root


def check_place(run_config: RunConfig, folder: Path) -> None:
    """Raises RlxError where full checkpoints cannot be written: an unknown address, a file in the way, no permission.

    Folders made for the test are removed. No cloud is asked.
    """
    checkpoints, base = place(run_config, folder), run_config.train.checkpoint_dir
    if not base or "://" in base:
        return
    path = Path(checkpoints)
    for each in (path, *path.parents):
        if os.path.exists(each) and not os.path.isdir(each):
            raise RlxError(f"{each}: is no folder, so checkpoints cannot go there; choose another --checkpoint-dir")
    missing = [each for each in (path, *path.parents) if not os.path.lexists(each)]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise RlxError(
            f"{path}: checkpoints cannot be written there ({error.strerror or error}); choose another --checkpoint-dir"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            for each in missing:
                each.rmdir()


def _is_ring(node: Any) -> bool:
    return isinstance(node, Replay)


def pack(driver: Driver, report: Report, with_replay: bool) -> Any:
    """The training state copied to the host, of rings the filled part; waits for the device, for no disk."""

    def trimmed(node: Any) -> Any:
        if not _is_ring(node):
            return np.array(node)
        size = int(node.cursor.size) if with_replay else 0
        cursor = jax.tree.map(np.array if size else np.zeros_like, node.cursor)
        return Replay(jax.tree.map(lambda x: np.array(x[:, :, :size]), node.rows) if size else None, cursor)

    return jax.tree.map(trimmed, driver.training_state(report.state, report.totals), is_leaf=_is_ring)


def about(moment: Moment) -> dict[str, Any]:
    """Where a run stood, to save with what `pack` returned."""
    return {"offline": moment.offline, "iteration": moment.report.iteration, "learned": moment.report.learned}


def unpack(folder: checkpoint.Folder, step: int, driver: Driver) -> Resumed:
    """The training state that was packed, for a driver of the same run, on any number of devices.

    Raises RlxError naming a leaf that does not fit.
    """
    manifest = checkpoint.manifest(folder, step)
    saved, shapes = manifest["leaves"], driver.training_state_shapes

    def as_saved(path: Any, node: Any) -> Any:
        if not _is_ring(node):
            return node
        name = jax.tree_util.keystr(path)
        size = next((leaf["shape"][2] for other, leaf in saved.items() if other.startswith(f"{name}.rows")), 0)
        return Replay(jax.tree.map(lambda x: _with_slots(x, size), node.rows) if size else None, node.cursor)

    template = jax.tree_util.tree_map_with_path(as_saved, shapes, is_leaf=_is_ring)
    training_state = checkpoint.restore(folder, template, step)

    def filled(node: Any, like: Any) -> Any:
        if not _is_ring(node):
            return node
        rows = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like.rows)
        if node.rows is not None:
            jax.tree.map(lambda full, part: np.copyto(full[:, :, : part.shape[2]], part), rows, node.rows)
        return Replay(rows, node.cursor)

    training_state = jax.tree.map(filled, training_state, shapes, is_leaf=_is_ring)
    return Resumed(training_state, manifest["about"]["iteration"], manifest["about"]["learned"])


def _with_slots(x: Any, size: int) -> jax.ShapeDtypeStruct:
    """A ring's leaf `[M, shards, T, ...]` with the slots that were saved; one that has fewer keeps its own."""
    return jax.ShapeDtypeStruct((*x.shape[:2], min(size, x.shape[2]), *x.shape[3:]), x.dtype)


def find_newest(folder: checkpoint.Folder, warn: Callable[[str], None]) -> tuple[int, bool] | None:
    """The newest step that is intact in all processes, and whether it was offline; None where there is none.

    Damaged steps are set aside, so this is for the process that trains.
    """
    step = checkpoint.newest(folder, warn)
    step = min(parallel.of_all_processes(0 if step is None else step + 1)) - 1
    if step < 0:
        return None
    checkpoint.verify(folder, step)
    about = checkpoint.manifest(folder, step)["about"]
    if missing := {"offline", "iteration", "learned"} - about.keys():
        raise RlxError(f"{folder}: step {step} is no full checkpoint (no {min(missing)}); remove it")
    return step, about["offline"]


class Saver:
    """Saves a run on a thread of its own: the policy at evaluations, the full training state at checkpoints."""

    def __init__(self, run_config: RunConfig, folder: Path) -> None:
        self.train, self.identity = run_config.train, identity(run_config)
        self.policies, self.full = checkpoint.locate(folder) / "checkpoints", place(run_config, folder)
        self.digest: str | None = None  # of the full training state, at the last checkpoint
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

    def remove_after(self, run_step: int) -> None:
        """Removes what a resumed run will make again."""
        checkpoint.remove_after(self.full, run_step)
        if parallel.is_first_process():
            checkpoint.remove_after(self.policies, run_step)

    def save(self, moment: Moment) -> None:
        """Copies what is due off the device and begins to save it. Raises RlxError where the last save failed."""
        report, driver = moment.report, moment.driver
        if self._pending is not None and self._pending.done():
            self.wait()
        if not report.saves and not report.saves_policy:
            return
        begun = time.perf_counter()
        policy = None
        if report.saves_policy:
            policy = jax.tree.map(np.array, driver.fetch(driver.policy_snapshot(report.state)))
        training_state = pack(driver, report, self.train.checkpoint_replay) if report.saves else None
        self.wait()
        self._pending = self._thread.submit(self._save, policy, training_state, report.run_step, about(moment))
        self.blocked_s += time.perf_counter() - begun
        self.count += report.saves

    def wait(self) -> None:
        """Until nothing is being saved. Raises RlxError where it failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _save(self, policy: Any, training_state: Any, run_step: int, about: dict[str, Any]) -> None:
        """The policy first: a run that goes on from here does not evaluate again."""
        if policy is not None and parallel.is_first_process() and run_step not in checkpoint.steps(self.policies):
            checkpoint.save(self.policies, run_step, policy)
        if training_state is not None:
            if run_step not in checkpoint.steps(self.full):
                checkpoint.save(self.full, run_step, training_state, about | {"identity": self.identity})
                checkpoint.prune(self.full, self.train.keep)
            self.digest = checkpoint.manifest(self.full, run_step)["digest"]
