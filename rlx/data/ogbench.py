"""OGBench's npz files (arXiv 2410.20092): trajectories of T + 1 observations, and neither rewards nor task ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rlx.data import spaces
from rlx.data.dataset import LOG_PROB, Dataset, as_flags, log_prob_of, make_dataset
from rlx.errors import RlxError

REQUIRED = ("observations", "actions", "terminals")
NAMES = (*REQUIRED, "valids", "next_observations", "rewards", "masks", LOG_PROB)


def build(path: Path, arrays: dict[str, np.ndarray]) -> Dataset:
    """A data set of an OGBench file's arrays. `terminals` close trajectories and end no task: they truncate.

    The last observation of a trajectory is a successor and no row: where `terminals` are set or, in compact files,
    where `valids` are not. Files with `next_observations` have rows only. Rewards and masks (0 where the task ended)
    depend on the task and count if arrays of that name are in the file; else `info["missing"]` names them and nothing
    trains on the set. `arrays` has all of REQUIRED.
    Raises RlxError for arrays that do not fit.
    """
    observation = arrays["observations"]
    spaces.check_observation(path, observation.shape, observation.dtype)
    spaces.check_action(path, arrays["actions"].shape, arrays["actions"].dtype)
    for name, array in arrays.items():
        flat = array.ndim == 1 or name in ("observations", "actions", "next_observations")
        if array.shape[:1] != observation.shape[:1] or not flat:
            raise RlxError(
                f"{path}: {name} is {list(array.shape)}, but there are {len(observation)} observations: write it again"
            )
    return _build(path, arrays)


def _build(path: Path, arrays: dict[str, np.ndarray]) -> Dataset:
    flags = {name: as_flags(path, name, arrays[name]) for name in ("terminals", "valids", "masks") if name in arrays}
    observation, closes = arrays["observations"], flags["terminals"]
    if "next_observations" in arrays:
        at, following = np.arange(len(observation)), arrays["next_observations"]
    else:
        last = ~flags["valids"] if "valids" in flags else closes
        if len(last) and not last[-1]:
            raise RlxError(f"{path}: the last trajectory does not end, so the file was cut off: download it again")
        at = np.flatnonzero(~last)
        following, closes = observation[at + 1], np.append(last[1:], True)
    action, notes = spaces.to_unit(path, arrays["actions"][at])
    missing = [name for name in ("rewards", "masks") if name not in arrays]
    info: dict[str, Any] = {"name": path.stem, "format": "ogbench"}
    return make_dataset(
        info | ({"missing": missing} if missing else {}) | ({"notes": notes} if notes else {}),
        observation=observation[at],
        action=action,
        reward=arrays["rewards"][at] if "rewards" in arrays else np.full(len(at), np.nan),
        terminated=~flags["masks"][at] if "masks" in flags else np.zeros(len(at), bool),
        truncated=closes[at],
        next_observation=following,
        extras={name: leaf[at] for name, leaf in log_prob_of(arrays).items()},
    )
