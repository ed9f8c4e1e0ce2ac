"""Confidence intervals of an estimate from terms of N episodes, of which it is the mean; the bootstrap needs no terms.

Bernstein's and Hoeffding's intervals hold for every N where all terms lie within the range that is named. Importance
weights have no known bound, so a range taken from the terms themselves, the default, makes both approximate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from rlx.errors import RlxError
from rlx.statistics import Interval

Range = tuple[float, float]


def student(terms: ArrayLike, level: float = 0.95) -> Interval:
    """mean +- t s / sqrt(N), Student's t with N - 1 degrees of freedom."""
    from scipy.stats import t

    x = _checked(terms)
    return _around(x, float(t.ppf((1 + level) / 2, len(x) - 1)) * x.std(ddof=1) / math.sqrt(len(x)))


def hoeffding(terms: ArrayLike, level: float = 0.95, bounds: Range | None = None) -> Interval:
    """mean +- R sqrt(ln(2 / delta) / (2 N)), R the range of a term and delta = 1 - `level` (Hoeffding 1963)."""
    x = _checked(terms)
    return _around(x, _range(x, bounds) * math.sqrt(math.log(2 / (1 - level)) / (2 * len(x))))


def empirical_bernstein(terms: ArrayLike, level: float = 0.95, bounds: Range | None = None) -> Interval:
    """mean +- (sqrt(2 s^2 ln(4 / delta) / N) + 7 R ln(4 / delta) / (3 (N - 1))) (Maurer and Pontil, arXiv 0907.3740).

    Their theorem 4 at each end, with delta / 2.
    """
    x = _checked(terms)
    log, n = math.log(4 / (1 - level)), len(x)
    return _around(x, math.sqrt(2 * x.var(ddof=1) * log / n) + 7 * _range(x, bounds) * log / (3 * (n - 1)))


OF_TERMS: dict[str, Callable[..., Interval]] = {
    "t": student,
    "bernstein": empirical_bernstein,
    "hoeffding": hoeffding,
}


def bootstrap_counts(episodes: int, samples: int, seed: int = 0) -> np.ndarray:
    """How often each of N episodes is drawn in each of B samples of N with replacement, `[B, N]` float32."""
    drawn = np.random.default_rng(seed).integers(episodes, size=(samples, episodes))
    return np.stack([np.bincount(row, minlength=episodes) for row in drawn]).astype(np.float32)


def bootstrap(estimate: Callable[[jax.Array], Any], counts: ArrayLike, level: float = 0.95) -> tuple[Any, Any, Any]:
    """`estimate(weights [N])` of all episodes, and the ends of its percentile bootstrap interval, leaf by leaf.

    `counts` are those of `bootstrap_counts`. Traceable.
    """
    counts = jnp.asarray(counts)
    drawn = jax.lax.map(estimate, counts)

    def at(share: float) -> Any:
        return jax.tree.map(lambda x: jnp.quantile(x, share, axis=0), drawn)

    return estimate(jnp.ones(counts.shape[1])), at((1 - level) / 2), at((1 + level) / 2)


def _checked(terms: ArrayLike) -> np.ndarray:
    x = np.asarray(terms, np.float64)
    if x.ndim != 1 or len(x) < 2:
        raise RlxError(f"terms are {list(x.shape)}: an interval needs those of two episodes or more, [N]")
    return x


def _range(x: np.ndarray, bounds: Range | None) -> float:
    low, high = (x.min(), x.max()) if bounds is None else bounds
    return float(high - low)


def _around(x: np.ndarray, half: float) -> Interval:
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half))
