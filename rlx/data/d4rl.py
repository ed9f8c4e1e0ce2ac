"""D4RL's HDF5 files (arXiv 2004.07219): flat arrays of rows, of which some lack a successor."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlx import statistics
from rlx.data import spaces
from rlx.data.dataset import LOG_PROB, Dataset, as_flags, log_prob_of, make_dataset
from rlx.data.hdf5 import Array, open_hdf5
from rlx.data.limits import DEFAULT, Limits, declared_bytes
from rlx.errors import RlxError

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations", LOG_PROB)
LIMIT = 1000  # steps, of every task that D4RL has references for
KNOWN = re.compile(  # its files of those tasks, such as hopper_medium-v2; AntMaze, of another ant, is none of them
    r"(?P<task>{})[-_](random|simple|medium|expert|(medium|full)[-_]replay|medium[-_]expert|mixed)([-_]v\d+)?".format(
        "|".join(statistics.D4RL_REFERENCES)
    )
)
CLOSE = 1e-6  # how far a stored successor may lie from the next row's observation by rounding
FLAT = ("rewards", "terminals", "timeouts", LOG_PROB)


def read(path: Path, limits: Limits = DEFAULT) -> Dataset:
    """A data set of a D4RL file.

    Stored `next_observations` are used; else the next row's observation is the successor, the row's own where the task
    ended (never bootstrapped), and timeout rows and the last row are dropped, because theirs is unknown. Where the
    file has no `timeouts`, a stored successor that is not the next row's observation ends the episode, and so does the
    task's time limit, if the task is known.
    Raises RlxError for files that are damaged, hostile, or hold something else.
    """
    return build(path, _stored(path, limits))


def build(path: Path, stored: dict[str, np.ndarray]) -> Dataset:
    """`read` of arrays by D4RL's names, which came from `path`. Raises RlxError for shapes that do not fit."""
    check_shapes(path, stored)
    stored = {name: leaf.reshape(len(leaf)) if name in FLAT else leaf for name, leaf in stored.items()}
    columns, notes = _columns(path, stored)
    action, more = spaces.to_unit(path, columns["actions"])
    return make_dataset(
        _info(path) | ({"notes": notes + more} if notes + more else {}),
        observation=columns["observations"],
        action=action,
        reward=columns["rewards"],
        terminated=columns["terminals"],
        truncated=columns["timeouts"],
        next_observation=columns["next_observations"],
        extras=log_prob_of(columns),
    )


def _columns(path: Path, columns: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """All six arrays, `[n, ...]`, and notes on what was done to get them."""
    observation = columns["observations"]
    timed, limit = "timeouts" in columns, _info(path).get("episode_length")
    timeouts = as_flags(path, "timeouts", columns.get("timeouts", np.zeros(len(observation), bool)))
    terminals = as_flags(path, "terminals", columns["terminals"])
    and_limit = f" or after {limit} steps" if limit else ""
    if "next_observations" in columns:
        if not timed:
            follows = np.isclose(columns["next_observations"][:-1], observation[1:], CLOSE, CLOSE, equal_nan=True)
            timeouts = _at_limit(np.append(~follows.all(axis=1), True) | terminals, limit)
        note = f"no timeouts in the file: episodes end where the next row does not follow{and_limit}"
        return columns | {"timeouts": timeouts}, [] if timed else [note]

    notes = []
    if not timed:
        timeouts = _at_limit(terminals, limit) & ~terminals
        ends = f"terminals{and_limit}" if limit else "terminals only"
        notes.append(f"neither timeouts nor next_observations in the file: episodes end at {ends}")
    if lost := int(np.count_nonzero(terminals & np.append(timeouts[:-1], True))):
        notes.append(f"{lost} terminal rows were dropped: they are timeouts, too, or the file's last row")
    following = np.where(terminals[:-1, None], observation[:-1], observation[1:])
    keep = ~timeouts[:-1]
    # The row before a dropped one keeps its successor, and ends what is left of the episode.
    truncated = np.append(timeouts[1:-1], True)
    columns = {name: leaf[:-1][keep] for name, leaf in columns.items()}
    return columns | {"next_observations": following[keep], "timeouts": truncated[keep]}, notes


def _at_limit(ended: np.ndarray, limit: int | None) -> np.ndarray:
    """Where episodes end, `[n]`: at `ended` rows and, where there is a time limit, every `limit` steps in between."""
    if limit is None or not len(ended):
        return ended
    row = np.arange(len(ended))
    first = np.maximum.accumulate(np.where(np.append(True, ended[:-1]), row, 0))
    return ended | ((row - first + 1) % limit == 0)


def _stored(path: Path, limits: Limits) -> dict[str, np.ndarray]:
    """The file's arrays, after their shapes have been looked at."""
    with open_hdf5(path, limits) as root:
        members = {name: root.member(name) for name in REQUIRED + OPTIONAL}
        arrays = {name: array for name, array in members.items() if isinstance(array, Array)}
        limits.check_memory(path, sum(declared_bytes(array.shape, array.dtype) for array in arrays.values()))
        check_shapes(path, arrays)
        return {name: array.read() for name, array in arrays.items()}


def check_shapes(path: Path, arrays: Mapping[str, Array | np.ndarray]) -> None:
    """Raises RlxError where an array is missing, or has a shape or type that rows of a D4RL file do not have."""
    if missing := [name for name in REQUIRED if name not in arrays]:
        raise RlxError(
            f"{path} has no {', '.join(missing)}; a D4RL file has {', '.join(REQUIRED)}: add what is missing"
        )
    spaces.check_observation(path, arrays["observations"].shape, arrays["observations"].dtype)
    spaces.check_action(path, arrays["actions"].shape, arrays["actions"].dtype)
    n = arrays["observations"].shape[0]
    for name, array in arrays.items():
        if array.shape[:1] != (n,) or (name in FLAT and math.prod(array.shape) != n):
            raise RlxError(f"{path}: {name} is {list(array.shape)}, but there are {n} observations: write it again")


def _info(path: Path) -> dict[str, Any]:
    """Name, and for known environments D4RL's reference returns and time limit."""
    info: dict[str, Any] = {"name": path.stem, "format": "d4rl"}
    if known := KNOWN.fullmatch(path.stem.lower()):
        random, expert = statistics.D4RL_REFERENCES[known["task"]]
        info |= {"random_return": random, "expert_return": expert, "episode_length": LIMIT}
    return info
