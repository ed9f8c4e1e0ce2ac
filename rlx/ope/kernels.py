"""Deterministic policies have no density: a kernel around their action stands in for it (arXiv 2006.03900)."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

Scalar = jax.Array | float


def log_kernel(action: Any, target: Any, bandwidth: Scalar, bounded: bool = True) -> jax.Array:
    """log of K((a - pi(s)) / h) / h^A, Gaussian in each of A dimensions: `[..., A]` and `[..., A]` to `[...]`.

    In place of log pi(a|s), it makes importance ratios for a deterministic policy pi(s) = `target`. With `bounded` the
    kernel is cut off at the actions' bounds, +-1, and normalised within: its integral over [-1, 1]^A is 1, so that
    the mean of importance weights is 1 for policies that act at a bound, too.
    """
    chex.assert_equal_shape([action, target])
    one = norm.logpdf(action, target, bandwidth)
    if bounded:
        one -= jnp.log(norm.cdf(1.0, target, bandwidth) - norm.cdf(-1.0, target, bandwidth))
    return jnp.sum(one, axis=-1)


def bandwidth(action: Any, target: Any) -> jax.Array:
    """A bandwidth for n actions `[n, A]`: their root mean square distance from `target` times n^(-1 / (A + 4)), [].

    Silverman's rate; the distance is that of one dimension.
    """
    n, size = action.shape
    distance = jnp.sqrt(jnp.mean(jnp.square(action - target)))
    return jnp.maximum(distance * n ** (-1.0 / (size + 4)), 1e-3)
