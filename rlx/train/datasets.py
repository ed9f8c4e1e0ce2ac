"""The data sets of a run: checked against its environment, and as rings that minibatches are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlx import data, envs
from rlx.data import Dataset
from rlx.envs import domain
from rlx.errors import RlxError
from rlx.replay import Cursor, Replay, make_odds
from rlx.train.columns import RETURN_TO_GO, Columns
from rlx.train.config import TrainConfig
from rlx.train.task import Tables
from rlx.types import Spec

SETTINGS = ("env_args", "env_params", "wrappers", "randomize")  # of environments, which data sets keep


def prepare(
    train: TrainConfig, path: str, spec: Spec, in_memory: Dataset | None = None
) -> tuple[Dataset, tuple[str, ...]]:
    """A data set (read, unless in memory), checked and clipped, and notes on it. Raises RlxError if it does not fit."""
    dataset = data.choose_parts(data.read(Path(path)) if in_memory is None else in_memory, spec.parts)
    for name, size, data_size in (
        ("observations", spec.observation_size, dataset.rows.observation.shape[-1]),
        ("actions", spec.action_size, dataset.rows.action.shape[-1]),
    ):
        if data_size != size:
            raise RlxError(
                f"{path}: {name} have {data_size} numbers but the environment's {size}; choose its own --env"
            )
    notes = []
    if bad := data.nonfinite(dataset, train.max_magnitude):
        quantity, rows = next(iter(bad.items()))
        if train.on_nonfinite != "skip":
            raise RlxError(
                f"{path}: {quantity} is not a finite number, or beyond --max-magnitude"
                f" {train.max_magnitude:g}, in {len(rows)} rows, first in row {rows[0]};"
                " mend the file, or leave such rows out by --on-nonfinite skip"
            )
        finite = data.drop_nonfinite(dataset, train.max_magnitude)
        notes.append(f"{path}: left out {dataset.size - finite.size} rows with numbers that are not finite")
        dataset = finite
    dataset, clipped = data.clip_actions(dataset, train.action_clip)
    if clipped:
        notes.append(f"{path}: clipped {clipped} actions to +-{train.action_clip}")
    return dataset, tuple(notes)


def to_tables(
    dataset: Dataset, sizes: Sequence[int], train: TrainConfig, extra: Columns, gammas: Sequence[float] = ()
) -> Tables:
    """The data sets as rings, with the extra columns that are read; `gammas` are the discounts of the members.

    Raises RlxError where a column depends on the discount and members have several.
    """
    available = dataset.rows.extras | {"time": dataset.time}
    if RETURN_TO_GO in extra.shapes and RETURN_TO_GO not in available:
        if len(set(gammas)) != 1:
            raise RlxError(f"--gamma {' '.join(map(str, gammas))}: the data's return has one discount; train one a run")
        available |= {RETURN_TO_GO: data.returns_to_go(dataset, float(gammas[0]), train.reward_shift)}
    rows = dataset.rows._replace(extras={name: available[name] for name in extra.shapes})
    ring = data.to_replay(dataset._replace(rows=rows), train.reward_shift)
    ends = np.cumsum(sizes)
    parts = [jax.tree.map(lambda x, a=a, b=b: x[a:b], ring.rows) for a, b in zip(ends - sizes, ends, strict=True)]
    cursors = [Cursor(head=ring.cursor.head, size=np.asarray(size, np.int32)) for size in sizes]  # type: ignore[arg-type]
    odds: list[np.ndarray | None] = [None] * len(sizes)
    if train.trajectory_weights != "none":  # of each set by itself
        kind, temperature = train.trajectory_weights, train.trajectory_temperature
        odds = [make_odds(data.trajectory_weights(each, kind, temperature)) for each in data.split(dataset, sizes)]
    return tuple(map(Replay, parts, cursors, odds))


def environment_of(dataset: Dataset, named: str | None = None) -> tuple[str, str | None, dict[str, Any]]:
    """Name, backend and settings of the environment that a data set was collected in.

    Anybody's file may name code, so code of the user's own is only run where the user has `named` it: raises RlxError
    where it was not.
    """
    env, randomize = str(dataset.info["env"]), dataset.info.get("randomize") or []
    own = [env] * envs.is_user_code(env) + [text for text in randomize if domain.is_function(text)]
    if own and named != env:
        raise RlxError(
            f"{dataset.name}: was collected with {own[0]}, code that runs only if you name it: give --env {env}, or"
            " another environment"
        )
    settings = {name: dataset.info[name] for name in SETTINGS if dataset.info.get(name)}
    return env, dataset.info.get("backend"), settings
