"""Named arrays of transitions, of an npz file or in memory: rlx's own names, D4RL's or OGBench's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlx.data import d4rl, ogbench, spaces
from rlx.data.dataset import LOG_PROB, Dataset, log_prob_of, make_dataset
from rlx.data.limits import DEFAULT, Limits, check_numbers
from rlx.data.npz import names_in, read_npz
from rlx.errors import RlxError

FIELDS = ("observation", "action", "reward", "terminated", "truncated", "next_observation")
READERS = {  # the names that each reads
    "d4rl": d4rl.REQUIRED + d4rl.OPTIONAL,
    "ogbench": ogbench.NAMES,
    "rlx": (*FIELDS, LOG_PROB),
}
REQUIRED = {"d4rl": d4rl.REQUIRED, "ogbench": ogbench.REQUIRED, "rlx": FIELDS}
GIVE = (
    "give observations, actions, rewards, terminals and timeouts (as D4RL), the same with masks in place of timeouts"
    f" (as OGBench), or rlx's own {', '.join(FIELDS)}"
)


def from_arrays(arrays: Mapping[str, Any], name: str = "the data set") -> Dataset:
    """A data set of arrays `[n, ...]` under rlx's names (see `make_dataset`), D4RL's or OGBench's; others are ignored.

    With any of them `log_prob` `[n]` is that of the actions under the policy that collected, which becomes an extra.

    Raises RlxError where the names do not say which, or where an array is missing or does not fit.
    """
    place = Path(name)
    wanted = READERS[form(place, arrays)]
    columns = {key: np.asarray(arrays[key]) for key in wanted if key in arrays}
    for key, column in columns.items():
        check_numbers(place, key, column.dtype)
    return build(place, columns)


def read(path: Path, limits: Limits = DEFAULT) -> Dataset:
    """The data set in an npz file, by the names of its arrays. Raises RlxError as `from_arrays` does."""
    return build(path, read_npz(path, READERS[form(path, names_in(path, limits))], limits))


def form(path: Path, names: Iterable[str]) -> str:
    """Whose names these are: "rlx", "d4rl" or "ogbench". Raises RlxError where they do not say.

    D4RL's `terminals` end the task and its `timeouts` cut an episode; OGBench's `terminals` end a trajectory, and its
    `masks` say where the task ended. So rewards and terminals alone do not say whether a value follows.
    """
    known = set(names)
    if {"observation", "action"} <= known:
        return "rlx"
    of_d4rl, of_ogbench = "timeouts" in known, known & {"masks", "valids"}
    if of_d4rl and of_ogbench:
        raise RlxError(f"{path}: has timeouts, as D4RL, and {min(of_ogbench)}, as OGBench; leave one of them out")
    if not of_d4rl and not of_ogbench and {"rewards", "terminals"} <= known:
        raise RlxError(
            f"{path}: terminals may be ends of the task or of trajectories; add timeouts (as D4RL: terminals end the"
            " task) or masks (as OGBench: 0 where the task ended)"
        )
    return "d4rl" if of_d4rl else "ogbench"


def build(path: Path, arrays: dict[str, np.ndarray]) -> Dataset:
    """The data set of arrays by the names of one of READERS. Raises RlxError where one is missing or does not fit."""
    builders = {"d4rl": d4rl.build, "ogbench": ogbench.build, "rlx": _build}
    kind = form(path, arrays)
    if missing := [name for name in REQUIRED[kind] if name not in arrays]:
        raise RlxError(f"{path} has no {', '.join(missing)}; {GIVE}")
    return builders[kind](path, arrays)


def _build(path: Path, arrays: dict[str, np.ndarray]) -> Dataset:
    for name in ("observation", "next_observation"):
        spaces.check_observation(path, arrays[name].shape, arrays[name].dtype)
    spaces.check_action(path, arrays["action"].shape, arrays["action"].dtype)
    columns: dict[str, Any] = {name: arrays[name] for name in FIELDS}
    columns["action"], notes = spaces.to_unit(path, arrays["action"])
    info: dict[str, Any] = {"name": path.stem, "format": "rlx"} | ({"notes": notes} if notes else {})
    return make_dataset(info, **columns, extras=log_prob_of(arrays))
