"""Scores on the host against slow loops, and intervals against what is known of them."""

import math

import numpy as np
import pytest

from rlx import statistics
from rlx.errors import RlxError
from tests.commands import one_line


def test_normalised() -> None:
    assert statistics.normalised([-20.0, 40.0, 100.0], -20.0, 100.0).tolist() == [0, 50, 100]
    np.testing.assert_allclose(statistics.normalised(3234.3, *statistics.D4RL_REFERENCES["hopper"]), 100)
    np.testing.assert_allclose(statistics.normalised(6000.0, -280.178953, 12135.0), 50.584683, rtol=1e-7)
    for random, expert in ((3.0, 3.0), (20.0, 10.0), (0.0, math.nan), (-math.inf, 5.0)):
        with one_line(f"since the expert's {expert:.1f} is not over random's {random:.1f}: measure"):
            statistics.normalised([1.0], random, expert)


def test_interquartile_mean() -> None:
    assert statistics.interquartile_mean([100.0, 1.0, 0.0, 2.0]) == 1.5
    assert statistics.interquartile_mean([1.0, 2.0, 6.0]) == 3.0
    values = np.random.default_rng(0).normal(size=(5, 9))
    slow = [sum(sorted(row)[2:7]) / 5 for row in values.tolist()]
    np.testing.assert_allclose(statistics.interquartile_mean(values), slow, rtol=1e-12)


def test_bootstrap_equals_a_slow_loop() -> None:
    """The same draws, seed by seed and episode by episode."""
    values = np.random.default_rng(1).normal(size=(3, 5)) * 4 + 10
    rng, drawn = np.random.default_rng(7), []
    for _ in range(200):
        who = rng.integers(3, size=(3, 1))
        which = rng.integers(5, size=(3, 5))
        drawn.append(np.mean([values[who[i, 0], which[i, j]] for i in range(3) for j in range(5)]))
    actual = statistics.bootstrap_interval(values, statistics.mean, level=0.9, samples=200, seed=7)
    np.testing.assert_allclose(actual, [values.mean(), *np.percentile(drawn, [5, 95])], rtol=1e-12)


def test_bootstrap_of_many_seeds_is_the_normal_interval() -> None:
    """Of 400 seeds +-1.96 standard errors of the mean; and the interval of [S] is that of [S, 1]."""
    values = np.random.default_rng(2).normal(size=400)
    actual = statistics.bootstrap_interval(values, statistics.mean)
    error = values.std() / np.sqrt(400)
    ends = values.mean() + 1.96 * error * np.array([-1, 1])
    np.testing.assert_allclose((actual.low, actual.high), ends, atol=0.15 * error)
    assert actual == statistics.bootstrap_interval(values[:, None], statistics.mean)


def test_episodes_of_a_seed_are_not_seeds() -> None:
    """Three seeds that differ, their episodes alike: the interval reaches from seed to seed, however many episodes."""
    values = np.array([[0.0], [10.0], [20.0]]) + np.random.default_rng(3).normal(size=(3, 500)) * 0.1
    actual = statistics.bootstrap_interval(values, statistics.mean)
    assert actual.low < 4 and actual.high > 16
    alone = statistics.bootstrap_interval(values[:1], statistics.mean)  # one policy, its episodes
    assert -0.02 < alone.low < alone.estimate < alone.high < 0.02


def test_bootstrap_repeats_and_takes_any_statistic() -> None:
    values = np.random.default_rng(4).normal(size=(5, 6))
    one, other = (statistics.bootstrap_interval(values, lambda x: np.median(x, axis=-1), seed=3) for _ in range(2))
    assert one == other and one.estimate == np.median(values) and one.low <= one.estimate <= one.high
    few, others = (statistics.bootstrap_interval(values, samples=50, seed=seed) for seed in (0, 1))
    assert few != others
    for shape in ((2, 3, 4), (0,)):
        with pytest.raises(RlxError, match="give returns as"):
            statistics.bootstrap_interval(np.zeros(shape))


def slow_middle(values: list[float]) -> float:
    """The interquartile mean, by taking one from either end as often as it says."""
    kept = sorted(values)
    for _ in range(len(values) // 4):
        kept = kept[1:-1]
    return sum(kept) / len(kept)


def test_a_band_equals_a_slow_loop() -> None:
    """Whole curves are drawn: the same seeds at every moment."""
    values = np.random.default_rng(5).normal(size=(6, 5)) * 3
    actual = statistics.bootstrap_band(values, level=0.9, samples=150, seed=2)
    draws = np.random.default_rng(2).integers(5, size=(150, 5)).tolist()
    alone = statistics.bootstrap_band(values[:, :1])  # of one seed it has no width
    assert (alone.low == values[:, 0]).all() and (alone.high == values[:, 0]).all()
    for t, row in enumerate(values.tolist()):
        drawn = [slow_middle([row[seed] for seed in draw]) for draw in draws]
        np.testing.assert_allclose(actual.low[t], np.percentile(drawn, 5), rtol=1e-12)
        np.testing.assert_allclose(actual.high[t], np.percentile(drawn, 95), rtol=1e-12)
        np.testing.assert_allclose(actual.estimate[t], slow_middle(row), rtol=1e-12)


def test_what_is_no_number_is_no_high_number() -> None:
    """NaN would be sorted last, and be cut as the best quarter."""
    row = [1.0, 2.0, 3.0, 4.0, np.nan]
    assert np.isnan(statistics.interquartile_mean(row))
    band = statistics.bootstrap_band([[1.0, 2.0, 3.0, 4.0, 5.0], row])
    assert [np.isnan(end).tolist() for end in band] == [[False, True]] * 3
    for shape in ((3,), (0, 2), (2, 2, 2)):
        with pytest.raises(RlxError, match="give a curve for each seed"):
            statistics.bootstrap_band(np.zeros(shape))


def test_probability_of_improvement() -> None:
    x, y = [3.0, 1.0, 2.0], [2.0, 0.0]
    result = statistics.probability_of_improvement(x, y)
    assert result.estimate == (1 + 1 + 0 + 1 + 0.5 + 1) / 6
    assert result.low < result.estimate < result.high <= 1

    rng, drawn = np.random.default_rng(0), []
    i, j = rng.integers(3, size=(100, 3, 1)), rng.integers(2, size=(100, 1, 2))
    for who, whom in zip(i[:, :, 0], j[:, 0], strict=True):
        wins = [1.0 if x[a] > y[b] else 0.5 if x[a] == y[b] else 0.0 for a in who for b in whom]
        drawn.append(sum(wins) / len(wins))
    few = statistics.probability_of_improvement(x, y, level=0.8, samples=100)
    np.testing.assert_allclose((few.low, few.high), np.percentile(drawn, [10, 90]), rtol=1e-12)

    assert statistics.probability_of_improvement([5.0, 6.0], [1.0, 2.0, 3.0]) == (1, 1, 1)
    with pytest.raises(RlxError, match=r"runs are \[0\] and \[1\]"):
        statistics.probability_of_improvement([], [1.0])
