"""STAR: the value of a policy from an abstract reward process of few states (Chaudhari et al., arXiv 2410.02172).

Observations are grouped into K clusters. Transitions between clusters and rewards in them are averages over the data,
weighted by the importance ratios of the last `window` steps, and the small Markov reward process is solved. A short
window has little variance, and is right where clusters are Markov; the longer it is, the less depends on them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlx.ope.estimators import MAX_LOG_WEIGHT, Batch, Scalar
from rlx.types import Key


def cluster(x: Any, key: Key, number: int, steps: int = 20) -> tuple[jax.Array, jax.Array]:
    """k-means of rows `[n, I]`: centres `[K, I]`, and the number of each row's nearest one, `[n]`.

    The first centre is a random row, each further one the row that is farthest from those before.
    """
    x = jnp.asarray(x)

    def farthest(carry: tuple[jax.Array, jax.Array], _: Any) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        distance, centre = carry
        distance = jnp.minimum(distance, jnp.sum(jnp.square(x - centre), axis=1))
        return (distance, x[jnp.argmax(distance)]), centre

    def step(centres: jax.Array, _: Any) -> tuple[jax.Array, None]:
        member = jax.nn.one_hot(nearest(x, centres), number)
        count = member.sum(axis=0)[:, None]
        return jnp.where(count > 0, member.T @ x / jnp.maximum(count, 1), centres), None

    first = jnp.full(x.shape[0], jnp.inf), x[jax.random.randint(key, (), 0, x.shape[0])]
    _, start = jax.lax.scan(farthest, first, None, length=number)
    centres, _ = jax.lax.scan(step, start, None, length=steps)
    return centres, nearest(x, centres)


def nearest(x: Any, centres: jax.Array) -> jax.Array:
    """The number of the nearest of the centres `[K, I]` to each row `[n, I]`, `[n]`."""
    return jnp.argmin(jnp.sum(jnp.square(centres), axis=1) - 2 * x @ centres.T, axis=1)


def window_weights(batch: Batch, window: int) -> jax.Array:
    """Products of the importance ratios of a step and the `window` - 1 before it, `[N, T]`; 0 beyond the end."""
    total = jnp.cumsum(batch.log_ratio, axis=1)
    before = jnp.pad(total, ((0, 0), (window, 0)))[:, : total.shape[1]]
    return jnp.where(batch.mask, jnp.exp(jnp.minimum(total - before, MAX_LOG_WEIGHT)), 0.0)


def value(
    batch: Batch, state: Any, number: int, window: int, gamma: Scalar, weights: jax.Array, limit: int | None = None
) -> jax.Array:
    """eta^T sum_{t < limit} (gamma P)^t r of the abstract reward process, []; `state` `[N, T]` are the steps' clusters.

    A termination leads to a state without rewards, which is never left; nothing is known to follow a step at the time
    `limit`. Without a limit the sum has no end. `weights` `[N]` say how often an episode counts.
    """
    state = jnp.asarray(state)
    weight = weights[:, None] * window_weights(batch, window)

    def add(values: jax.Array, at: jax.Array, size: int) -> jax.Array:
        return jax.ops.segment_sum(values.reshape(-1), at.reshape(-1), size)

    def share(values: jax.Array, total: jax.Array) -> jax.Array:
        return values / jnp.maximum(total, 1e-12)

    before = weight if limit is None else jnp.where(jnp.arange(state.shape[1]) < limit - 1, weight, 0.0)
    pair = state[:, :-1] * number + state[:, 1:]
    moves = add(jnp.where(batch.mask[:, 1:], before[:, :-1], 0.0), pair, number**2).reshape(number, number)
    transition = gamma * share(moves, add(before, state, number)[:, None])
    reward = share(add(weight * batch.reward, state, number), add(weight, state, number))
    start = add(weights, state[:, 0], number) / jnp.sum(weights)
    if limit is None:
        return start @ jnp.linalg.solve(jnp.eye(number) - transition, reward)
    return start @ jax.lax.fori_loop(1, limit, lambda _, later: reward + transition @ later, reward)
