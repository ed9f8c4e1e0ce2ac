"""Saving and restoring pytrees through Orbax, so that nothing damaged is ever used; no pickle anywhere.

A tree is saved as a flat table from leaf path to array, so that the table on disk can be compared with the one that is
wanted, leaf by leaf and by name, before anything is read: Orbax itself casts a wrong type silently. Nor does it notice
a flipped bit, or a folder that was never finished. So a step is written under another name, with a manifest of digests
of all files and leaves, and renamed when it is complete.

Only the process that trains writes here: `save`, `newest`, `prune` and `remove_after` need the run's lock. All other
functions are read-only, so that they may look at a run that is being trained.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from rlx.errors import RlxError, install
from rlx.runs import leaf_files
from rlx.runs.manifest import MANIFEST as MANIFEST
from rlx.runs.manifest import Damaged as Damaged
from rlx.runs.manifest import Missing as Missing
from rlx.runs.manifest import read_manifest, verify_files, write_manifest

DAMAGED, UNFINISHED = "damaged", "unfinished"  # prefixes of steps that were set aside
WRITING = "writing"  # prefix of a step that is being written
CLOUDS = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}  # the package that each needs, and the extra that brings it
WIDE = ("float64", "int64", "uint64", "complex128")  # types that JAX has with JAX_ENABLE_X64 only
Folder = str | os.PathLike[str]  # also gs:// and s3://


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by their path, such as `['agent'].critic.params['params']['Dense_0']['kernel']`."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def locate(folder: Folder) -> epath.Path:
    """The folder as a path. Raises RlxError for an unknown cloud, or one whose package is not installed."""
    scheme, is_address, _ = str(folder).partition("://")
    if is_address and scheme not in CLOUDS:
        raise RlxError(f"{folder}: must be a folder, or an address that begins with gs:// or s3://")
    if is_address and importlib.util.find_spec(CLOUDS[scheme][0]) is None:
        package, extra = CLOUDS[scheme]
        raise RlxError(f"{folder}: {scheme}:// needs {package}, which is not installed; {install(extra)}")
    return epath.Path(folder)


def home(folder: Folder, base: str) -> epath.Path:
    """Where a run keeps its full checkpoints: in its own folder, or under `base` if that is named."""
    return locate(base) / locate(folder).name if base else locate(folder) / "resume"


def save(folder: Folder, step: int, tree: Any, about: dict[str, Any] | None = None) -> str:
    """Writes `tree` (host arrays) as `folder/step`, completely or not at all; returns the digest of its content.

    `about` is JSON to save with it. Raises RlxError where it cannot be written; older steps are untouched.
    """
    place = locate(folder)
    draft = place / f"{WRITING}-{step}"
    leaves = {name: np.asarray(leaf) for name, leaf in flatten(tree).items()}
    try:
        set_unfinished_aside(place)
        if step <= max(steps(place), default=-1):
            raise RlxError(f"{place}: step {step} was not saved; is a later one saved already?")
        for path in _drafts(place):
            _remove(path)
        leaf_files.write(draft, leaves)
        digest = write_manifest(draft, leaves, about or {})
        draft.rename(place / str(step))
        _remove_unfinished(place, step)
        return digest
    except RlxError:
        raise
    except Exception as error:  # Orbax and TensorStore raise what they please where a disk is full
        with contextlib.suppress(OSError):
            _remove(draft)  # a full disk needs the room
        remedy = "older ones are intact; make room, then go on with `rlx train --resume`"
        raise RlxError(f"{place / str(step)}: could not be written ({leaf_files.reason(error)}); {remedy}") from None


def _drafts(place: epath.Path) -> Iterator[epath.Path]:
    """What killed processes left half written; also the temporary folders of Orbax's manager, as rlx 1 used it."""
    if place.exists():
        yield from (path for path in place.iterdir() if path.name.startswith(f"{WRITING}-") or "-tmp" in path.name)


def _remove(path: epath.Path) -> None:
    """Removes a folder or a file; of a link only the link."""
    if path.is_dir() and not os.path.islink(path):
        path.rmtree()
    elif os.path.lexists(path):
        path.unlink()


def steps(folder: Folder) -> list[int]:
    """The complete steps, oldest first; empty where there are none."""
    place = locate(folder)
    names = [path.parent.name for path in place.glob(f"*/{MANIFEST}")] if place.exists() else []
    return sorted(int(name) for name in names if name.isdecimal())


def manifest(folder: Folder, step: int) -> dict[str, Any]:
    """What a step holds: `leaves` (shape, dtype and sha256 by path), `about`, `digest`. Raises Damaged."""
    return read_manifest(locate(folder) / str(step))


def verify(folder: Folder, step: int) -> None:
    """Raises Damaged, naming the first file that is not as it was saved."""
    verify_files(locate(folder) / str(step))


def newest(folder: Folder, warn: Callable[[str], None]) -> int | None:
    """The last step that verifies, None if there is none. Later ones that do not are set aside, with a warning.

    For the process that trains; others use `newest_intact`.
    """
    place = locate(folder)
    set_unfinished_aside(place, warn)
    for step in reversed(steps(place)):
        try:
            verify(place, step)
            return step
        except Damaged as error:
            aside = _set_aside(place / str(step), DAMAGED)
            warn(f"{error}; set aside as {aside.name}, going on with the step before")
    return None


