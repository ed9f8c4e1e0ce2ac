"""The replay that a run saved, as a data set. The run, which may be training, is only read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from rlx import data
from rlx.build import make_driver, setup
from rlx.config import RunConfig
from rlx.data import Dataset
from rlx.errors import RlxError
from rlx.replay import Replay, Row
from rlx.runs import checkpoint, saver
from rlx.train.loop import Driver

TRIES = 5  # at a live run, which removes old checkpoints


def read(saved: RunConfig, folder: Path, size: int) -> Dataset:
    """The newest `size` transitions of the saved replay of the run's first member, environment by environment.

    Raises RlxError where the run saved none.
    """
    if saved.train.offline_only:
        raise RlxError(f"{folder}: learned from data alone, so there is no replay; choose another --kind")
    train = replace(saved.train, dataset="", offline_steps=0)
    driver = make_driver(setup(replace(saved, train=train)))
    ring = _ring(saver.place(saved, folder), driver)
    if ring is None:
        raise RlxError(f"{folder}: holds no replay of the fused driver; train it so, or choose another --kind")
    count, head = int(ring.cursor.size), int(ring.cursor.head)
    if not count:
        raise RlxError(f"{folder}: was trained without saving replay; choose another --kind")
    order = (head - count + np.arange(count)) % ring.rows.reward.shape[2]
    rows = jax.tree.map(lambda x: x[0].swapaxes(0, 1)[order], ring.rows)  # [T, shards, E, ...]
    rows = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[3:]), rows)
    rows = rows._replace(reward=rows.reward - train.reward_shift)
    length = min(count, -(-size // rows.reward.shape[1]))
    dataset = columns(jax.tree.map(lambda x: x[-length:], rows), size)
    return dataset._replace(info={"behaviour_return": _return_of_complete(dataset, length)})


def _ring(place: checkpoint.Folder, driver: Driver) -> Replay | None:
    """The replay in the newest intact checkpoint, None where there is none."""
    if not hasattr(driver.training_state_shapes["state"], "replay"):
        return None
    for i in range(TRIES):
        step = checkpoint.newest_intact(place)
        if step is None:
            return None
        try:
            ring: Replay = saver.unpack(place, step, driver).training_state["state"].replay
            return ring
        except RlxError:
            if step in checkpoint.steps(place) or i == TRIES - 1:
                raise  # else the run, which goes on, has removed it
    return None


def columns(rows: Row, size: int) -> Dataset:
    """Rows `[T, E, ...]` one environment after the other, `size` in all; the last row of each ends its episode."""
    last = np.arange(len(rows.reward)) == len(rows.reward) - 1
    rows = rows._replace(truncated=rows.truncated | (last[:, None] & ~rows.terminated))
    flat = jax.tree.map(lambda x: np.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])[:size], rows)
    return data.make_dataset({}, **flat._asdict())


def _return_of_complete(dataset: Dataset, stretch: int) -> float | None:
    """The mean return of the episodes that neither begin nor end where a stretch of rows does, None without any."""
    lengths, returns = data.episode_lengths(dataset), data.episode_returns(dataset)
    last = np.cumsum(lengths) - 1
    first = last - lengths + 1
    complete = (first % stretch > 0) & (last % stretch < stretch - 1) & (last < dataset.size - 1)
    return float(returns[complete].mean()) if complete.any() else None
