"""Marginalised importance weights: visits of states and actions by a policy, over their visits in the data.

Their variance does not grow with the length of episodes as that of products of ratios does. They need no densities, so
deterministic policies have them, too. Weights w(s, a) = features . alpha satisfy, for each feature f,

    mean_i sum_t w (f(s, a) - gamma m E f(s', pi)) = mean_i E f(s_0, pi),

m being 0 where the episode ends: minimax weights with linear classes (Uehara et al., arXiv 1910.12809, eq. 10), which
have a closed form.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlx.ope.estimators import Scalar
from rlx.types import Key


def fourier_features(x: Any, key: Key, number: int) -> jax.Array:
    """Random Fourier features of a Gaussian kernel, with a constant: `[..., I]` to `[..., number + 1]`.

    `x` has about unit variance; the kernel's width is sqrt(I), about the distance of two rows (Rahimi and Recht 2007).
    """
    frequency_key, phase_key = jax.random.split(key)
    frequencies = jax.random.normal(frequency_key, (x.shape[-1], number)) / jnp.sqrt(x.shape[-1])
    phases = jax.random.uniform(phase_key, (number,), maxval=2 * jnp.pi)
    waves = jnp.sqrt(2.0 / number) * jnp.cos(x @ frequencies + phases)
    return jnp.concatenate([jnp.ones((*waves.shape[:-1], 1)), waves], axis=-1)


def minimax_weights(
    features: Any, following: Any, discount: Any, first: Any, gamma: Scalar, ridge: Scalar = 1e-3
) -> jax.Array:
    """Weights of n rows of E episodes, `[n]`: sum_t gamma^t P(s_t, a_t | pi) over sum_t P(s_t, a_t | mu).

    `features` `[n, D]` are those of the actions taken, `following` `[n, D]` the mean over the policy's actions at the
    next observation, `discount` `[n]` is 0 where the episode ends, and `first` `[E, D]` is the mean over the policy's
    actions at the first observations. `ridge` is a share of the features' mean square.
    """
    count = first.shape[0]
    change = features - gamma * discount[:, None] * following
    moments = features.T @ change / count  # [D of alpha, D of f]
    scale = ridge * jnp.mean(jnp.square(features)) * features.shape[0] / count
    alpha = jnp.linalg.solve(moments.T + scale * jnp.eye(features.shape[1]), jnp.mean(first, axis=0))
    return features @ alpha
