"""Checkpoints: what one holds, and files damaged in every way in which a disk, or a kill, may leave them."""

from __future__ import annotations

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


def leaves(folder: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """All arrays of a step, by default the last, by their path."""
    step = checkpoint.choose(folder, step)
    table = checkpoint.manifest(folder, step)["leaves"]
    shapes = {name: np.empty(leaf["shape"], leaf["dtype"]) for name, leaf in table.items()}
    saved = leaf_files.read(checkpoint.locate(folder) / str(step), list(table), shapes)
    return {name: np.asarray(leaf) for name, leaf in saved.items()}
