"""The manifest of a checkpoint step: digests of all files and leaves, written last and verified before use."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from etils import epath

from rlx.errors import RlxError
from rlx.runs import leaf_files

MANIFEST = "manifest.json"  # its first line is the digest of the rest
FORMAT = 1


class Damaged(RlxError):
    """A step that is not as it was saved."""


class Missing(Damaged):
    """A step that does not exist (any more: a live run removes its oldest ones)."""


def read_manifest(place: epath.Path) -> dict[str, Any]:
    """What the step in `place` holds: `leaves` (shape, dtype and sha256 by path), `about`, `digest`. Raises Damaged."""
    path = place / MANIFEST
    try:
        if path.exists() and not path.is_file():
            raise ValueError
        digest, _, text = path.read_bytes().partition(b"\n")
        if hashlib.sha256(text).hexdigest().encode() != digest:
            raise ValueError
        content = dict(json.loads(text))
    except FileNotFoundError:
        raise Missing(f"{path}: is missing") from None
    except (OSError, ValueError, TypeError, RecursionError):
        raise Damaged(f"{path}: is damaged") from None
    if content.get("format") != FORMAT:
        raise RlxError(f"{path.parent}: was written by rlx {content.get('rlx')} in another format; use that version")
    if not _is_manifest(content):
        raise Damaged(f"{path}: is damaged")
    return content


def _is_manifest(content: dict[str, Any]) -> bool:
    """Whether a manifest with the right digest, which anybody can compute, has the values that are read."""
    leaves, files, about = (content.get(name) for name in ("leaves", "files", "about"))
    if not (isinstance(leaves, dict) and isinstance(files, dict) and isinstance(about, dict)):
        return False
    kinds = {"offline": bool, "iteration": int, "learned": int}
    return (
        all(isinstance(leaf, dict) and _is_leaf(leaf) for leaf in leaves.values())
        and all(isinstance(x, str) for x in (content.get("digest"), *files.values()))
        and all(isinstance(about[name], kind) for name, kind in kinds.items() if name in about)
    )


def _is_leaf(leaf: dict[str, Any]) -> bool:
    shape = leaf.get("shape")
    is_shape = isinstance(shape, list) and all(isinstance(size, int) and size >= 0 for size in shape)
    return is_shape and isinstance(leaf.get("dtype"), str) and isinstance(leaf.get("sha256"), str)


def verify_files(place: epath.Path) -> None:
    """Raises Damaged, naming the first file of the step in `place` that is not as it was saved."""
    digests = read_manifest(place)["files"]
    try:
        files = {str(path.relative_to(place)): path for path in leaf_files.walk(place)}  # so that no name leads outside
        for name, digest in digests.items():
            if name not in files:
                raise Damaged(f"{place / name}: is missing")
            if leaf_files.digest_file(files[name]) != digest:
                raise Damaged(f"{files[name]}: is damaged")
    except FileNotFoundError as error:  # removed while it was read
        raise Missing(f"{error.filename}: is missing") from None


def write_manifest(place: epath.Path, leaves: dict[str, np.ndarray], about: dict[str, Any]) -> str:
    """Completes the step in `place`, whose leaves are written; returns the digest of their content."""
    from rlx import __version__

    files = sorted(path for path in leaf_files.walk(place) if path.name != MANIFEST)
    table = {
        name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "sha256": leaf_files.digest(leaf)}
        for name, leaf in leaves.items()
    }
    digest = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()
    content = {
        "format": FORMAT,
        "rlx": __version__,
        "about": about,
        "digest": digest,
        "leaves": table,
        "files": {str(path.relative_to(place)): leaf_files.digest_file(path) for path in files},
    }
    text = json.dumps(content, indent=1).encode()
    (place / MANIFEST).write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
    return digest
