"""How useful estimates are for choosing among policies: true values of the k that an estimator ranks highest.

`estimates` and `truth` are `[P]`, one number for each policy. After SCOPE-RL (Kiyohara et al., arXiv 2311.18206 and
2311.18207).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rlx.errors import RlxError


class TopK(NamedTuple):
    """True values of the k policies with the highest estimates."""

    best: float
    worst: float
    mean: float
    std: float  # of the population
    violations: float  # share of policies that are worse than the threshold; NaN without one


def top_k(estimates: ArrayLike, truth: ArrayLike, k: int, threshold: float | None = None) -> TopK:
    """Best, worst, mean and deviation at k, and the share below a `threshold` that a safe policy reaches.

    Raises RlxError for a `k` that is not 1 to P.
    """
    values = _chosen(estimates, truth, k)
    violations = float("nan") if threshold is None else float((values < threshold).mean())
    best, worst, mean, std = (float(x) for x in (values.max(), values.min(), values.mean(), values.std()))
    return TopK(best, worst, mean, std, violations)


def sharpe_ratio(estimates: ArrayLike, truth: ArrayLike, k: int, behaviour: float) -> float:
    """SharpeRatio@k = max(best@k - J(behaviour), 0) / std@k (arXiv 2311.18207).

    0 where none of the k is better than the behaviour policy; infinite where one is and all k are equally good.
    """
    at = top_k(estimates, truth, k)
    gain = max(at.best - behaviour, 0.0)
    return gain / at.std if at.std > 0 else (float("inf") if gain > 0 else 0.0)


def regret(estimates: ArrayLike, truth: ArrayLike, k: int = 1) -> float:
    """The best true value of all minus that of the k chosen."""
    return float(np.max(truth)) - top_k(estimates, truth, k).best


def rank_correlation(estimates: ArrayLike, truth: ArrayLike) -> float:
    """Spearman's: the correlation of ranks, ties sharing theirs; NaN where all estimates, or all values, are equal."""
    from scipy.stats import rankdata

    ranks = [rankdata(x) for x in _checked(estimates, truth)]
    centred = [rank - rank.mean() for rank in ranks]
    scale = np.sqrt(np.square(centred[0]).sum() * np.square(centred[1]).sum())
    return float(centred[0] @ centred[1] / scale) if scale > 0 else float("nan")


def mean_squared_error(estimates: ArrayLike, truth: ArrayLike) -> float:
    """The mean over policies of the squared error."""
    x, y = _checked(estimates, truth)
    return float(np.square(x - y).mean())


def relative_mse(estimates: ArrayLike, truth: ArrayLike) -> float:
    """Mean squared error over that of the mean true value as every estimate: below 1, estimates tell policies apart."""
    _, y = _checked(estimates, truth)
    return mean_squared_error(estimates, truth) / float(y.var()) if y.var() > 0 else float("nan")


def _checked(estimates: ArrayLike, truth: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(estimates, np.float64), np.asarray(truth, np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise RlxError(f"estimates are {list(x.shape)} and true values {list(y.shape)}: give one of each policy, [P]")
    return x, y


def _chosen(estimates: ArrayLike, truth: ArrayLike, k: int) -> np.ndarray:
    """True values of the k policies with the highest estimates; of equal ones, the first; NaN ranks last."""
    x, y = _checked(estimates, truth)
    if not 1 <= k <= len(x):
        raise RlxError(f"k {k}: must be 1 to the number of policies, {len(x)}")
    return y[np.argsort(-x, kind="stable")[:k]]
