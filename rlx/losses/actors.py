"""Losses and weights of actors, and of the temperature."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlx.losses.targets import Scalar


def soft_actor_loss(q: jax.Array, log_prob: jax.Array, alpha: Scalar) -> jax.Array:
    """Mean of `alpha * log_prob - q`, both `[B]` (SAC, arXiv 1812.05905, eq. 7)."""
    chex.assert_rank([q, log_prob, alpha], [1, 1, 0])
    chex.assert_equal_shape([q, log_prob])
    return jnp.mean(alpha * log_prob - q)


def temperature_loss(log_alpha: jax.Array, log_prob: jax.Array, target_entropy: Scalar) -> jax.Array:
    """Mean of `-log_alpha * (log_prob + target_entropy)`, `log_prob` `[B]` without gradient.

    SAC (arXiv 1812.05905, eq. 18) with log alpha in place of alpha, as its authors' code has it: alpha stays positive.
    """
    chex.assert_rank([log_alpha, log_prob, target_entropy], [0, 1, 0])
    return -log_alpha * jnp.mean(jax.lax.stop_gradient(log_prob + target_entropy))


def alpha_loss(log_alpha: jax.Array, log_prob: jax.Array, target_entropy: Scalar) -> jax.Array:
    """Mean of `-alpha * (log_prob + target_entropy)`: `temperature_loss` with the gradient through alpha itself.

    As the paper has it (arXiv 1812.05905, eq. 18), and the code of CrossQ, XQC and FlashSAC. The gradient is alpha
    times the other's, so a small alpha moves slowly.
    """
    return temperature_loss(jnp.exp(log_alpha), log_prob, target_entropy)


TEMPERATURE_LOSSES = {"log_alpha": temperature_loss, "alpha": alpha_loss}


def advantage_weights(advantage: jax.Array, beta: Scalar, max_weight: Scalar = 100.0) -> jax.Array:
    """Weights of advantage-weighted regression, `min(exp(beta * advantage), max_weight)`, without gradient.

    `[B]` -> `[B]`. IQL (arXiv 2110.06169, eq. 7); the cap of 100 is its authors' code.
    """
    chex.assert_rank([advantage, beta, max_weight], [1, 0, 0])
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(beta * advantage), max_weight))


def alignment_loss(values: jax.Array, log_ratios: jax.Array) -> jax.Array:
    """Cross-entropy of softmax(log_ratios) against softmax(values), both over K choices, `[K, ...]` -> `[...]`.

    Values have no gradient. EDA's loss (arXiv 2407.09024): choices are a state's actions, drawn from a behaviour, and
    log_ratios those of a policy's density and the behaviour's. It is least where they are values up to a constant.
    """
    chex.assert_equal_shape([values, log_ratios])
    wanted = jax.lax.stop_gradient(jax.nn.softmax(values, axis=0))
    return -jnp.sum(wanted * jax.nn.log_softmax(log_ratios, axis=0), axis=0)


def td3_bc_lambda(q: jax.Array, alpha: Scalar = 2.5) -> jax.Array:
    """TD3+BC's weight of the value term, `alpha / mean|q|`, `[B]` -> `[]`, without gradient (arXiv 2106.06860, eq. 5).

    The mean is kept above 1e-6: a critic that is still zero everywhere gives a large weight, not NaN.
    """
    chex.assert_rank([q, alpha], [1, 0])
    return jax.lax.stop_gradient(alpha / jnp.maximum(jnp.mean(jnp.abs(q)), 1e-6))
