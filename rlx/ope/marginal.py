"""Marginalised importance weights: visits of states and actions by a policy, over their visits in the data.

Their variance does not grow with the length of episodes as that of products of ratios does. Those of states and actions
need no densities; those of states leave the action to the ratio of densities, or to the kernel of a deterministic
policy (arXiv 2006.03900), and have fewer dimensions to learn. Weights w_t = gamma^t (1 + features . alpha) satisfy,
for each feature f,

    mean_i sum_t w_t (f(s, a) - gamma m E f(s', pi)) = mean_i E f(s_0, pi),

m being 0 where the episode ends: minimax weights with linear classes (Uehara et al., arXiv 1910.12809, eq. 10), which
have a closed form. With alpha = 0 they are those of the policy that collected, to which little data leaves them near.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlx.ope.estimators import Scalar
from rlx.types import Key

RIDGE = 1e-6  # measured on Pendulum: docs/ope.md


def fourier_features(x: Any, key: Key, number: int) -> jax.Array:
    """Random Fourier features of a Gaussian kernel, with a constant: `[..., I]` to `[..., number + 1]`.

    `x` has about unit variance; the kernel's width is sqrt(I), about the distance of two rows (Rahimi and Recht 2007).
    """
    frequency_key, phase_key = jax.random.split(key)
    frequencies = jax.random.normal(frequency_key, (x.shape[-1], number)) / jnp.sqrt(x.shape[-1])
    phases = jax.random.uniform(phase_key, (number,), maxval=2 * jnp.pi)
    waves = jnp.sqrt(2.0 / number) * jnp.cos(x @ frequencies + phases)
    return jnp.concatenate([jnp.ones((*waves.shape[:-1], 1)), waves], axis=-1)


def minimax_weights(features: Any, change: Any, first: Any, base: Any, ridge: Scalar = RIDGE) -> jax.Array:
    """Weights of n rows of E episodes, `[n]`: sum_t gamma^t P(s_t, a_t | pi) over sum_t P(s_t, a_t | mu).

    `features` `[n, D]` are those of what is weighted, `change` `[n, D]` what a test function loses in a step,
    f - gamma m E f(s', pi), `first` `[E, D]` the mean over the policy's actions at the first observations, and `base`
    `[n]` the weights of the policy that collected, gamma^t. The weights have the least sum of the squared violations
    of all equations and `ridge` times |alpha|^2, in units of the equations' mean square.
    """
    count = first.shape[0]
    moments = (change * base[:, None]).T @ features / count  # [D of f, D of alpha]
    missing = jnp.mean(first, axis=0) - base @ change / count
    return base * (1 + features @ least_squares(moments, missing, ridge))


def least_squares(matrix: Any, goal: Any, ridge: Scalar) -> jax.Array:
    """x `[D]` that minimises |matrix x - goal|^2 + r |x|^2, r being `ridge` times the mean square of a row of `matrix`.

    By QR, which float32 has the digits for; those of the normal equations it has not. Differentiable.
    """
    size = jnp.sqrt(ridge * jnp.mean(jnp.sum(jnp.square(matrix), axis=1)))
    q, r = jnp.linalg.qr(jnp.concatenate([matrix, size * jnp.eye(matrix.shape[1])]))
    return jax.scipy.linalg.solve_triangular(r, goal @ q[: len(goal)])
