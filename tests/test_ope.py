"""Off-policy evaluation: padded episodes, and estimators, intervals and selection against numbers by hand."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.ope import cumulative, estimators, intervals, kernels, selection, trajectories
from rlx.ope.estimators import make_batch
from tests.commands import one_line
from tests.datasets import LENGTHS, ROWS, walk
from tests.loss_tools import near, three_ways

GAMMA = 0.5


# Trajectories


def test_episodes_are_padded_with_true_last_observations() -> None:
    """Episodes of 3, 1, 4 and 2 steps, of which the first and the third are terminated and the limit is 2."""
    dataset = walk(LENGTHS, episode_length=2)
    padded = trajectories.from_dataset(dataset)
    assert padded.mask.tolist() == [[step < n for step in range(4)] for n in LENGTHS]
    assert padded.terminated.tolist() == [True, False, True, False]
    assert padded.complete.tolist() == [True, False, True, True]
    observation = padded.pad(dataset.rows.observation)  # (episode, step, noise)
    for i, n in enumerate(LENGTHS):
        assert observation[i, :n, :2].tolist() == [[i, step] for step in range(n)] and not observation[i, n:].any()
        assert dataset.rows.next_observation[padded.last_row[i], :2].tolist() == [i, n]
    for name, leaf in (("reward", padded.reward), ("log_prob", padded.log_prob)):
        flat = dataset.rows.reward if name == "reward" else dataset.rows.extras[name]
        np.testing.assert_array_equal(leaf[padded.mask], flat)  # type: ignore[index]
    short = padded.select(padded.lengths < 3)
    assert short.mask.shape == (2, 2) and short.row[1].tolist() == [8, 9] and padded.mask.sum() == ROWS


@pytest.mark.parametrize(
    ("lengths", "terminated", "limit"), [([3, 5, 5, 2], [0, 0, 0, 0], 5), ([3, 5, 2], [0, 0, 0], 6), ([4], [1], 5)]
)
def test_a_time_limit_that_is_not_known_is_one_that_cut_twice(
    lengths: list[int], terminated: list[int], limit: int
) -> None:
    assert trajectories.time_limit_of(walk(lengths, [bool(x) for x in terminated])) == limit


def test_sets_without_rewards_or_rows_are_refused() -> None:
    dataset = walk(LENGTHS)
    with one_line("no rewards"):
        trajectories.from_dataset(dataset._replace(info={"name": "x", "missing": ["rewards"]}))
    with one_line("holds no transitions"):
        trajectories.from_dataset(dataset._replace(episode=dataset.episode[:0]))


# Estimators of the value


def by_hand(batch: Any, weights: np.ndarray) -> dict[str, float]:
    """Every estimator in float64, episode by episode and step by step."""
    reward, mask, log_ratio, q, v, tail, marginal, of_state = (np.asarray(x, float) for x in batch)
    lengths, n, steps = mask.sum(1).astype(int), len(reward), reward.shape[1]
    w = np.ones((n, steps + 1))  # w[:, t + 1] = w_t
    for i, t in itertools.product(range(n), range(steps)):
        w[i, t + 1] = w[i, t] * (math.exp(log_ratio[i, t]) if t < lengths[i] else 1)
    estimates = dict.fromkeys(estimators.ESTIMATORS, 0.0)
    sums, total = weights @ w, weights.sum()
    for i in range(n):
        a = weights[i]
        g = sum(GAMMA**t * reward[i, t] for t in range(lengths[i]))
        estimates["TIS"] += a * w[i, -1] * g / total
        estimates["SNTIS"] += a * w[i, -1] * g / sums[-1]
        for name in ("DM", "MDR", "SMDR"):
            estimates[name] += a * v[i, 0] / total
        for t in range(lengths[i]):
            estimates["PDIS"] += a * GAMMA**t * w[i, t + 1] * reward[i, t] / total
            estimates["SNPDIS"] += a * GAMMA**t * w[i, t + 1] * reward[i, t] / sums[t + 1]
            for name, after, before in (("DR", total, total), ("WDR", sums[t + 1], sums[t])):
                step = w[i, t + 1] / after * (reward[i, t] - q[i, t]) + w[i, t] / before * v[i, t]
                estimates[name] += a * GAMMA**t * step
            later = v[i, t + 1] if t + 1 < lengths[i] else tail[i]
            for which, d in (("", marginal[i, t]), ("S", of_state[i, t] * math.exp(log_ratio[i, t]))):
                estimates[f"{which}MIS"] += a * d * reward[i, t] / total
                estimates[f"{which}MDR"] += a * d * (reward[i, t] + GAMMA * later - q[i, t]) / total
        for name, after in (("DR", total), ("WDR", sums[-1])):
            estimates[name] += a * GAMMA ** lengths[i] * w[i, -1] / after * tail[i]
    return estimates


def ragged(seed: int = 0) -> Any:
    """Five episodes of 1 to 4 steps; the padding holds numbers that must not count."""
    rng = np.random.default_rng(seed)
    mask = np.arange(4) < np.array([4, 1, 3, 2, 4])[:, None]
    reward, log_ratio, q, v, marginal, of_state = rng.normal(size=(6, 5, 4))
    return make_batch(reward, mask, log_ratio, q, v, marginal, of_state, tail=rng.normal(size=5))


def every(batch: Any, gamma: Any, weights: Any) -> Any:
    return {name: estimate(batch, gamma, weights) for name, estimate in estimators.ESTIMATORS.items()}


compiled = jax.jit(every)


def test_every_estimator_of_ragged_episodes() -> None:
    """Plain, jitted and vmapped, with the weights of a bootstrap sample: one episode twice, one not at all."""
    batch, weights = ragged(), np.array([2.0, 0, 1, 1, 1])
    assert not np.asarray(batch.reward)[~np.asarray(batch.mask)].any()
    for actual in three_ways(every, batch, GAMMA, weights):
        near(actual, by_hand(batch, weights))
    twice = jax.tree.map(lambda x: x[np.array([0, 0, 2, 3, 4])], batch)
    near(compiled(batch, GAMMA, weights), compiled(twice, GAMMA, np.ones(5)))


def test_weights_beyond_float32_stay_finite() -> None:
    """Ratios of e^400, of 0 and of episodes that a bootstrap sample leaves out."""
    log_ratio = np.full((5, 4), 100.0)
    log_ratio[1] = -np.inf
    batch = make_batch(**ragged()._replace(log_ratio=log_ratio)._asdict())
    assert np.isfinite(list(compiled(batch, GAMMA, np.array([0.0, 1, 1, 1, 2])).values())).all()


def test_effective_sample_size() -> None:
    """Equal weights count fully, a single large one alone; 1, 1, 2: 16 / 6."""
    log_weight = np.log([[1.0, 1e-9, 1], [1, 1, 1], [1, 1e-9, 2]])
    for actual in three_ways(estimators.effective_sample_size, log_weight):
        near(actual, [3, 1, 16 / 6])
    batch = ragged()._replace(log_ratio=np.zeros((5, 4)))
    near(jax.jit(estimators.per_decision_sample_size)(batch, GAMMA), 5)


@pytest.mark.parametrize("size", [1, 2])
def test_a_kernel_integrates_to_one(size: int) -> None:
    """Over [-1, 1]^A, at a bound too, where half of an unbounded one is outside; that has the textbook's normaliser."""
    side = np.linspace(-1, 1, 401)
    action = np.stack([x.ravel() for x in np.meshgrid(*[side] * size)], axis=1)
    weight = np.prod(np.where(np.abs(action) == 1, 0.5, 1.0), axis=1) * (side[1] - side[0]) ** size
    for target, outside in ((np.full(size, 0.2), 1.0), (np.ones(size), 0.5**size)):
        density = [
            jnp.exp(kernels.log_kernel(action, np.tile(target, (len(action), 1)), 0.1, b)) for b in (True, False)
        ]
        np.testing.assert_allclose([weight @ x for x in density], [1.0, outside], rtol=1e-3)
    near(kernels.log_kernel(jnp.full(size, 0.1), jnp.zeros(size), 0.2, False), size * math.log(0.352065 / 0.2), 1e-4)


