"""Small data sets and files of each format, written by the format's own rules."""

import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rlx import data
from rlx.data import Dataset
from rlx.data.limits import Limits
from rlx.errors import RlxError
from tests import damage

SIZE, ACTIONS = 3, 2
LENGTHS, ROWS = [3, 1, 4, 2], 10  # of the episodes of a small set, and their sum
SMALL = Limits(memory_bytes=2**20)


def walk(lengths: Sequence[int], terminated: Sequence[bool] | None = None, seed: int = 0, **info: Any) -> Dataset:
    """Episodes of these lengths, every other one terminated unless said otherwise; an observation is
    (episode, step, noise), so that every row tells where it stands."""
    rng = np.random.default_rng(seed)
    terminated = [i % 2 == 0 for i in range(len(lengths))] if terminated is None else terminated
    columns = [(np.full(n + 1, i), np.arange(n + 1), rng.normal(size=n + 1)) for i, n in enumerate(lengths)]
    states = [np.stack(each, axis=1) for each in columns]
    last = np.concatenate([np.arange(n) == n - 1 for n in lengths])
    done = np.repeat(terminated, lengths)
    return data.make_dataset(
        {"name": "walk"} | info,
        observation=np.concatenate([x[:-1] for x in states]),
        action=rng.uniform(-1, 1, size=(len(last), ACTIONS)),
        reward=rng.normal(size=len(last)),
        terminated=last & done,
        truncated=last & ~done,
        next_observation=np.concatenate([x[1:] for x in states]),
        extras={"log_prob": rng.normal(size=len(last))},
    )


def d4rl_arrays(dataset: Dataset) -> dict[str, np.ndarray]:
    names = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")  # in the order of rows
    return dict(zip(names, dataset.rows, strict=False))


def write_hdf5(path: Path, arrays: dict[str, Any]) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
    return path


def ogbench_arrays(dataset: Dataset) -> dict[str, np.ndarray]:
    """An OGBench file's arrays: each trajectory with its last observation, an action there that means nothing, and
    `terminals` set there."""
    rows, columns = dataset.rows, {"observations": [], "actions": [], "terminals": []}  # type: ignore[var-annotated]
    for episode in range(dataset.episode[-1] + 1):
        at = dataset.episode == episode
        columns["observations"] += [rows.observation[at], rows.next_observation[at][-1:]]
        columns["actions"] += [rows.action[at], np.full((1, ACTIONS), 0.5, np.float32)]
        columns["terminals"] += [np.zeros(at.sum()), np.ones(1)]
    return {name: np.concatenate(parts).astype(np.float32) for name, parts in columns.items()}


def compact(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """OGBench's compact form: `valids` is 0 at last observations, and `terminals` is 1 there and one row before."""
    terminals = arrays["terminals"]
    before = np.append(terminals[1:], 1)
    return arrays | {"valids": 1 - terminals, "terminals": np.minimum(terminals + before, 1)}


def bad_minari(path: Path, **changes: Any) -> Path:
    """A Minari set whose metadata has these changes."""
    data.write(walk(LENGTHS), path)
    damage.edit_json(path / "data" / "metadata.json", **changes)
    return path


def written(tmp_path: Path, form: str) -> tuple[Path, Path]:
    """A small data set's path, and the file of it that holds the numbers."""
    dataset = walk(LENGTHS)
    if form == "minari":
        data.write(dataset, tmp_path / "set-v0")
        return tmp_path / "set-v0", tmp_path / "set-v0" / "data" / "main_data.hdf5"
    if form == "d4rl":
        path = write_hdf5(tmp_path / "set.hdf5", d4rl_arrays(dataset))
    else:
        path = tmp_path / "set.npz"
        np.savez_compressed(path, **ogbench_arrays(dataset))
    return path, path


def assert_same(dataset: Dataset, expected: Dataset) -> None:
    """Every number of both, to the bit."""
    jax.tree.map(np.testing.assert_array_equal, dataset[:3], expected[:3])
    data.check(dataset)


def without_extras(dataset: Dataset) -> Dataset:
    return dataset._replace(rows=dataset.rows._replace(extras={}))


def refusal(path: Path, limits: Limits = SMALL) -> str:
    """The message of reading a file that must be refused: one line, which names the file, and little memory is used."""
    tracemalloc.start()
    try:
        with pytest.raises(RlxError) as caught:
            data.read(path, limits)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.isprintable() and str(path).split("/data/")[0] in message and 20 < len(message) < 400
    assert ":" in message.replace(str(path), "")  # what is wrong: the remedy
    assert peak < 16 * 2**20
    return message
