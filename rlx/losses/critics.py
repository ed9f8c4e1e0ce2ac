"""Losses of critics with a scalar value, and value losses f(u) of u = Q - V with their implicit policies' weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rlx.losses.targets import Scalar


def ensemble_td_loss(q: jax.Array, target: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Squared error of every critic `[N, B]` against one target `[B]`: mean over B, sum over N.

    With a `weight` `[B]` of each row, the mean over B is of weighted errors; rows of weight 0 have no gradient.
    """
    chex.assert_rank([q, target], [2, 1])
    chex.assert_shape(q, (None, *target.shape))
    error = jnp.square(q - target[None])
    if weight is not None:
        chex.assert_equal_shape([weight, target])
        error = weight[None] * error
    return jnp.sum(jnp.mean(error, axis=1))


def ensemble_huber_loss(q: jax.Array, target: jax.Array, delta: Scalar) -> jax.Array:
    """Huber loss, x^2 / 2 within `delta`, of critics `[N, B]` against one target `[B]`: mean over B, sum over N."""
    chex.assert_rank([q, target, delta], [2, 1, 0])
    chex.assert_shape(q, (None, *target.shape))
    error = q - target[None]
    within = jnp.clip(error, -delta, delta)
    return jnp.sum(jnp.mean(within * (error - within / 2), axis=1))


# Value losses f(u) of u = Q - V, any shape, elementwise (IDQL, arXiv 2304.10573), and the weights
# w = |f'(u)| / |u| of the policies they imply (up to a constant factor: weights are normalised over the actions).


def expectile_loss(u: jax.Array, expectile: Scalar) -> jax.Array:
    """`|expectile - 1(u < 0)| * u^2` (IQL, arXiv 2110.06169, eq. 5)."""
    return expectile_weight(u, expectile) * jnp.square(u)


def expectile_weight(u: jax.Array, expectile: Scalar) -> jax.Array:
    """`|expectile - 1(u < 0)|`."""
    chex.assert_rank(expectile, 0)
    return jnp.abs(expectile - (u < 0).astype(u.dtype))


def quantile_loss(u: jax.Array, quantile: Scalar) -> jax.Array:
    """`|quantile - 1(u < 0)| * |u|`."""
    return expectile_weight(u, quantile) * jnp.abs(u)


def quantile_weight(u: jax.Array, quantile: Scalar) -> jax.Array:
    """`|quantile - 1(u < 0)| / |u|`, with |u| kept above 1e-6: the weight has a pole at 0."""
    return expectile_weight(u, quantile) / jnp.maximum(jnp.abs(u), 1e-6)


def exponential_loss(u: jax.Array, beta: Scalar, max_exponent: Scalar = 5.0) -> jax.Array:
    """`exp(beta * u) - beta * u`, going on as a straight line where the exponent passes `max_exponent`.

    A straight line, because clipping the exponent alone would leave the slope `-beta`: large errors would then push
    the value the wrong way.
    """
    chex.assert_rank([beta, max_exponent], 0)
    x = beta * u
    clipped = jnp.minimum(x, max_exponent)
    return jnp.exp(clipped) * (1 + x - clipped) - x


def exponential_weight(u: jax.Array, beta: Scalar, max_exponent: Scalar = 5.0) -> jax.Array:
    """`beta * |exp(beta * u) - 1| / |u|`, which is beta^2 at u = 0; the exponent is clipped as in the loss."""
    chex.assert_rank([beta, max_exponent], 0)
    x = beta * u
    safe = jnp.where(x == 0, 1.0, x)  # expm1 is exact near 0, so only 0 itself needs care
    return beta**2 * jnp.where(x == 0, 1.0, jnp.expm1(jnp.minimum(safe, max_exponent)) / safe)


# Dual value losses, lambda max(f*(u), 0) - (1 - lambda) u (f-DVL, arXiv 2302.08560), of two divergences' conjugates f*.


def chi_square_loss(u: jax.Array, dual: Scalar) -> jax.Array:
    """With f*(u) = u + u^2 / 4; below 0 nothing of it counts."""
    above = jnp.maximum(u, 0.0)
    return dual * (above + jnp.square(above) / 4) - (1 - dual) * u


def chi_square_weight(u: jax.Array, dual: Scalar) -> jax.Array:
    """`|dual * (1 + u / 2) * 1(u > 0) - (1 - dual)| / |u|`, with |u| kept above 1e-6."""
    slope = dual * (1 + u / 2) * (u > 0).astype(u.dtype) - (1 - dual)
    return jnp.abs(slope) / jnp.maximum(jnp.abs(u), 1e-6)


def total_variation_loss(u: jax.Array, dual: Scalar) -> jax.Array:
    """With f*(u) = u."""
    return dual * jnp.maximum(u, 0.0) - (1 - dual) * u


def total_variation_weight(u: jax.Array, dual: Scalar) -> jax.Array:
    """`|dual * 1(u > 0) - (1 - dual)| / |u|`, with |u| kept above 1e-6."""
    return jnp.abs(dual * (u > 0).astype(u.dtype) - (1 - dual)) / jnp.maximum(jnp.abs(u), 1e-6)


class ValueLoss(NamedTuple):
    """A loss f and the weight of its implicit policy, both `(u, parameter) -> like u`."""

    loss: Callable[[jax.Array, Scalar], jax.Array]
    weight: Callable[[jax.Array, Scalar], jax.Array]


VALUE_LOSSES = {
    "expectile": ValueLoss(expectile_loss, expectile_weight),
    "quantile": ValueLoss(quantile_loss, quantile_weight),
    "exponential": ValueLoss(exponential_loss, exponential_weight),
    "chi_square": ValueLoss(chi_square_loss, chi_square_weight),
    "total_variation": ValueLoss(total_variation_loss, total_variation_weight),
}
