"""Numbers of a row from its episode: the discounted return from that row on, and the probability of drawing it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import numpy as np

from rlx.data.dataset import Dataset, ends, episode_returns, require_rewards
from rlx.errors import RlxError, unknown

TRAJECTORY_WEIGHTS = ("none", "return", "advantage")


def returns_to_go(dataset: Dataset, gamma: float, reward_shift: float = 0.0) -> np.ndarray:
    """The discounted sum of rewards, each plus `reward_shift`, from every row to its episode's end, `[n]` float32.

    An episode that was truncated goes on with its last reward for ever, r / (1 - gamma), as Cal-QL's authors have it
    for tasks without success yet; with gamma 1 it ends. Raises RlxError where the set has no rewards.
    """
    require_rewards(dataset)
    rows, last = dataset.rows, ends(dataset)
    reward = rows.reward.astype(np.float64) + reward_shift
    rest = np.where(rows.truncated[last] & (gamma < 1), reward[last] / max(1 - gamma, 1e-12), 0.0)
    lengths, total = dataset.time[last] + 1, np.zeros(dataset.size)
    for back in range(int(lengths.max())):  # all episodes at once, from their ends
        running = lengths > back
        rest[running] = reward[last[running] - back] + gamma * rest[running]
        total[last[running] - back] = rest[running]
    return total.astype(np.float32)


def trajectory_weights(dataset: Dataset, kind: str, temperature: float) -> np.ndarray:
    """Weights of rows `[n]` by their episodes, adding up to 1 (arXiv 2306.13085).

    exp(g / temperature), where g is the episode's return scaled to [0, 1]; for "advantage", of the return less its
    linear regression on the first observation. A longer episode has more rows. Raises RlxError where all g are equal,
    for another kind, and for a temperature that is not over 0.
    """
    if kind not in TRAJECTORY_WEIGHTS[1:]:
        raise unknown("trajectory weights", kind, TRAJECTORY_WEIGHTS[1:])
    if not temperature > 0:
        raise RlxError(f"trajectory temperature {temperature:g}: must be over 0")
    require_rewards(dataset)
    returns, last = episode_returns(dataset), ends(dataset)
    if kind == "advantage":
        first = dataset.rows.observation[last - dataset.time[last]].astype(np.float64)
        inputs = np.concatenate([first, np.ones((len(first), 1))], axis=1)
        returns = returns - inputs @ np.linalg.lstsq(inputs, returns, rcond=None)[0]
    spread = np.ptp(returns)
    if not (np.isfinite(spread) and spread > 0):
        raise RlxError(
            f"{dataset.name}: its episodes are equally good, so they weigh the same; leave out --trajectory-weights"
        )
    weights = np.exp((returns - returns.max()) / (spread * temperature))[dataset.episode]
    return weights / weights.sum()


def split(dataset: Dataset, sizes: Sequence[int]) -> list[Dataset]:
    """The sets of these sizes that `concatenate` put one after the other."""
    bounds = np.cumsum([0, *sizes])
    parts = []
    for start, end in itertools.pairwise(bounds):
        rows = jax.tree.map(lambda leaf, a=start, b=end: leaf[a:b], dataset.rows)
        episode = dataset.episode[start:end] - dataset.episode[start]
        parts.append(Dataset(rows, episode, dataset.time[start:end], dataset.info))
    return parts
