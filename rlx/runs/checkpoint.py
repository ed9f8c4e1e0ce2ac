"""Saving and restoring pytrees through Orbax, so that nothing damaged is ever used; no pickle anywhere.

A tree is saved as a flat table from leaf path to array, so that what is on disk can be compared with what is wanted,
leaf by leaf and by name, before anything is read: Orbax itself casts a wrong type without a word. Nor does it notice a
flipped bit, or that a folder was never finished. So each step has a manifest, written last, with digests of all files
and leaves; what does not verify is set aside, and the step before it is used.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from rlx import parallel
from rlx.errors import RlxError, install

MANIFEST = "manifest.json"  # its first line is the digest of the rest
FORMAT = 1
DAMAGED, UNFINISHED = "damaged", "unfinished"  # what a step is called that was set aside
ALONE = "process"  # where one of several processes keeps its leaves
CLOUDS = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}  # the package that each needs, and the extra that brings it
Folder = str | os.PathLike[str]  # also gs:// and s3://


class Damaged(RlxError):
    """A step that is not as it was saved."""


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by their path, such as `['agent'].critic.params['params']['Dense_0']['kernel']`."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def locate(folder: Folder) -> epath.Path:
    """The folder as a path. Raises RlxError for a cloud that is not known, or whose package is not there."""
    scheme, is_address, _ = str(folder).partition("://")
    if is_address and scheme not in CLOUDS:
        raise RlxError(f"{folder}: must be a folder, or an address that begins with gs:// or s3://")
    if is_address and importlib.util.find_spec(CLOUDS[scheme][0]) is None:
        package, extra = CLOUDS[scheme]
        raise RlxError(f"{folder}: {scheme}:// needs {package}, which is not here; {install(extra)}")
    return epath.Path(folder)


def home(folder: Folder, base: str) -> epath.Path:
    """Where a run keeps its checkpoints of everything: in its own folder, or under `base` where that is named."""
    return locate(base) / locate(folder).name if base else locate(folder) / "resume"


def save(folder: Folder, step: int, tree: Any, about: dict[str, Any] | None = None) -> str:
    """Writes `tree` (host arrays) as `folder/step`, whole or not at all; returns the digest of everything in it.

    `about` is JSON to keep beside it. Raises RlxError where it cannot be written; what was there before is untouched.
    """
    place = locate(folder)
    leaves = {name: np.asarray(leaf) for name, leaf in flatten(tree).items()}
    try:
        set_unfinished_aside(place)
        _write_alone(place, step, leaves) if parallel.several_processes() else _write(place, step, leaves)
        digest = _write_manifest(place / str(step), leaves, about or {})
        _remove_unfinished(place, step)
        return digest
    except RlxError:
        raise
    except Exception as error:  # Orbax and TensorStore raise what they please where a disk is full
        remedy = "older ones are intact; make room, then go on with `rlx train --resume`"
        raise RlxError(f"{place / str(step)}: could not be written ({_reason(error)}); {remedy}") from None


def steps(folder: Folder) -> list[int]:
    """The steps that were saved whole, oldest first; empty where there are none."""
    place = locate(folder)
    found = [path.parent.name for path in place.glob(f"*/{MANIFEST}")] if place.exists() else []
    return sorted(int(name) for name in found if name.isdecimal())


def manifest(folder: Folder, step: int) -> dict[str, Any]:
    """What a step holds: `leaves` (shape, dtype and sha256 by path), `about`, `digest`. Raises Damaged."""
    path = locate(folder) / str(step) / MANIFEST
    try:
        digest, _, text = path.read_bytes().partition(b"\n")
        if hashlib.sha256(text).hexdigest().encode() != digest:
            raise ValueError
        content = dict(json.loads(text))
    except (OSError, ValueError, TypeError):
        raise Damaged(f"{path}: is damaged") from None
    if content.get("format") != FORMAT:
        raise RlxError(f"{path.parent}: was written by rlx {content.get('rlx')} in another format; use that version")
    return content


def verify(folder: Folder, step: int) -> None:
    """Raises Damaged, naming the first file that is not as it was saved."""
    place = locate(folder) / str(step)
    known = manifest(folder, step)["files"]
    there = {str(path.relative_to(place)): path for path in _walk(place)}  # so that no name leads outside
    for name, digest in known.items():
        if name not in there:
            raise Damaged(f"{place / name}: is missing")
        if _digest_file(there[name]) != digest:
            raise Damaged(f"{there[name]}: is damaged")


def newest(folder: Folder, warn: Callable[[str], None]) -> int | None:
    """The last step that verifies, None if there is none. Later ones that do not are set aside, with a warning."""
    place = locate(folder)
    set_unfinished_aside(place, warn)
    for step in reversed(steps(place)):
        try:
            verify(place, step)
            return step
        except Damaged as error:
            kept = _set_aside(place / str(step), DAMAGED)
            warn(f"{error}; set aside as {kept.name}, going on with the step before")
    return None


def set_unfinished_aside(place: epath.Path, warn: Callable[[str], None] = lambda text: None) -> None:
    """Renames steps without a manifest, which were never finished (Orbax would take the last for a good one)."""
    if not place.exists():
        return
    for path in sorted(place.iterdir()):
        if path.name.isdecimal() and not (path / MANIFEST).exists():
            kept = _set_aside(path, UNFINISHED)
            warn(f"{path}: has no {MANIFEST}; set aside as {kept.name} until that step or a later one is saved")


def _remove_unfinished(place: epath.Path, step: int) -> None:
    """Removes what was never finished of steps up to `step`, which is whole."""
    for path in place.glob(f"{UNFINISHED}-*"):
        number = path.name.split("-")[1]
        if number.isdecimal() and int(number) <= step:
            path.rmtree() if path.is_dir() else path.unlink()


def _set_aside(path: epath.Path, kind: str) -> epath.Path:
    names = (f"{kind}-{path.name}" + (f"-{i}" if i else "") for i in range(1000))
    kept = next(path.parent / name for name in names if not (path.parent / name).exists())
    return path.rename(kept)


def prune(folder: Folder, keep: int) -> None:
    """Removes all but the `keep` newest steps."""
    for step in steps(folder)[:-keep]:
        (locate(folder) / str(step)).rmtree()


def remove_after(folder: Folder, step: int) -> None:
    """Removes the steps after `step`: a run that goes on from there makes them again."""
    for later in steps(folder):
        if later > step:
            (locate(folder) / str(later)).rmtree()


def choose(folder: Folder, step: int | None) -> int:
    """The step that is meant, the last where none is named. Raises RlxError where it is not there."""
    place = locate(folder)
    found = steps(place)
    if not found:
        raise RlxError(f"{place}: holds no checkpoint; train the run first")
    if step is not None and step not in found:
        raise RlxError(f"{place}: has no step {step}; it has {', '.join(map(str, found))}")
    return found[-1] if step is None else step


def restore(folder: Folder, template: Any, step: int | None = None) -> Any:
    """The tree saved at `step` (the last by default), with `template`'s structure, shapes and types.

    Raises RlxError, naming the leaf, where what is saved does not fit the template, or nothing can be read.
    """
    place, step = locate(folder), choose(folder, step)
    try:
        verify(place, step)
    except Damaged as error:
        raise RlxError(f"{error}; choose another --step") from None
    known, wanted = manifest(place, step)["leaves"], flatten(template)
    compare(place / str(step), known, wanted)
    try:
        alone = (place / str(step) / ALONE).exists()
        saved = _read_alone(place / str(step), wanted) if alone else _read(place, step, wanted)
    except (OSError, ValueError, KeyError) as error:
        raise RlxError(f"{place / str(step)}: cannot be read ({_reason(error)}); choose another --step") from None
    leaves = {name: np.asarray(saved[name]) for name in wanted}
    for name, leaf in leaves.items():
        if _digest(leaf) != known[name]["sha256"]:
            raise RlxError(f"{place / str(step)}: {name} was read wrongly; choose another --step")
    return jax.tree.unflatten(jax.tree.structure(template), leaves.values())


def compare(place: Any, saved: dict[str, dict[str, Any]], wanted: dict[str, Any]) -> None:
    """Raises RlxError, naming the first leaf by which a saved table differs from a wanted one."""
    there = {name: f"{leaf['dtype']} {tuple(leaf['shape'])}" for name, leaf in saved.items()}
    here = {name: f"{leaf.dtype} {tuple(leaf.shape)}" for name, leaf in wanted.items()}
    for name in [*here, *there]:
        if there.get(name) != here.get(name):
            found, asked = there.get(name, "missing"), here.get(name, "unknown")
            raise RlxError(f"{place}: {name} is {found} there but {asked} here; the run has another agent or networks")


def _manager(place: epath.Path) -> Any:
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every file it looks at
    import orbax.checkpoint as ocp  # late: it costs a quarter of a second that `--help` need not pay

    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False, cleanup_tmp_directories=True)
    return ocp.CheckpointManager(place.resolve(), item_handlers=ocp.StandardCheckpointHandler(), options=options)


def _write(place: epath.Path, step: int, leaves: dict[str, np.ndarray]) -> None:
    with _manager(place) as manager:
        import orbax.checkpoint as ocp

        if not manager.save(step, args=ocp.args.StandardSave(leaves)):
            raise RlxError(f"{place}: step {step} was not saved; is a later one there already?")
        manager.wait_until_finished()


def _read(place: epath.Path, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
    with _manager(place) as manager:
        import orbax.checkpoint as ocp

        return dict(manager.restore(step, args=ocp.args.StandardRestore(wanted)))


def _write_alone(place: epath.Path, step: int, leaves: dict[str, np.ndarray]) -> None:
    """Of several processes, this one's leaves as bytes, one file each.

    Orbax would have all processes meet, in collectives that get between those of the training that goes on; and it
    writes the first process's host arrays only.
    """
    (place / str(step) / ALONE).mkdir(parents=True, exist_ok=True)
    for i, leaf in enumerate(leaves.values()):
        (place / str(step) / ALONE / str(i)).write_bytes(np.ascontiguousarray(leaf).tobytes())


def _read_alone(place: epath.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The leaves in the manifest's order, which is that of `wanted` (the tables were compared)."""
    known = json.loads((place / MANIFEST).read_bytes().partition(b"\n")[2])["leaves"]
    files = {name: place / ALONE / str(i) for i, name in enumerate(known)}
    return {
        name: np.frombuffer(files[name].read_bytes(), leaf.dtype).reshape(leaf.shape) for name, leaf in wanted.items()
    }


