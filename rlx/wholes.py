"""Everything that a run's future hangs on, as it is saved and restored: a driver's whole state and where it stood."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rlx import checkpoint
from rlx.replay import Replay
from rlx.experiment import Moment
from rlx.train.driver import Driver, Report, Resumed


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

    return jax.tree.map(trimmed, driver.whole(report.state, report.totals), is_leaf=_is_ring)


def about(moment: Moment) -> dict[str, Any]:
    """Where a run stood, to keep beside what `pack` returned."""
    return {"offline": moment.offline, "tick": moment.report.tick, "learned": moment.report.learned}


def unpack(folder: checkpoint.Folder, step: int, driver: Driver) -> Resumed:
    """What was packed, for a driver of the same run, on as many devices or not.

    Raises RlxError naming a leaf that does not fit.
    """
    known = checkpoint.manifest(folder, step)
    saved, shapes = known["leaves"], driver.whole_shapes

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
    return Resumed(whole, known["about"]["tick"], known["about"]["learned"])


def _with_slots(x: Any, size: int) -> jax.ShapeDtypeStruct:
    """A ring's leaf `[M, shards, T, ...]` with the slots that were saved; one that has fewer keeps its own."""
    return jax.ShapeDtypeStruct((*x.shape[:2], min(size, x.shape[2]), *x.shape[3:]), x.dtype)


def find(folder: checkpoint.Folder, warn: Callable[[str], None]) -> tuple[int, bool] | None:
    """The newest good step and whether it was offline, None where there is none; see `checkpoint.newest`."""
    step = checkpoint.newest(folder, warn)
    return None if step is None else (step, checkpoint.manifest(folder, step)["about"]["offline"])
