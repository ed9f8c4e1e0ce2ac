"""Gaussian mixtures of one number, from the outputs of a network: `[..., 3 M]` are logits, means and log-deviations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from rlx.types import Key


def parts(outputs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Log-weights, means and deviations, `[..., M]` each; log-deviations are clipped to [-5, 5]."""
    logits, means, log_stds = jnp.split(outputs, 3, axis=-1)
    return jax.nn.log_softmax(logits), means, jnp.exp(jnp.clip(log_stds, -5.0, 5.0))


def log_prob(outputs: jax.Array, x: jax.Array) -> jax.Array:
    """Log-density of `x` `[...]`, `[...]`."""
    log_weights, means, stds = parts(outputs)
    return jax.nn.logsumexp(log_weights + norm.logpdf(x[..., None], means, stds), axis=-1)


def mean(outputs: jax.Array) -> jax.Array:
    """The mean of each mixture, `[...]`."""
    log_weights, means, _ = parts(outputs)
    return jnp.sum(jnp.exp(log_weights) * means, axis=-1)


def sample(outputs: jax.Array, key: Key) -> jax.Array:
    """One number of each mixture, `[...]`."""
    log_weights, means, stds = parts(outputs)
    which_key, noise_key = jax.random.split(key)
    which = jax.random.categorical(which_key, log_weights)[..., None]
    mean, std = (jnp.take_along_axis(x, which, axis=-1)[..., 0] for x in (means, stds))
    return mean + std * jax.random.normal(noise_key, mean.shape)
