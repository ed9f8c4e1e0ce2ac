"""Running statistics against NumPy in float64: in pieces, over devices, merged, far from 0 and after 1e8 samples."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import normalize
from rlx.normalize import Statistics

CENTER, SPREAD = np.array([0.0, 1e3, -50.0]), np.array([1.0, 0.5, 1e-2])


def samples(seed: int, *shape: int) -> np.ndarray:
    """Entries of very different size, one with a mean 2000 times its spread."""
    draws = np.random.default_rng(seed).normal(size=(*shape, 3))
    return (CENTER + SPREAD * draws).astype(np.float32)


def check(statistics: Statistics, data: np.ndarray, tolerance: float = 1e-3) -> None:
    """Against all the data at once; means to within a share of the spread."""
    data = data.reshape(-1, 3).astype(np.float64)
    assert float(statistics.count) == len(data)
    np.testing.assert_array_less(np.abs(np.asarray(statistics.mean) - data.mean(axis=0)), tolerance * SPREAD)
    np.testing.assert_allclose(statistics.variance, data.var(axis=0), rtol=tolerance)


@pytest.mark.parametrize("jit", [False, True])
def test_pieces_equal_the_whole(jit: bool) -> None:
    """Batches of different sizes and ranks, the first of a single sample; starting values have no weight at all."""
    update = jax.jit(normalize.update) if jit else normalize.update
    batches = [samples(0, 1), samples(1, 200), samples(2, 4, 50), samples(3, 7)]
    statistics = normalize.init(3)
    for batch in batches:
        statistics = update(statistics, jnp.asarray(batch))
    check(statistics, np.concatenate([b.reshape(-1, 3) for b in batches]))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(statistics.rest))  # so short a run is a plain sum
    small = update(normalize.init(3), jnp.asarray(1e-4 * batches[1]))
    np.testing.assert_allclose(small.variance, 1e-8 * batches[1].astype(np.float64).var(axis=0), rtol=1e-4)


@pytest.mark.parametrize("axes", ["device", ("device", "shard")])
def test_members_share_their_samples(axes: Any) -> None:
    """Over one axis of devices, and over two; everybody gets the statistics of all samples."""
    first, second = samples(0, 4, 2, 30), samples(1, 4, 2, 30) + np.arange(8).reshape(4, 2, 1, 1).astype(np.float32)

    def run(one: jax.Array, two: jax.Array) -> Statistics:
        return normalize.update(normalize.update(normalize.init(3), one, axes), two, axes)

    if axes == "device":
        got = jax.jit(jax.vmap(run, axis_name="device"))(first, second)
    else:
        got = jax.jit(jax.vmap(jax.vmap(run, axis_name="shard"), axis_name="device"))(first, second)
        got = jax.tree.map(lambda x: x.reshape(8, *x.shape[2:]), got)
    for i in range(len(got.count)):
        check(jax.tree.map(lambda x, i=i: x[i], got), np.stack([first, second]))


def test_merge_in_either_order() -> None:
    one, other = samples(0, 10), samples(1, 300) + 2
    a, b = (normalize.update(normalize.init(3), jnp.asarray(x)) for x in (one, other))
    for merge in (normalize.merge, jax.jit(normalize.merge)):
        check(merge(a, b), np.concatenate([one, other]))
        check(merge(b, a), np.concatenate([one, other]))
    empty = normalize.init(3)
    for merged in (normalize.merge(a, empty), normalize.merge(empty, a)):
        jax.tree.map(np.testing.assert_array_equal, merged, a)
    jax.tree.map(np.testing.assert_array_equal, normalize.merge(empty, empty), empty)


VARIANTS: dict[str, Callable[[Statistics, jax.Array], Statistics]] = {
    "plain": normalize.update,
    "jit": jax.jit(normalize.update),
    "vmap": lambda *arguments: jax.tree.map(
        lambda x: x[1], jax.vmap(normalize.update)(*jax.tree.map(lambda x: jnp.stack([x, x]), arguments))
    ),
    "members": lambda s, batch: jax.tree.map(
        lambda x: x[0],
        jax.vmap(partial(normalize.update, axis_name="d"), (None, 0), axis_name="d")(s, batch.reshape(4, 50, 3)),
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_rare_far_values_do_not_count(variant: str) -> None:
    """As diverging physics shows them, from the second batch on; elsewhere the mean of the samples so far counts."""
    statistics, expected = (normalize.update(normalize.init(3), jnp.asarray(samples(0, 200))) for _ in range(2))
    for i in range(1, 40):
        batch = samples(i, 200)
        spoilt, without = batch.copy(), batch.copy()
        for row, value in enumerate((1e3, -1e4, 1e6, 1e9)):
            spoilt[row, 0], without[row, 0] = value, expected.mean[0]
        statistics = VARIANTS[variant](statistics, jnp.asarray(spoilt))
        expected = normalize.update(expected, jnp.asarray(without))
    np.testing.assert_allclose(statistics.mean, expected.mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(statistics.variance, expected.variance, rtol=1e-4)
    np.testing.assert_allclose(statistics.far, [0.02 * (1 - 1 / 40), 0, 0], rtol=1e-5)
    assert statistics.count == 8000


def test_frequent_far_values_are_a_change() -> None:
    """From a tenth of the recent samples on; what is near counts in any case, however small the deviation was."""
    statistics = normalize.update(normalize.init(3), jnp.asarray(samples(0, 10_000)))
    moved = jnp.asarray(samples(1, 500) + np.array([500.0, 0, 90.0]))
    first = normalize.update(statistics, moved)
    np.testing.assert_allclose(first.mean, CENTER + np.array([0, 0, 90 / 21]), atol=0.1)
    last = normalize.update(normalize.update(first, moved), moved)
    np.testing.assert_allclose(last.mean[0], 500 * 500 / 11_500, rtol=1e-3)  # of the third batch alone
    assert np.asarray(last.far)[0] > 0.1 and last.variance[0] > 1e4


@pytest.mark.parametrize("seen", [1e8, 1e10])
def test_long_runs_go_on_counting(seen: float) -> None:
    """After 1e8 and 1e10 samples, 300,000 batches of 256: a plain float32 sum would round every one of them away."""
    start, length = Statistics(jnp.float32(seen), jnp.array([5.0, -300.0]), jnp.array([1.0, 9.0])), 300_000
    batch = Statistics(jnp.float32(256), jnp.array([7.0, -302.0]), jnp.array([1.5, 8.0]))

    def learn(statistics: Statistics, _: Any) -> tuple[Statistics, None]:
        return normalize.merge(statistics, batch), None

    got = jax.jit(lambda s: jax.lax.scan(learn, s, None, length=length)[0])(normalize.merge(normalize.init(2), start))
    new = 256.0 * length
    share = new / (float(start.count) + new)
    got, start = jax.tree.map(lambda x: np.asarray(x, np.float64), (got, start))
    moved = got.mean + got.rest.mean - start.mean
    np.testing.assert_allclose(got.count + got.rest.count, start.count + new, rtol=1e-12)
    np.testing.assert_allclose(moved, share * np.array([2.0, -2.0]), rtol=1e-4)
    grown = got.variance + got.rest.variance - start.variance
    np.testing.assert_allclose(grown, share * np.array([0.5, -1.0]) + share * (1 - share) * 4, rtol=1e-4)


def test_normalize_by_hand() -> None:
    """(x - mean) / std, then the clip, which is all without data; a constant entry gives 0 and never infinity."""
    x = jnp.array([[0.3, -7.0, 6.0]])
    for call in (normalize.normalize, jax.jit(normalize.normalize), jax.vmap(normalize.normalize, (None, 0, None))):
        np.testing.assert_array_equal(call(normalize.init(3), x, 5.0), np.array([[0.3, -5, 5]], np.float32))
    statistics = Statistics(jnp.float32(9), mean=jnp.array([1.0, 2.0, 3.0]), variance=jnp.array([4.0, 0.25, 0.0]))
    x = jnp.array([[5, 0, 3], [-99, 2.5, 3.001]], jnp.bfloat16)
    want = np.array([[2, -4, 0], [-4.5, 1, 0]])  # 3.001 is 3 in bfloat16
    got = normalize.normalize(statistics, x, 4.5)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want)
    three: Any = normalize.init(3)
    for function, inputs in (
        (normalize.update, (three, jnp.zeros((4, 2)))),
        (normalize.normalize, (three, jnp.zeros((4, 1)), 5.0)),
        (normalize.merge, (three, normalize.init(2))),
    ):
        with pytest.raises(AssertionError):
            function(*inputs)
