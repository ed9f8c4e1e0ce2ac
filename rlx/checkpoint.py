"""Saving and restoring what a run has learned, through Orbax; no pickle anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from rlx.types import RlxError


def _manager(folder: Path, keep: int | None = None) -> Any:
    import orbax.checkpoint as ocp  # late: it costs a quarter of a second that `--help` need not pay

    return ocp.CheckpointManager(folder.absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=keep))


def save(folder: Path, step: int, tree: Any) -> None:
    """Writes `tree` (host or device arrays) as `folder/step` and waits until it is whole on disk."""
    import orbax.checkpoint as ocp

    with _manager(folder) as manager:
        if not manager.save(step, args=ocp.args.StandardSave(tree)):
            raise RlxError(f"{folder}: step {step} was not saved; is there a newer one?")
        manager.wait_until_finished()


def steps(folder: Path) -> list[int]:
    """The saved steps, oldest first; empty where there are none."""
    if not folder.is_dir():
        return []
    with _manager(folder) as manager:
        return sorted(manager.all_steps())


def restore(folder: Path, template: Any, step: int | None = None) -> Any:
    """The tree saved at `step` (the last by default), with `template`'s structure, shapes and types.

    Raises RlxError, naming the leaf, where what is saved does not fit the template.
    """
    import orbax.checkpoint as ocp

    found = steps(folder)
    if not found:
        raise RlxError(f"{folder}: holds no checkpoint; train the run first")
    step = found[-1] if step is None else step
    if step not in found:
        raise RlxError(f"{folder}: has no step {step}; it has {', '.join(map(str, found))}")
    with _manager(folder) as manager:
        saved = manager.item_metadata(step)
        _compare(folder, saved, template)
        return manager.restore(step, args=ocp.args.StandardRestore(template))


def _compare(folder: Path, saved: Any, template: Any) -> None:
    """Orbax casts a wrong dtype without a word, so shapes and types are compared before it reads."""
    import orbax.checkpoint as ocp

    def shapes(tree: Any) -> dict[str, tuple[Any, ...]]:
        plain = ocp.tree.serialize_tree(tree) if hasattr(ocp.tree, "serialize_tree") else tree
        leaves = jax.tree_util.tree_leaves_with_path(plain)
        return {jax.tree_util.keystr(path): (tuple(leaf.shape), str(leaf.dtype)) for path, leaf in leaves}

    have, want = shapes(getattr(saved, "tree", saved)), shapes(template)
    for name in sorted(have.keys() | want.keys()):
        if have.get(name) != want.get(name):
            raise RlxError(f"{folder}: {name} is {have.get(name, 'missing')} there but {want.get(name, 'unknown')} here")
