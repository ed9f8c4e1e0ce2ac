"""Running statistics of observations and returns: count, mean and variance, merged as batches come in.

They are kept as count, mean and variance, and never as sums of x and x^2: E[x^2] - E[x]^2 loses all digits where the
mean is large against the spread. A batch moves mean and variance by its share of the samples (Chan, Golub and LeVeque
1979, the pairwise update). In a long run that move is less than float32's last digit of the mean, so each number has a
second float32 for what rounding would lose (compensated summation: Kahan 1965, Knuth's TwoSum), about 48 bits in all.

Physics that diverges passes through huge finite numbers, and a few of them would widen the variance for good. So rare
values that are far from the mean, by many standard deviations, are left out; where they are frequent, observations have
really changed, and all of them count.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax.struct import PyTreeNode

from rlx.parallel.xla import isolated

SHORT = 2.0**20  # samples up to which rounding loses nothing that matters, and a plain sum serves
FAR = 30.0  # standard deviations; values of healthy Brax tasks stay below half of the distance
NEAR = 300.0  # distance that is never far: the standard deviation of few samples says little
RARE, RECENT = 0.1, 10_000.0  # far values are left out while they are at most this share of so many recent samples


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
    far: jax.Array | float = 0.0  # [O] float32, share of far values among recent samples
    returns: Statistics | None = None  # of discounted returns [1], in a run that normalises rewards
    largest: jax.Array | None = None  # [] the largest size of a return, where these are discounted returns


class Returns(PyTreeNode):
    """The discounted returns of environments in the middle of their episodes."""

    discounted: jax.Array  # [E] float32, sum of gamma^age * reward over the steps of the episode so far
    gamma: jax.Array  # [E] float32


def init(size: int) -> Statistics:
    """Statistics of no samples of `size` numbers."""
    zeros = jnp.zeros(size)
    rest = Rest(count=jnp.zeros(()), mean=zeros, variance=jnp.zeros(size))
    return Statistics(jnp.zeros(()), mean=jnp.zeros(size), variance=jnp.ones(size), rest=rest, far=jnp.zeros(size))


def update(
    statistics: Statistics, batch: jax.Array, axis_name: str | tuple[str, ...] | None = None, outliers: bool = False
) -> Statistics:
    """Statistics with the samples of `batch` `[..., O]` and, over `axis_name`, the batches of all other members.

    All members pass equal shapes and the same statistics, and get the same result. In place of far values (see
    `is_far`), as long as they are rare, the mean counts, unless `outliers` count as well.
    """
    chex.assert_axis_dimension(batch, -1, statistics.mean.shape[0])
    x = batch.reshape(-1, batch.shape[-1]).astype(jnp.float32)

    def mean(values: jax.Array) -> jax.Array:
        local = jnp.mean(values, axis=0)
        return local if axis_name is None else jax.lax.pmean(local, axis_name)

    members = 1 if axis_name is None else jax.lax.psum(1, axis_name)
    count = jnp.asarray(x.shape[0] * members, jnp.float32)
    far = is_far(statistics, x)
    weight = count / (jnp.minimum(statistics.count, RECENT) + count)
    share = statistics.far + weight * (mean(far.astype(jnp.float32)) - statistics.far)
    x = x if outliers else _replaced(far & (share <= RARE), statistics.mean, x)
    center = mean(x)  # over all shards, before squaring: deviations from it do not cancel
    batch_statistics = Statistics(count=count, mean=center, variance=mean(jnp.square(x - center)))
    return merge(statistics, batch_statistics).replace(far=share)


@isolated
def _replaced(condition: jax.Array, mean: jax.Array, x: jax.Array) -> jax.Array:
    """Merged into the sums that follow, it would change their last bits."""
    return jnp.where(condition, mean, x)


def is_far(statistics: Statistics, x: jax.Array) -> jax.Array:
    """Which numbers of `x` `[..., O]` are so far from the mean that they hardly belong to the samples so far, bool."""
    distance = jnp.maximum(FAR * jnp.sqrt(statistics.variance), NEAR)
    return (statistics.count > 0) & (jnp.abs(x - statistics.mean) > distance)


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
    rest = Rest(count_rest, mean_rest, variance_rest)
    return Statistics(count, mean, variance, rest, far=jnp.maximum(one.far, other.far), returns=one.returns)


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


def add_rewards(
    statistics: Statistics,
    returns: Returns,
    reward: jax.Array,
    ended: jax.Array,
    axis_name: str | tuple[str, ...] | None = None,
) -> tuple[Statistics, Returns]:
    """Statistics of discounted returns with those after each step of a block, and where they stand after it.

    `reward` and `ended` (terminated or truncated) are `[K, E]`. An episode's last reward counts towards its own return,
    the next episode starts from 0. Over `axis_name` as in `update`.
    """

    def step(discounted: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        discounted = returns.gamma * discounted + now[0]
        return jnp.where(now[1], 0.0, discounted), discounted

    assert statistics.returns is not None and statistics.returns.largest is not None
    discounted, of_steps = jax.lax.scan(step, returns.discounted, (reward, ended))
    merged = update(statistics.returns, of_steps[..., None], axis_name, outliers=True)  # a rare reward is the task
    largest = jnp.max(jnp.abs(of_steps), initial=0.0)
    largest = largest if axis_name is None else jax.lax.pmax(largest, axis_name)
    merged = merged.replace(largest=jnp.maximum(statistics.returns.largest, largest))
    return statistics.replace(returns=merged), returns.replace(discounted=discounted)


def init_returns() -> Statistics:
    """Statistics of no discounted returns."""
    return init(1).replace(largest=jnp.zeros(()))


def with_returns_as(statistics: Statistics, wanted: Statistics) -> Statistics:
    """`statistics` with those of returns where `wanted` has some: its own, or those of no returns."""
    returns = statistics.returns if wanted.returns is not None else None
    if wanted.returns is not None and returns is None:
        returns = jax.tree.map(lambda x, y: np.broadcast_to(x, y.shape), init_returns(), wanted.returns)
    return statistics.replace(returns=returns)


def scale_reward(statistics: Statistics, reward: jax.Array, max_return: float = 0.0) -> jax.Array:
    """`reward` in standard deviations of the discounted returns, not shifted: a shift would change the task.

    The rule of VecNormalize and of XQC (arXiv 2509.25174); as it is before the first sample. Where returns hardly vary,
    the deviation is kept above 1e-3. With a `max_return` above 0, no return so far is larger than that after scaling
    (G_max of SimbaV2, arXiv 2502.15280, and FlashSAC).
    """
    return reward / reward_scale(statistics, max_return)


def reward_scale(statistics: Statistics, max_return: float = 0.0) -> jax.Array:
    """What `scale_reward` divides by, []; 1 in a run that does not normalise rewards."""
    if statistics.returns is None:
        return jnp.ones(())
    scale = jnp.maximum(jnp.sqrt(statistics.returns.variance[0]), 1e-3)
    if max_return > 0:
        assert statistics.returns.largest is not None
        scale = jnp.maximum(scale, statistics.returns.largest / max_return)
    return scale