# The distribution of returns


def test_distributions_of_returns() -> None:
    """Returns 1, 2, 4 with weights 1, 1, 2: by hand, and with the control variates of a model."""
    batch = make_batch(np.array([[1.0], [2], [4]]), np.ones((3, 1), bool), np.log([[1.0], [1], [2]]))
    first, taken = np.tile([0.0, 0.5, 1, 1], (3, 1)), np.tile([0.0, 1, 1, 1], (3, 1))
    model = {"DR": (first, taken), "SNDR": (first, taken)}

    def every(batch: Any, x: Any, weights: Any, *model_of: Any) -> Any:
        functions = cumulative.ESTIMATORS.items()
        return {name: f(batch, GAMMA, x, weights, *(model_of if name in model else ())) for name, f in functions}

    expected = {
        "IS": [0, 1 / 3, 2 / 3, 1],  # 4 / 3 before it is cut off
        "SNIS": [0, 1 / 4, 1 / 2, 1],
        "DR": [0, 0, 1 / 3, 1],  # 0.5 + 1/3 - 4/3 < 0; 1 + 2/3 - 4/3; 1 + 4/3 - 4/3
        "SNDR": [0, 0, 1 / 2, 1],  # 0.5 + 1/4 - 1; 1 + 1/2 - 1; 1
    }
    for actual in three_ways(every, batch, np.array([0.0, 1, 2, 4]), np.ones(3), first, taken):
        near(actual, expected)
    near(cumulative.monotone(jnp.array([-0.1, 0.5, 0.4, 1.2])), [0, 0.5, 0.5, 1])


