"""Which of several settings a number of online evaluations chooses, by a bandit (arXiv 2504.11453, section 4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

REPEATS = 500  # bandits, whose choices are averaged
EXPLORATION = 2.0  # alpha of the paper's code


def choose(
    returns: ArrayLike, evaluations: int, repeats: int = REPEATS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The settings that `repeats` bandits choose by so many evaluation episodes, `[repeats]`, and how many each had,
    `[repeats, K]`.

    `returns` `[K, E]` are episodes of K settings' policies, from which each evaluation draws one with replacement. The
    next is of the policy with the largest mean + sqrt(2 log t / n), which of t evaluations has had n, each policy first
    having one; the choice is the largest mean of those tried. The bound suits returns scaled to 0 to 100.
    """
    array = np.asarray(returns, np.float64)
    array = np.where(np.isfinite(array), array, -np.inf)  # a policy that diverged is never chosen over another
    settings, episodes = array.shape
    rng, each = np.random.default_rng(seed), np.arange(repeats)
    sums, counts = np.zeros((repeats, settings)), np.zeros((repeats, settings), int)
    order = rng.permuted(np.tile(np.arange(settings), (repeats, 1)), axis=1)  # of the first evaluations
    means = np.full((repeats, settings), -np.inf)
    for t in range(1, evaluations + 1):
        if t <= settings:
            arm = order[:, t - 1]
        else:
            arm = np.argmax(means + np.sqrt(EXPLORATION * np.log(t) / counts), axis=1)
        sums[each, arm] += array[arm, rng.integers(episodes, size=repeats)]
        counts[each, arm] += 1
        means[each, arm] = sums[each, arm] / counts[each, arm]
    means[~np.isfinite(means) & (counts > 0)] = -np.finfo(float).max  # tried and diverged: above those not tried
    return np.argmax(means, axis=1), counts


def tuned(returns: ArrayLike, evaluations: int, seed: int = 0) -> tuple[float, np.ndarray]:
    """The mean return of what `choose` chooses, and how often it chooses each setting, `[K]`.

    The first half of the episodes `[K, E]` chooses and the second evaluates, since the mean that chose is too high.
    """
    array = np.asarray(returns, np.float64)
    half = array.shape[1] // 2
    chosen, _ = choose(array[:, :half], evaluations, seed=seed)
    share = np.bincount(chosen, minlength=len(array)) / len(chosen)
    worth = array[:, half:].mean(axis=1)
    return float(worth[share > 0] @ share[share > 0]), share
