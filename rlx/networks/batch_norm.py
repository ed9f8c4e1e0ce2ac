"""Batch normalisation over the rows of all shards and devices, and batch renormalisation."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.Module):
    """`[..., W]`: every feature by its mean and variance over all leading axes and the mapped `axes` (1502.03167).

    Without `train` by running ones. `renormalize` shifts and scales what training sees towards that, within bounds,
    once the running ones are of `warmup` batches (batch renormalisation, arXiv 1702.03275, eqs. 3 to 6).
    """

    renormalize: bool = False
    axes: tuple[str, ...] = ()
    momentum: float = 0.99
    warmup: int = 100_000
    max_scale: float = 3.0  # r_max
    max_shift: float = 5.0  # d_max
    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        size, dtype = x.shape[-1:], x.dtype
        scale = self.param("scale", nn.initializers.ones, size, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, size, jnp.float32)
        running = [
            self.variable("batch_stats", "mean", jnp.zeros, size, jnp.float32),
            self.variable("batch_stats", "variance", jnp.ones, size, jnp.float32),
            self.variable("batch_stats", "batches", jnp.zeros, (), jnp.float32),
        ]
        old_mean, old_variance, batches = (jax.lax.stop_gradient(variable.value) for variable in running)
        old_deviation = jnp.sqrt(old_variance + self.epsilon)
        x = x.astype(jnp.float32)

        def rows(feature: jax.Array) -> jax.Array:  # [W] in the rank of x
            return feature.reshape((1,) * (x.ndim - 1) + size)

        def normalised(mean: jax.Array, slope: jax.Array, offset: jax.Array) -> jax.Array:
            """What is done to each feature as one slope: a division for every number would cost a quarter more."""
            return ((x - rows(mean)) * rows(slope) + rows(offset)).astype(dtype)

        if not train:
            return normalised(old_mean, scale / old_deviation, bias)
        mean = self._mean(x)
        variance = self._mean((x - rows(mean)) ** 2)
        deviation = jnp.sqrt(variance + self.epsilon)
        slope, offset = scale / deviation, bias
        if self.renormalize:
            r = jnp.clip(deviation / old_deviation, 1 / self.max_scale, self.max_scale)
            d = jnp.clip((mean - old_mean) / old_deviation, -self.max_shift, self.max_shift)
            warm = batches >= self.warmup
            r, d = (jax.lax.stop_gradient(jnp.where(warm, z, cold)) for z, cold in ((r, 1.0), (d, 0.0)))
            slope, offset = slope * r, offset + scale * d
        for variable, new in zip(running[:2], (mean, variance), strict=True):
            variable.value = self.momentum * variable.value + (1 - self.momentum) * jax.lax.stop_gradient(new)
        running[2].value = batches + 1
        return normalised(mean, slope, offset)

    def _mean(self, x: jax.Array) -> jax.Array:
        mean = x.mean(axis=tuple(range(x.ndim - 1)))
        return jax.lax.pmean(mean, self.axes) if self.axes else mean