def newest_intact(folder: Folder) -> int | None:
    """The last step that verifies, None if there is none; nothing is renamed."""
    for step in reversed(steps(folder)):
        with contextlib.suppress(Damaged):
            verify(folder, step)
            return step
    return None


def set_unfinished_aside(place: epath.Path, warn: Callable[[str], None] = lambda text: None) -> None:
    """Renames steps without a manifest, which were never finished (Orbax would take the last for a good one)."""
    if not place.exists():
        return
    for path in sorted(place.iterdir()):
        if path.name.isdecimal() and not (path / MANIFEST).exists():
            aside = _set_aside(path, UNFINISHED)
            warn(f"{path}: has no {MANIFEST}; set aside as {aside.name} until that step or a later one is saved")


def _remove_unfinished(place: epath.Path, step: int) -> None:
    """Removes unfinished steps up to `step`, which is complete."""
    for path in place.glob(f"{UNFINISHED}-*"):
        number = path.name.split("-")[1]
        if number.isdecimal() and int(number) <= step:
            _remove(path)


def _set_aside(path: epath.Path, kind: str) -> epath.Path:
    names = (f"{kind}-{path.name}" + (f"-{i}" if i else "") for i in range(1000))
    aside = next(path.parent / name for name in names if not os.path.lexists(path.parent / name))
    return path.rename(aside)


def prune(folder: Folder, keep: int) -> None:
    """Removes all but the `keep` newest steps."""
    for step in steps(folder)[:-keep]:
        _remove_step(folder, step)


def remove_after(folder: Folder, step: int) -> None:
    """Removes the steps after `step`: a run that goes on from `step` makes them again."""
    for later in steps(folder):
        if later > step:
            _remove_step(folder, later)


def _remove_step(folder: Folder, step: int) -> None:
    """Renames it first, so that no process reads a step that is half removed."""
    draft = locate(folder) / f"{WRITING}-{step}"
    _remove(draft)
    _remove((locate(folder) / str(step)).rename(draft))


def choose(folder: Folder, step: int | None) -> int:
    """The step to use, by default the last. Raises RlxError for one that does not exist."""
    place = locate(folder)
    saved = steps(place)
    if not saved:
        raise RlxError(f"{place}: holds no checkpoint; train the run first")
    if step is not None and step not in saved:
        raise RlxError(f"{place}: has no step {step}; it has {', '.join(map(str, saved))}")
    return saved[-1] if step is None else step


def leaf_names(folder: Folder, step: int | None = None) -> list[str]:
    """Paths of the leaves saved at `step` (the last by default), as of `flatten`. Raises RlxError as `restore` does."""
    place, step = locate(folder), choose(folder, step)
    try:
        return list(manifest(place, step)["leaves"])
    except Damaged as error:
        raise RlxError(f"{error}; choose another --step") from None


def restore(folder: Folder, template: Any, step: int | None = None) -> Any:
    """The tree saved at `step` (the last by default), with `template`'s structure, shapes and types.

    Raises RlxError, naming the leaf, where what is saved does not fit the template, or nothing can be read.
    """
    place, step = locate(folder), choose(folder, step)
    try:
        verify(place, step)
    except Damaged as error:
        raise RlxError(f"{error}; choose another --step") from None
    table, wanted = manifest(place, step)["leaves"], flatten(template)
    compare(place / str(step), table, wanted)
    try:
        saved = leaf_files.read(place / str(step), list(table), wanted)
    except (OSError, ValueError, KeyError) as error:
        raise RlxError(
            f"{place / str(step)}: cannot be read ({leaf_files.reason(error)}); choose another --step"
        ) from None
    leaves = {name: np.asarray(saved[name]) for name in wanted}
    for name, leaf in leaves.items():
        if leaf_files.digest(leaf) != table[name]["sha256"]:
            raise RlxError(f"{place / str(step)}: {name} was read wrongly; choose another --step")
    return jax.tree.unflatten(jax.tree.structure(template), leaves.values())


def compare(place: Any, saved: dict[str, dict[str, Any]], wanted: dict[str, Any]) -> None:
    """Raises RlxError, naming the first leaf by which a saved table differs from the wanted one."""
    old = {name: f"{leaf['dtype']} {tuple(leaf['shape'])}" for name, leaf in saved.items()}
    new = {name: f"{leaf.dtype} {tuple(leaf.shape)}" for name, leaf in wanted.items()}
    for name in [*new, *old]:
        before, now = old.get(name, "missing"), new.get(name, "unknown")
        if before != now:
            remedy = "the run has another agent or networks"
            if _differ_in_width(before, now):
                remedy = f"set JAX_ENABLE_X64={int(before.startswith(WIDE))}, as in training"
            raise RlxError(f"{place}: {name} is {before} in the checkpoint but {now} here; {remedy}")


def _differ_in_width(one: str, other: str) -> bool:
    """Whether two types of one shape differ in JAX_ENABLE_X64."""
    return one.split(" ", 1)[1:] == other.split(" ", 1)[1:] != [] and one.startswith(WIDE) != other.startswith(WIDE)