def _write_manifest(place: epath.Path, leaves: dict[str, np.ndarray], about: dict[str, Any]) -> str:
    from rlx import __version__

    files = sorted(path for path in _walk(place) if path.name != MANIFEST)
    table = {
        name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "sha256": _digest(leaf)}
        for name, leaf in leaves.items()
    }
    digest = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()
    content = {
        "format": FORMAT,
        "rlx": __version__,
        "about": about,
        "digest": digest,
        "leaves": table,
        "files": {str(path.relative_to(place)): _digest_file(path) for path in files},
    }
    text = json.dumps(content, indent=1).encode()
    draft = place / "manifest.tmp"
    draft.write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
    draft.replace(place / MANIFEST)
    return digest


def _walk(place: epath.Path) -> list[epath.Path]:
    return [file for path in place.iterdir() for file in (_walk(path) if path.is_dir() else [path])]


def _digest(leaf: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data).hexdigest()


def _digest_file(path: epath.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()


def _reason(error: BaseException) -> str:
    """What an exception says, in one line; of a full disk, that."""
    text = f"{error}"
    if "No space left" in text or ("RESOURCE_EXHAUSTED" in text and "space" in text):
        return "no space left on the disk"
    return (text.strip().splitlines() or [type(error).__name__])[0][:200]