def test_statistics_of_a_distribution() -> None:
    """Mass 1/4 at 1, 1/4 at 2, 1/2 at 4; the end has what is missing to 1."""

    def every(x: Any, cdf: Any) -> Any:
        quantiles = [cumulative.quantile(x, cdf, level) for level in (0.25, 0.26, 1.0)]
        tails = [cumulative.cvar(x, cdf, level) for level in (0.25, 0.5, 0.375, 1.0)]
        return [cumulative.mean(x, cdf), cumulative.variance(x, cdf), *quantiles, *tails]

    expected = [2.75, 1 / 4 + 1 + 8 - 2.75**2, 1, 2, 4, 1, 1.5, (0.25 * 1 + 0.125 * 2) / 0.375, 2.75]
    for actual in three_ways(every, np.array([0.0, 1, 2, 4]), np.array([0, 0.25, 0.5, 0.7])):
        near(actual, expected)


# Intervals


def test_intervals_by_hand() -> None:
    """Terms 0, 1, 2, 3, 4: s^2 = 2.5, range 4; t of 4 degrees of freedom is 2.7764."""
    x = np.arange(5.0)
    half = {
        "t": 2.7764451052 * math.sqrt(2.5 / 5),
        "hoeffding": 4 * math.sqrt(math.log(40) / 10),
        "bernstein": math.sqrt(2 * 2.5 * math.log(80) / 5) + 7 * 4 * math.log(80) / 12,
    }
    for name, expected in half.items():
        np.testing.assert_allclose(intervals.OF_TERMS[name](x), (2, 2 - expected, 2 + expected), rtol=1e-6)
    wide = intervals.hoeffding(x, bounds=(0, 8))
    np.testing.assert_allclose(wide.high - 2, 2 * half["hoeffding"])
    with one_line("two episodes or more"):
        intervals.student([1.0])


def test_bootstrap_intervals_are_those_of_resampled_episodes() -> None:
    batch = ragged()
    counts = intervals.bootstrap_counts(5, 200)
    assert (counts.sum(axis=1) == 5).all()
    estimate = estimators.ESTIMATORS["PDIS"]
    value, low, high = jax.jit(lambda: intervals.bootstrap(lambda w: estimate(batch, GAMMA, w), counts))()
    terms = np.asarray(jax.jit(estimators.TERMS["PDIS"])(batch, GAMMA))
    near((value, low, high), (terms.mean(), *np.quantile(counts @ terms / 5, [0.025, 0.975])), rtol=1e-4)


# Selection


def test_selection_by_hand() -> None:
    """Estimates rank policies 3, 0, 2, 1, whose true values are 1, 5, 3, 0; the behaviour's is 2."""
    estimates, truth = [3.0, 0.0, 2.5, 4.0], [5.0, 0.0, 3.0, 1.0]
    assert selection.top_k(estimates, truth, 1)[:4] == (1, 1, 1, 0)
    assert selection.top_k(estimates, truth, 2, threshold=2) == (5, 1, 3, 2, 0.5)
    ratios = [selection.sharpe_ratio(estimates, truth, k, behaviour=2) for k in (1, 2, 3)]
    np.testing.assert_allclose(ratios, [0, 3 / 2, 3 / math.sqrt(8 / 3)])
    assert selection.sharpe_ratio(estimates, truth, 1, behaviour=0) == math.inf
    assert [selection.regret(estimates, truth, k) for k in (1, 2)] == [4, 0]
    assert selection.rank_correlation(estimates, truth) == pytest.approx(0.4)  # ranks 3 1 2 4 and 4 1 3 2
    assert selection.rank_correlation([1, 1, 2], [0, 1, 2]) == pytest.approx(1.5 / math.sqrt(1.5 * 2))
    assert math.isnan(selection.rank_correlation([1, 1], [0, 1]))
    squares = (4 + 0 + 0.25 + 9) / 4
    assert selection.mean_squared_error(estimates, truth) == squares
    assert selection.relative_mse(estimates, truth) == pytest.approx(squares / 3.6875)
    with one_line("k 5: must be 1 to the number of policies, 4"):
        selection.top_k(estimates, truth, 5)
    with one_line("one of each policy"):
        selection.regret([1.0], truth)


def test_the_sharpe_ratio_separates_estimators_of_equal_error() -> None:
    """Both overrate one policy by 8.5: the worst, which then is among the chosen, or the best."""
    truth, behaviour = np.array([10.0, 9, 8, 5, 1]), 8.5
    risky, safe = truth + 8.5 * (truth == 1), truth + 8.5 * (truth == 10)
    assert selection.mean_squared_error(risky, truth) == selection.mean_squared_error(safe, truth)
    ratios = [selection.sharpe_ratio(x, truth, 3, behaviour) for x in (risky, safe)]
    np.testing.assert_allclose(ratios, [1.5 / np.std([10, 9, 1]), 1.5 / np.std([10, 9, 8])])
