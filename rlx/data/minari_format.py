"""Minari's data sets, rlx's own format on disk: a folder with an HDF5 file, a group an episode of T + 1 observations.

Minari writes; what is read goes through h5py and JSON alone, because Minari's own loader makes the environment that a
file names, and with it imports whatever module that says.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlx import json_files
from rlx.data import spaces
from rlx.data.dataset import Dataset, check, ends, leaves, make_dataset, require_rewards
from rlx.data.hdf5 import Array, Group, open_hdf5
from rlx.data.limits import AGAIN, DEFAULT, Limits, first_line, printable, read_json
from rlx.data.metadata import check_info
from rlx.errors import RlxError

METADATA, MAIN = "metadata.json", "main_data.hdf5"
ROOM, EPISODE_ROOM = 2**17, 3 * 2**10  # bytes in addition to the numbers: of the file, of each array of an episode
SUCCESSOR = "next_observation"  # under infos, only in sets where a successor is not the next observation


def find(folder: Path) -> Path | None:
    """The folder that holds the files: `folder` itself or, as Minari lays it out, `folder/data`; None if neither."""
    return next((place for place in (folder / "data", folder) if (place / METADATA).is_file()), None)


def is_old(folder: Path) -> bool:
    """Whether a folder looks as Minari left it before 0.5: its HDF5 file without metadata.json."""
    return find(folder) is None and any((place / MAIN).is_file() for place in (folder / "data", folder))


def old_format(path: Path) -> RlxError:
    """What to say of such a folder or file."""
    return RlxError(
        f"{path} has {MAIN} but no {METADATA}, so Minari before 0.5 wrote it: download the set again with a newer"
        " Minari, or copy the folder with all of its files"
    )


# Writing


def write(dataset: Dataset, folder: Path | str) -> None:
    """Writes a Minari data set that rlx reads back to the bit and plain Minari loads: all of `info` and extras too.

    `minari.MinariDataset(folder / "data")` opens it, and `minari.load_dataset(NAME)` where MINARI_DATASETS_PATH is the
    folder above and NAME the folder's, which should look like `hopper-medium-v0`. The folder appears when all is
    written. Raises RlxError if it exists, or if the set has no rewards.
    """
    check(dataset)
    require_rewards(dataset)
    folder = Path(folder)
    if folder.exists():
        raise RlxError(f"{folder} exists and is not written over: remove it or choose another name")
    folder = folder.absolute()  # Minari takes a relative one as under its own root
    try:
        with json_files.new_folder(folder) as partial:
            _reserve(partial / "room", dataset)
            (partial / "room").unlink()
            _fill(dataset, partial / "data", folder.name)
    except OSError as error:
        raise RlxError(
            f"{folder} cannot be written ({error.strerror or first_line(error)}): free space or choose another place"
        ) from None


def _reserve(file: Path, dataset: Dataset) -> None:
    """Makes a file as large as the data set's will be; closing it as HDF5 cuts off what is not needed.

    Raises OSError where the disk lacks the room: HDF5 itself ends the process with a segmentation fault there.
    """
    numbers = sum(leaf.nbytes for leaf in leaves(dataset.rows).values())
    needed = ROOM + numbers + len(ends(dataset)) * EPISODE_ROOM * (6 + len(dataset.rows.extras))
    with open(file, "ab") as room:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(room.fileno(), 0, needed)


def _fill(dataset: Dataset, place: Path, name: str) -> None:
    import h5py
    import minari
    from gymnasium.spaces import Box
    from minari.dataset.minari_storage import MinariStorage

    rows, info = dataset.rows, dataset.info | {"format": "minari"}
    extras = dict(rows.extras)
    inner = dataset.time[1:] > 0
    if not np.array_equal(_bits(rows.next_observation[:-1][inner]), _bits(rows.observation[1:][inner])):
        extras[SUCCESSOR] = rows.next_observation
    storage = MinariStorage.new(
        place,
        observation_space=Box(-np.inf, np.inf, rows.observation.shape[1:], np.float32),
        action_space=Box(-1.0, 1.0, rows.action.shape[1:], np.float32),
    )
    references = {"ref_min_score": info.get("random_return"), "ref_max_score": info.get("expert_return")}
    known = {key: float(value) for key, value in references.items() if value is not None}
    if odd := [key for key in extras if not key.isidentifier()]:
        raise RlxError(f"{dataset.name}: extras {odd} cannot be written: name them like variables, as log_prob")
    try:
        text = json.dumps({"info": info, "extras": sorted(extras)})
    except TypeError as error:
        raise RlxError(f"{dataset.name}: info must hold JSON values only ({error}): convert them") from None
    storage.update_metadata(
        {
            "dataset_id": _identifier(name),
            "minari_version": minari.__version__,
            "algorithm_name": str(info.get("algorithm", "unknown")),
            "rlx": json.loads(text),
        }
        | known
    )
    h5py.File(place / MAIN, "w", track_order=True).close()
    _reserve(place / MAIN, dataset)  # so that no other program can take the room while it is filled
    storage.update_episodes(_episodes(dataset, extras))


def _identifier(folder: str) -> str:
    """A name that Minari's rules allow: the folder's, if it is allowed."""
    name = re.sub(r"[^-\w]", "-", folder)
    return name if re.search(r"-v\d+$", name) else f"{name}-v0"


def _bits(array: np.ndarray) -> np.ndarray:
    """Of float32, so that NaN equals itself."""
    return np.asarray(array, np.float32).view(np.uint32)


def _episodes(dataset: Dataset, extras: dict[str, Any]) -> Iterator[Any]:
    from minari.data_collector.episode_buffer import EpisodeBuffer

    rows, start = dataset.rows, 0
    for last in ends(dataset).tolist():
        at = slice(start, last + 1)
        yield EpisodeBuffer(
            observations=np.concatenate([rows.observation[at], rows.next_observation[last : last + 1]]),
            actions=rows.action[at],
            rewards=rows.reward[at],
            terminations=rows.terminated[at],
            truncations=rows.truncated[at],
            infos={name: leaf[at] for name, leaf in extras.items()},
        )
        start = last + 1


# Reading


class Layout(NamedTuple):
    """The description of the arrays in metadata.json."""

    steps: int
    episodes: int
    observation_size: int
    action_size: int
    low: np.ndarray  # [A]
    high: np.ndarray  # [A]
    extras: list[str]


def read(folder: Path, limits: Limits = DEFAULT) -> Dataset:
    """The data set in a Minari folder (see `find`), of Minari's hdf5 storage.

    Actions are mapped to [-1, 1] from the action space's bounds; a step that is both terminated and truncated counts as
    terminated, and an episode's last step as truncated where the file says neither.
    Raises RlxError for files that are damaged, hostile, or hold something else.
    """
    place = find(folder)
    if place is None:
        if is_old(folder):
            raise old_format(folder)
        raise RlxError(f"{folder} holds no Minari data set: {METADATA} is missing, also in data/")
    metadata, path = read_json(place / METADATA), place / MAIN
    try:
        layout, info = _layout(path, metadata), _info(place / METADATA, folder, metadata)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
        raise RlxError(f"{place / METADATA} is not what Minari writes: {AGAIN}") from None
    columns = _read_episodes(path, layout, limits)
    action, notes = spaces.to_unit(path, columns["actions"], layout.low, layout.high)
    return make_dataset(
        info | ({"notes": (info.get("notes") or []) + notes} if notes else {}),
        observation=columns["observations"],
        action=action,
        reward=columns["rewards"],
        terminated=columns["terminations"],
        truncated=columns["truncations"],
        next_observation=columns[SUCCESSOR],
        extras={name: columns[f"infos/{name}"] for name in layout.extras if name != SUCCESSOR},
    )


def _layout(path: Path, metadata: dict[str, Any]) -> Layout:
    """Raises RlxError for what rlx does not read; other errors are raised as they occur."""
    if (kind := metadata.get("data_format", "hdf5")) != "hdf5":
        raise RlxError(
            f"{path.parent} stores its data as {printable(kind)}; rlx reads Minari's hdf5: write it in that format"
        )
    steps, episodes = int(metadata["total_steps"]), int(metadata["total_episodes"])
    if min(steps, episodes) < 1 or episodes > steps:
        raise RlxError(f"{path.parent} holds {episodes} episodes of {steps} steps: collect it again")
    observation, action = (_box(path, metadata, f"{name}_space") for name in ("observation", "action"))
    low, high = (np.array(action[end], np.float64) for end in ("low", "high"))
    if not low.shape == high.shape == tuple(action["shape"]):
        raise ValueError("bounds of another shape")
    extras = list(metadata["rlx"]["extras"]) if "rlx" in metadata else []
    if not all(isinstance(name, str) and name.isidentifier() for name in extras):
        raise ValueError("names of extras that rlx does not write")
    return Layout(steps, episodes, int(observation["shape"][0]), int(action["shape"][0]), low, high, extras)


def _box(path: Path, metadata: dict[str, Any], name: str) -> dict[str, Any]:
    """A space as Minari writes it. Raises RlxError unless it is of flat vectors of floats."""
    space = json.loads(metadata[name])
    if space["type"] != "Box" or len(space["shape"]) != 1 or not str(space["dtype"]).startswith("float"):
        what = printable(" ".join(str(space[key]) for key in ("type", "dtype", "shape") if key in space))
        raise RlxError(f"{path.parent}: the {name.replace('_', ' ')} is {what}; rlx needs flat vectors of floats")
    return space


def _read_episodes(path: Path, layout: Layout, limits: Limits) -> dict[str, np.ndarray]:
    """All rows `[n, ...]`, episode after episode, each checked before it is read."""
    n, start = layout.steps, 0
    with open_hdf5(path, limits) as root:
        columns = _allocate(_episode(root, 0), layout, limits)
        for number in range(layout.episodes):
            start = _read_episode(_episode(root, number), number, columns, start)
    if start != n:
        raise RlxError(f"{path} holds {start} steps where {METADATA} says {n}: {AGAIN}")
    return columns


def _allocate(group: Group, layout: Layout, limits: Limits) -> dict[str, np.ndarray]:
    """Empty arrays for all rows; the shapes of extras are those of one episode."""
    n, wide = layout.steps, (layout.observation_size,)
    shapes = {"observations": wide, SUCCESSOR: wide, "actions": (layout.action_size,), "rewards": ()}
    for name in (f"infos/{extra}" for extra in layout.extras):
        array = group.member(name)
        shapes[name] = array.shape[1:] if isinstance(array, Array) else ()
    limits.check_memory(group.path, 4 * n * sum(math.prod(shape) for shape in shapes.values()) + 2 * n)
    flags = {name: np.empty(n, bool) for name in ("terminations", "truncations")}
    return {name: np.empty((n, *shape), np.float32) for name, shape in shapes.items()} | flags


def _episode(root: Group, number: int) -> Group:
    group = root.member(f"episode_{number}")
    if not isinstance(group, Group):
        raise RlxError(f"{root.path} has no episode_{number}, which {METADATA} declares: {AGAIN}")
    return group


def _read_episode(group: Group, number: int, columns: dict[str, np.ndarray], start: int) -> int:
    """Reads one episode into the rows from `start` on; returns where the next begins."""

    def read(name: str, lengths: range) -> np.ndarray:
        array = group.member(name)
        if not isinstance(array, Array):
            raise RlxError(f"{group.path}: {name} of episode_{number} is missing: {AGAIN}")
        if not array.shape or array.shape[0] not in lengths or array.shape[1:] != columns[name].shape[1:]:
            shape = list(array.shape)
            raise RlxError(f"{group.path}: {name} of episode_{number} is {shape}, which does not fit the rest: {AGAIN}")
        return array.read()

    observation = read("observations", range(2, len(columns["rewards"]) - start + 2))
    at = slice(start, start + len(observation) - 1)
    columns["observations"][at], columns[SUCCESSOR][at] = observation[:-1], observation[1:]
    for name in [name for name in columns if name not in ("observations", SUCCESSOR)]:
        columns[name][at] = read(name, range(len(observation) - 1, len(observation)))
    if (stored := f"infos/{SUCCESSOR}") in columns:
        columns[SUCCESSOR][at] = columns[stored][at]
    columns["truncations"][at.stop - 1] = True  # where the file says neither, it was the file that ended
    return at.stop


def _info(path: Path, folder: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """The info that rlx stored, or Minari's fields of a set that it did not write. Raises RlxError for bad values."""
    if "rlx" in metadata:
        info = metadata["rlx"]["info"]
    else:
        spec = json.loads(metadata["env_spec"]) if "env_spec" in metadata else {}
        values = {
            "name": metadata.get("dataset_id", folder.name),
            "format": "minari",
            "env_id": spec.get("id"),  # of Gymnasium: nothing here makes it
            "episode_length": spec.get("max_episode_steps"),
            "random_return": metadata.get("ref_min_score"),
            "expert_return": metadata.get("ref_max_score"),
        }
        info = {key: value for key, value in values.items() if value is not None}
    return check_info(path, info)
