"""Episodes of a data set as padded arrays with a mask, which estimators of returns read."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from rlx import data
from rlx.data import Dataset
from rlx.data.dataset import LOG_PROB, ends, require_rewards
from rlx.errors import RlxError


class Trajectories(NamedTuple):
    """N episodes of at most T steps. Beyond an episode's end `mask` is false, and padded numbers are 0.

    An episode is complete if the task ended or the environment's time limit was reached; the others were cut because
    recording stopped, and their returns are unknown.
    """

    row: np.ndarray  # [N, T] int64, row of the data set; 0 beyond the end
    mask: np.ndarray  # [N, T] bool
    reward: np.ndarray  # [N, T]
    log_prob: np.ndarray | None  # [N, T], log mu(a|s) of the policy that collected; None where it is not known
    terminated: np.ndarray  # [N] bool, the task ended
    complete: np.ndarray  # [N] bool

    @property
    def lengths(self) -> np.ndarray:
        """The steps of each episode, `[N]`."""
        return self.mask.sum(axis=1)

    @property
    def last_row(self) -> np.ndarray:
        """The row of each episode's last step, `[N]`; its `next_observation` is the true last observation."""
        return self.row[np.arange(len(self.row)), self.lengths - 1]

    def pad(self, leaf: Any) -> np.ndarray:
        """An array of rows `[n, ...]` as `[N, T, ...]`, 0 beyond the end of an episode."""
        padded = np.asarray(leaf)[self.row]
        return np.where(self.mask.reshape(*self.mask.shape, *[1] * (padded.ndim - 2)), padded, 0)

    def select(self, keep: np.ndarray) -> Trajectories:
        """The episodes where `keep` `[N]` is true, or of these numbers, no longer than the longest of them."""
        chosen: Trajectories = jax.tree.map(lambda leaf: leaf[keep], self)
        longest = int(chosen.lengths.max(initial=0))
        return jax.tree.map(lambda leaf: leaf[:, :longest] if leaf.ndim > 1 else leaf, chosen)


def from_dataset(dataset: Dataset, time_limit: int | None = None) -> Trajectories:
    """The episodes of a data set; `time_limit` is by default the environment's (see `time_limit_of`).

    Raises RlxError for a set that is empty, inconsistent or without rewards.
    """
    data.check(dataset)
    require_rewards(dataset)
    limit = time_limit_of(dataset) if time_limit is None else time_limit
    last, lengths = ends(dataset), data.episode_lengths(dataset)
    steps = np.arange(lengths.max())
    mask = steps < lengths[:, None]
    row = np.where(mask, last[:, None] - lengths[:, None] + 1 + steps, 0)
    terminated = dataset.rows.terminated[last]
    bare = Trajectories(row, mask, np.zeros(0), None, terminated, terminated | (lengths >= limit))
    stored = dataset.rows.extras.get(LOG_PROB)
    if stored is not None and stored.ndim != 1:
        raise RlxError(f"{dataset.name}: {LOG_PROB} is {list(stored.shape)}; store one number for each transition")
    log_prob = None if stored is None else bare.pad(stored)
    return bare._replace(reward=bare.pad(dataset.rows.reward), log_prob=log_prob)


def time_limit_of(dataset: Dataset) -> int:
    """The steps after which the environment cuts an episode: the info's `episode_length`.

    Where the info does not say, the length of the longest truncated episode, if at least two have it: a set whose
    recording was stopped cuts its last episode alone. Otherwise no episode counts as cut by a limit.
    """
    limit = dataset.info.get("episode_length")
    if limit is not None:
        return int(limit)
    lengths = data.episode_lengths(dataset)
    truncated = lengths[dataset.rows.truncated[ends(dataset)]]
    longest = int(truncated.max(initial=0))
    return longest if np.count_nonzero(truncated == longest) > 1 else int(lengths.max()) + 1
