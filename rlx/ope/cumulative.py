"""The distribution of a policy's return from another policy's episodes, and its mean, variance, quantiles and CVaR.

An estimate is F(x), the probability of a return of at most x, at sorted values `x` `[G]`, such as the data's returns
(Huang et al., arXiv 2104.08977; Chandak et al., arXiv 2104.12820; in SCOPE-RL, arXiv 2311.18206). Pure functions, as in
`rlx.ope.estimators`; `weights` `[N]` say how often an episode counts.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rlx.ope.estimators import Batch, Scalar, log_weights, normalised, returns


def importance_sampling(batch: Batch, gamma: Scalar, x: jax.Array, weights: jax.Array) -> jax.Array:
    """mean_i w_i 1{G_i <= x}, `[G]`, cut off at 1."""
    weight = jnp.exp(log_weights(batch)[:, -1]) * weights / jnp.sum(weights)
    return jnp.minimum(weight @ _below(batch, gamma, x), 1.0)


def self_normalised(batch: Batch, gamma: Scalar, x: jax.Array, weights: jax.Array) -> jax.Array:
    """sum_i w_i 1{G_i <= x} / sum_i w_i, `[G]`."""
    return normalised(log_weights(batch)[:, -1], weights) @ _below(batch, gamma, x)


def direct(first: jax.Array, weights: jax.Array) -> jax.Array:
    """mean_i F(x | s_i), `[N, G]` to `[G]`: a model's distribution over the episodes' first states."""
    return weights @ first / jnp.sum(weights)


def doubly_robust(
    batch: Batch, gamma: Scalar, x: jax.Array, weights: jax.Array, first: jax.Array, taken: jax.Array
) -> jax.Array:
    """mean_i (F(x | s_i) + w_i (1{G_i <= x} - F(x | s_i, a_i))), `[G]`, made a distribution function.

    `first` `[N, G]` is a model's distribution of the policy's return from each first state, `taken` `[N, G]` that after
    the action taken there.
    """
    weight = jnp.exp(log_weights(batch)[:, -1]) * weights / jnp.sum(weights)
    return monotone(direct(first, weights) + weight @ (_below(batch, gamma, x) - taken))


def self_normalised_doubly_robust(
    batch: Batch, gamma: Scalar, x: jax.Array, weights: jax.Array, first: jax.Array, taken: jax.Array
) -> jax.Array:
    """The same with weights that sum to 1."""
    share = normalised(log_weights(batch)[:, -1], weights)
    return monotone(direct(first, weights) + share @ (_below(batch, gamma, x) - taken))


ESTIMATORS: dict[str, Callable[..., jax.Array]] = {
    "IS": importance_sampling,
    "SNIS": self_normalised,
    "DR": doubly_robust,
    "SNDR": self_normalised_doubly_robust,
}


def monotone(cdf: jax.Array) -> jax.Array:
    """`[G]`, never falling and within [0, 1]."""
    return jnp.clip(jax.lax.cummax(cdf), 0.0, 1.0)


def masses(cdf: jax.Array) -> jax.Array:
    """The probability at each value, `[G]`: what is missing to 1 is at the last."""
    return jnp.diff(cdf.at[-1].set(1.0), prepend=0.0)


def mean(x: jax.Array, cdf: jax.Array) -> jax.Array:
    """The mean return, []."""
    return jnp.sum(x * masses(cdf))


def variance(x: jax.Array, cdf: jax.Array) -> jax.Array:
    """The variance of the return, []."""
    return jnp.sum(jnp.square(x - mean(x, cdf)) * masses(cdf))


def quantile(x: jax.Array, cdf: jax.Array, level: Scalar) -> jax.Array:
    """The smallest value with F(x) >= `level`, []."""
    return x[jnp.argmax(cdf.at[-1].set(1.0) >= level)]


def cvar(x: jax.Array, cdf: jax.Array, level: Scalar) -> jax.Array:
    """The mean of the worst share `level` of returns, []: conditional value at risk."""
    mass = masses(cdf)
    taken = jnp.clip(level - (jnp.cumsum(mass) - mass), 0.0, mass)
    return jnp.sum(x * taken) / level


def _below(batch: Batch, gamma: Scalar, x: jax.Array) -> jax.Array:
    """1{G_i <= x}, `[N, G]`."""
    return (returns(batch, gamma)[:, None] <= x).astype(jnp.float32)
