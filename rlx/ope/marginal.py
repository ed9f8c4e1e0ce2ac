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

import math
from typing import Any

import jax
import jax.numpy as jnp

from rlx.ope.estimators import Scalar
from rlx.types import Key

RIDGE = 1e-6  # measured on Pendulum: docs/ope.md
SINE = [
    (-1) ** k * math.pi ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(7)
]  # sin(pi y) / y by powers of y^2


def fourier_features(x: Any, key: Key, number: int) -> jax.Array:
    """Random Fourier features of a Gaussian kernel, with a constant: `[..., I]` to `[..., number + 1]`.

    `x` has about unit variance; the kernel's width is sqrt(I), about the distance of two rows (Rahimi and Recht 2007).
    """
    frequency_key, phase_key = jax.random.split(key)
    frequencies = jax.random.normal(frequency_key, (x.shape[-1], number)) / jnp.sqrt(x.shape[-1])
    phases = jax.random.uniform(phase_key, (number,), maxval=2 * jnp.pi)
    waves = jnp.sqrt(2.0 / number) * cosine(x @ frequencies + phases)
    return jnp.concatenate([jnp.ones((*waves.shape[:-1], 1)), waves], axis=-1)


def cosine(x: jax.Array) -> jax.Array:
    """cos x, to 1e-6 for |x| < 10: on a CPU twelve times as fast as XLA's, which takes most of the time of features.

    1 - 2 sin^2(pi y), where y, within +-1/2, is the turn that is left of x; the sine by its power series.
    """
    turns = x / (2 * jnp.pi)
    y = turns - jnp.round(turns)
    square = jnp.square(y)
    series = jnp.full_like(y, SINE[-1])
    for coefficient in reversed(SINE[:-1]):
        series = series * square + coefficient
    return 1 - 2 * jnp.square(y * series)


def equations(features: Any, change: Any, base: Any) -> tuple[jax.Array, jax.Array]:
    """Sums over rows of the equations of `minimax_weights`: of alpha, `[D of f, D of alpha]`, and of weights without
    it, `[D]`. Those of several blocks of rows add up."""
    return (change * base[:, None]).T @ features, base @ change


def minimax_weights(features: Any, change: Any, first: Any, base: Any, ridge: Scalar = RIDGE) -> jax.Array:
    """Weights of n rows of E episodes, `[n]`: sum_t gamma^t P(s_t, a_t | pi) over sum_t P(s_t, a_t | mu).

    `features` `[n, D]` are those of what is weighted, `change` `[n, D]` what a test function loses in a step,
    f - gamma m E f(s', pi), `first` `[E, D]` the mean over the policy's actions at the first observations, and `base`
    `[n]` the weights of the policy that collected, gamma^t. The weights have the least sum of the squared violations
    of all equations and `ridge` times |alpha|^2, in units of the equations' mean square.
    """
    return base * (1 + features @ solve(equations(features, change, base), first, ridge))


def solve(sums: tuple[Any, Any], first: Any, ridge: Scalar = RIDGE) -> jax.Array:
    """alpha `[D]` from the sums of `equations` and the features at the starts of E episodes, `[E, D]`."""
    moments, without = (x / first.shape[0] for x in sums)
    return least_squares(moments, jnp.mean(first, axis=0) - without, ridge)


def least_squares(matrix: Any, goal: Any, ridge: Scalar) -> jax.Array:
    """x `[D]` that minimises |matrix x - goal|^2 + r |x|^2, r being `ridge` times the mean square of a row of `matrix`.

    By QR, which float32 has the digits for; those of the normal equations it has not. Differentiable.
    """
    size = jnp.sqrt(ridge * jnp.mean(jnp.sum(jnp.square(matrix), axis=1)))
    q, r = jnp.linalg.qr(jnp.concatenate([matrix, size * jnp.eye(matrix.shape[1])]))
    return jax.scipy.linalg.solve_triangular(r, goal @ q[: len(goal)])
