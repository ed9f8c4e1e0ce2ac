"""What policies sample actions from: the tanh-Gaussian, safe at the boundary, and IQL's unsquashed Normal.

They are distrax distributions, so `sample(seed=...)`, `sample_and_log_prob(seed=...)`, `log_prob` and `mode` are what
readers of distrax expect. Make them inside a jitted function and return arrays, not distributions. Importing distrax
takes 0.4 s and more; therefore agents import this module where they use it.

Arithmetic is float32 at least, whatever the dtype of the parameters: bfloat16 belongs into matrix products.
"""

from __future__ import annotations

import math

import chex
import distrax
import jax
import jax.numpy as jnp

from rlx.parallel.xla import isolated
from rlx.types import Key


class TanhNormal(distrax.Distribution):
    """`tanh(u)` with u ~ Normal(mean, exp(log_std)), independent over the last axis; log_std is clipped to [-20, 2].

    `mean` and `log_std` are `[..., A]`; actions are `[..., A]` in [-1, 1], log-probabilities `[...]`. SAC (arXiv
    1812.05905, appendix C), with the Jacobian in the softplus form, log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)).

    Where both are possible, prefer `sample_and_log_prob`: it keeps u and is exact. `log_prob(action)` must invert tanh,
    and tanh rounds every large u to exactly 1 (beyond about 8 in float32, 3.5 in bfloat16). The density itself tends to
    0 at the boundary, where the formula gives -inf + inf and NaN gradients. An action of exactly +-1 is therefore read
    as its neighbour inside (-1, 1), the nearest number of the action's own dtype: u = +-8.66 in float32, +-3.12 in
    bfloat16. So `log_prob(1)` is the log-density at the last representable action before the boundary, from where such
    an action was rounded; it has that value's gradients with respect to the parameters, and none with respect to the
    action. Every other number is read as it is: the value is finite, with finite gradients, on all of [-1, 1].
    Outside there is no density and `log_prob` is -inf.
    """

    def __init__(self, mean: jax.Array, log_std: jax.Array):
        super().__init__()
        chex.assert_equal_shape([mean, log_std])
        self._normal = _normal(mean, log_std, -20.0, 2.0)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self._normal.batch_shape[-1:]

    def _sample_n(self, key: Key, n: int) -> jax.Array:
        return self._sample_n_and_log_prob(key, n)[0]

    def _sample_n_and_log_prob(self, key: Key, n: int) -> tuple[jax.Array, jax.Array]:
        shape = (n, *self._normal.batch_shape)
        noise = isolated(lambda key: jax.random.normal(key, shape, self._normal.dtype))(key)
        u = self._normal.loc[None] + self._normal.scale[None] * noise
        log_prob = -(noise**2) / 2 - jnp.log(self._normal.scale)[None] - math.log(2 * math.pi) / 2
        return jnp.tanh(u), jnp.sum(log_prob - tanh_log_jacobian(u), axis=-1)

    def sample_pre_tanh(self, key: Key) -> jax.Array:
        """u, `[..., A]`, of a sample tanh(u): who stores it never has to invert tanh."""
        return self._normal.loc + self._normal.scale * jax.random.normal(
            key, self._normal.batch_shape, self._normal.dtype
        )

    def log_prob_pre_tanh(self, u: jax.Array) -> jax.Array:
        """Log-density of the actions tanh(u), `[..., A]`: `[...]`, exact for every u."""
        return jnp.sum(self.log_prob_of_dimensions(u), axis=-1)

    def log_prob_of_dimensions(self, u: jax.Array) -> jax.Array:
        """That of each dimension of the actions tanh(u), `[..., A]`, which sum to it."""
        return self._normal.log_prob(u) - tanh_log_jacobian(u)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log-density of actions `[..., A]`: `[...]`. At exactly +-1, see the class."""
        chex.assert_axis_dimension(value, -1, self.event_shape[-1])
        inside = 1 - jnp.finfo(value.dtype).epsneg
        u = jnp.arctanh(jnp.clip(value, -inside, inside).astype(self._normal.loc.dtype))
        log_prob = self.log_prob_of_dimensions(u)
        return jnp.sum(jnp.where(jnp.abs(value) > 1, -jnp.inf, log_prob), axis=-1)

    def mode(self) -> jax.Array:
        """`tanh(mean)`, the action to take without exploring; the median of each dimension."""
        return jnp.tanh(self._normal.loc)


def mean_tanh_normal(mean: jax.Array, log_std: jax.Array) -> distrax.Independent:
    """Normal(tanh(mean), exp(log_std)), independent over the last axis; log_std is clipped to [-5, 2].

    The policy of IQL (arXiv 2110.06169, as in its authors' code): only the mean is squashed, so the log-density is
    finite everywhere and no action needs care, but samples may leave [-1, 1] and acting must clip them. `mean` and
    `log_std` are `[..., A]`, log-probabilities `[...]`; `mode` is `tanh(mean)`.
    """
    chex.assert_equal_shape([mean, log_std])
    return distrax.Independent(_normal(jnp.tanh(mean), log_std, -5.0, 2.0), 1)


def gaussian_divergence(gaussian: tuple[jax.Array, jax.Array], other: tuple[jax.Array, jax.Array]) -> jax.Array:
    """KL(N || N') of diagonal Gaussians, each of means and log-deviations `[..., A]`: `[...]`.

    It is that of the squashed Gaussians, too: tanh is invertible.
    """
    (mean, log_std), (other_mean, other_log_std) = gaussian, other
    chex.assert_equal_shape([mean, log_std, other_mean, other_log_std])
    ratio = log_std - other_log_std
    distance = (mean - other_mean) * jnp.exp(-other_log_std)
    return jnp.sum((jnp.exp(2 * ratio) + distance**2 - 1) / 2 - ratio, axis=-1)


def _normal(mean: jax.Array, log_std: jax.Array, low: float, high: float) -> distrax.Normal:
    dtype = jnp.promote_types(mean.dtype, jnp.float32)
    return distrax.Normal(mean.astype(dtype), jnp.exp(jnp.clip(log_std.astype(dtype), low, high)))


@jax.custom_jvp
def tanh_log_jacobian(u: jax.Array) -> jax.Array:
    """log(d tanh(u) / du) without cancellation at large |u|; its derivative, -2 tanh(u), is known."""
    return 2 * (math.log(2.0) - u - jax.nn.softplus(-2 * u))


tanh_log_jacobian.defjvps(lambda du, _, u: -2 * jnp.tanh(u) * du)
