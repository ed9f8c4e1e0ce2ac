"""Saving and restoring what a run has learned, through Orbax; no pickle anywhere.

A tree is saved as a flat table from leaf path to array, so that what is on disk can be compared with what is wanted,
leaf by leaf and by name, before anything is read: Orbax itself casts a wrong type without a word. Nor does it notice a
flipped bit, so every file's digest is kept and checked, too.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlx import parallel
from rlx.types import RlxError

DIGESTS = "digests.json"  # of all files of a step, written last: a step without it was never finished


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by their path, such as `['agent'].critic.params['params']['Dense_0']['kernel']`."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _manager(folder: Path) -> Any:
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every file it looks at
    import orbax.checkpoint as ocp  # late: it costs a quarter of a second that `--help` need not pay

    return ocp.CheckpointManager(folder.absolute(), item_handlers=ocp.StandardCheckpointHandler())


def save(folder: Path, step: int, tree: Any) -> None:
    """Writes `tree` (host or device arrays) as `folder/step` and waits until it is whole on disk."""
    with _manager(folder) as manager:
        import orbax.checkpoint as ocp

        if not manager.save(step, args=ocp.args.StandardSave(flatten(tree))):
            raise RlxError(f"{folder}: step {step} was not saved; is a later one there already?")
        manager.wait_until_finished()
    if parallel.is_first_process():
        saved = folder / str(step)
        files = sorted(path for path in saved.rglob("*") if path.is_file())
        draft = saved / "digests.tmp"
        draft.write_text(json.dumps({str(path.relative_to(saved)): _digest(path) for path in files}, indent=2))
        draft.replace(saved / DIGESTS)


def steps(folder: Path) -> list[int]:
    """The steps that were saved whole, oldest first; empty where there are none."""
    return sorted(int(path.parent.name) for path in folder.glob(f"*/{DIGESTS}") if path.parent.name.isdecimal())


def restore(folder: Path, template: Any, step: int | None = None) -> Any:
    """The tree saved at `step` (the last by default), with `template`'s structure, shapes and types.

    Raises RlxError, naming the leaf, where what is saved does not fit the template, or nothing can be read.
    """
    found = steps(folder)
    if not found:
        raise RlxError(f"{folder}: holds no checkpoint; train the run first")
    step = found[-1] if step is None else step
    if step not in found:
        raise RlxError(f"{folder}: has no step {step}; it has {', '.join(map(str, found))}")
    _verify(folder / str(step))
    with _manager(folder) as manager:
        import orbax.checkpoint as ocp

        try:
            _compare(folder / str(step), manager.item_metadata(step), flatten(template))
            saved = manager.restore(step, args=ocp.args.StandardRestore(flatten(template)))
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise RlxError(f"{folder / str(step)}: cannot be read ({reason}); choose another --step") from None
    leaves = [np.asarray(saved[name]) for name in flatten(template)]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(folder: Path) -> None:
    """Raises RlxError naming the first file that is not as it was saved."""
    try:
        digests = dict(json.loads((folder / DIGESTS).read_text()))
    except (OSError, ValueError, TypeError):
        raise RlxError(f"{folder / DIGESTS}: is damaged; choose another --step") from None
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file() or _digest(path) != digest:
            state = "damaged" if path.exists() else "missing"
            raise RlxError(f"{path}: is {state}; choose another --step")


def _compare(folder: Path, saved: Any, template: dict[str, Any]) -> None:
    table = {name: f"{leaf.dtype} {tuple(leaf.shape)}" for name, leaf in dict(saved).items()}
    wanted = {name: f"{leaf.dtype} {tuple(leaf.shape)}" for name, leaf in template.items()}
    for name in [*wanted, *table]:
        if table.get(name) != wanted.get(name):
            there, here = table.get(name, "missing"), wanted.get(name, "unknown")
            raise RlxError(f"{folder}: {name} is {there} there but {here} here; the run has other networks")
