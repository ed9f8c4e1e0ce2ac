"""Running statistics of observations: count, mean and variance, merged as batches come in.

They are kept as count, mean and variance, and never as sums of x and x^2: after 1e8 samples a float32 sum no longer
sees what is added, and E[x^2] - E[x]^2 loses all digits where the mean is large against the spread. Here a batch moves
mean and variance by its share of the samples (Chan, Golub and LeVeque 1979, the pairwise update).
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode


class Statistics(PyTreeNode):
    """Of all samples so far. At first mean 0 and variance 1 with no weight: `normalize` is the identity then."""

    count: jax.Array  # [] float32: never overflows, and a batch that it cannot count any more still has its share
    mean: jax.Array  # [O] float32
    variance: jax.Array  # [O] float32, of the population


def init(size: int) -> Statistics:
    """Statistics of no samples of `size` numbers."""
    return Statistics(count=jnp.zeros(()), mean=jnp.zeros(size), variance=jnp.ones(size))


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
    chex.assert_trees_all_equal_shapes(one, other)
    count = one.count + other.count
    share = other.count / jnp.maximum(count, 1)
    delta = other.mean - one.mean
    variance = jnp.where(one.count > 0, one.variance, other.variance)
    variance = variance + share * (other.variance - variance) + share * (1 - share) * jnp.square(delta)
    return Statistics(count=count, mean=one.mean + share * delta, variance=variance)


def normalize(statistics: Statistics, x: jax.Array, clip: jax.Array | float) -> jax.Array:
    """`(x - mean) / std` of `x` `[..., O]`, clipped to +-clip, float32.

    The standard deviation is kept above 1e-3, so that a constant entry does not blow up the noise of its digits.
    """
    chex.assert_axis_dimension(x, -1, statistics.mean.shape[0])
    std = jnp.maximum(jnp.sqrt(statistics.variance), 1e-3)
    return jnp.clip((x.astype(jnp.float32) - statistics.mean) / std, -clip, clip)
