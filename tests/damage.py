"""Checkpoints: what one holds, and files damaged in every way in which a disk, or a kill, may leave them."""

import hashlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlx.runs import checkpoint, leaf_files


def damages(step: Path, rng: random.Random) -> Iterator[tuple[Path, Any]]:
    """Every file of a step with every way to hurt it: five bits, two lengths, and its absence."""
    for path in sorted(path.relative_to(step) for path in step.rglob("*") if path.is_file()):
        size = (step / path).stat().st_size
        yield path, Path.unlink
        for bit in rng.sample(range(8 * size), min(5, 8 * size)):
            yield path, lambda file, bit=bit: flip(file, bit)
        for length in {0, size // 2} - {size}:
            yield path, lambda file, length=length: os.truncate(file, length)


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def read_manifest(step: Path) -> dict[str, Any]:
    return dict(json.loads((step / checkpoint.MANIFEST).read_bytes().partition(b"\n")[2]))


def write_manifest(step: Path, **changes: Any) -> None:
    """A step's manifest says something else, and verifies."""
    text = json.dumps(read_manifest(step) | changes).encode()
    (step / checkpoint.MANIFEST).write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)


def edit_json(path: Path, **changes: Any) -> None:
    """Changes entries of a JSON file: those of a dictionary one by one; None removes an entry."""
    content = json.loads(path.read_text())
    for name, value in changes.items():
        if value is None:
            del content[name]
        elif isinstance(value, dict) and isinstance(content.get(name), dict):
            content[name] |= value
        else:
            content[name] = value
    path.write_text(json.dumps(content))


class Trap:
    """Unpickling it makes the folder `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


def leaves(folder: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """All arrays of a step, by default the last, by their path."""
    step = checkpoint.choose(folder, step)
    table = checkpoint.manifest(folder, step)["leaves"]
    shapes = {name: np.empty(leaf["shape"], leaf["dtype"]) for name, leaf in table.items()}
    saved = leaf_files.read(checkpoint.locate(folder) / str(step), list(table), shapes)
    return {name: np.asarray(leaf) for name, leaf in saved.items()}
