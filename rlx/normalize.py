"""Running statistics of observations: count, mean and variance, merged as batches come in.

They are kept as count, mean and variance, and never as sums of x and x^2: E[x^2] - E[x]^2 loses all digits where the
mean is large against the spread. A batch moves mean and variance by its share of the samples (Chan, Golub and LeVeque
1979, the pairwise update). In a long run that move is less than float32's last digit of the mean, so each number has a
second float32 for what rounding would lose (compensated summation: Kahan 1965, Knuth's TwoSum), about 48 bits in all.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode

SHORT = 2.0**20  # samples up to which rounding loses nothing that matters, and a plain sum serves


class Rest(PyTreeNode):
    """What rounding has left out of count, mean and variance."""

    count: jax.Array | float = 0.0  # [] float32
    mean: jax.Array | float = 0.0  # [O] float32
    variance: jax.Array | float = 0.0  # [O] float32


class Statistics(PyTreeNode):
    """Of all samples so far. At first mean 0 and variance 1 with no weight: `normalize` is the identity then."""

    count: jax.Array  # [] float32
    mean: jax.Array  # [O] float32
    variance: jax.Array  # [O] float32, of the population
    rest: Rest = Rest()


def init(size: int) -> Statistics:
    """Statistics of no samples of `size` numbers."""
    zeros = jnp.zeros(size)
    rest = Rest(count=jnp.zeros(()), mean=zeros, variance=jnp.zeros(size))
    return Statistics(count=jnp.zeros(()), mean=jnp.zeros(size), variance=jnp.ones(size), rest=rest)


def update(statistics: Statistics, batch: jax.Array, axis_name: str | tuple[str, ...] | None = None) -> Statistics:
    """Statistics with the samples of `batch` `[..., O]` and, over `axis_name`, the batches of all other members.

    All members pass equal shapes and the same statistics, and get the same result.
    """
    chex.assert_axis_dimension(batch, -1, statistics.mean.shape[0])
    x = batch.reshape(-1, batch.shape[-1]).astype(jnp.float32)

    def mean(values: jax.Array) -> jax.Array:
        local = jnp.mean(values, axis=0)
        return local if axis_name is None else jax.lax.pmean(local, axis_name)

    members = 1 if axis_name is None else jax.lax.psum(1, axis_name)
    center = mean(x)  # of everybody, before squaring: deviations from it do not cancel
    count = jnp.asarray(x.shape[0] * members, jnp.float32)
    return merge(statistics, Statistics(count=count, mean=center, variance=mean(jnp.square(x - center))))


def merge(one: Statistics, other: Statistics) -> Statistics:
    """Statistics of the samples of both, in either order; empty ones add nothing."""
    chex.assert_equal_shape([one.mean, other.mean, one.variance, other.variance])
    long = one.count + other.count > SHORT

    def add(number: jax.Array, rest: jax.Array | float, more: jax.Array) -> tuple[jax.Array, jax.Array]:
        total, lost = _two_sum(number, rest, more)
        return total, jnp.where(long, lost, 0.0)

    count, count_rest = add(one.count, one.rest.count + other.rest.count, other.count)
    share = other.count / jnp.maximum(count, 1)
    delta = (other.mean - one.mean) + (other.rest.mean - one.rest.mean)
    empty = one.count == 0
    variance = jnp.where(empty, other.variance, one.variance)
    variance_rest = jnp.where(empty, other.rest.variance, one.rest.variance)
    growth = (other.variance - variance) + (other.rest.variance - variance_rest)
    mean, mean_rest = add(one.mean, one.rest.mean, share * delta)
    variance, variance_rest = add(variance, variance_rest, share * growth)
    variance, variance_rest = add(variance, variance_rest, share * (1 - share) * jnp.square(delta))
    return Statistics(count, mean, variance, Rest(count_rest, mean_rest, variance_rest))


def _two_sum(number: jax.Array, rest: jax.Array | float, more: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`number + rest + more` in float32, and what rounding leaves out of it (Knuth's TwoSum, then Dekker's)."""
    rounded = number + more
    part = rounded - number
    lost = (number - (rounded - part)) + (more - part) + rest
    total = rounded + lost
    return total, lost - (total - rounded)


def normalize(statistics: Statistics, x: jax.Array, clip: jax.Array | float) -> jax.Array:
    """`(x - mean) / std` of `x` `[..., O]`, clipped to +-clip, float32.

    The standard deviation is kept above 1e-3, so that a constant entry does not blow up the noise of its digits.
    """
    chex.assert_axis_dimension(x, -1, statistics.mean.shape[0])
    std = jnp.maximum(jnp.sqrt(statistics.variance), 1e-3)
    return jnp.clip((x.astype(jnp.float32) - statistics.mean) / std, -clip, clip)
