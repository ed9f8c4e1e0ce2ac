"""IDQL's score network (arXiv 2304.10573): noise in an action by observation and time, and its log-density."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlx.networks.modules import INITIALIZERS, OUTPUT_INIT, ResidualBlock
from rlx.networks.network import Network
from rlx.types import Key, Params, Spec


class FourierFeatures(nn.Module):
    """`[...]` -> `[..., size]`: cosines and sines of a number at learnable frequencies (arXiv 2006.10739)."""

    size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        frequencies = self.param("frequencies", nn.initializers.normal(0.2), (self.size // 2,), jnp.float32)
        angle = 2 * jnp.pi * jnp.expand_dims(x, -1) * jnp.expand_dims(frequencies, range(x.ndim))
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class ScoreNet(nn.Module):
    """IDQL's LN-ResNet: the noise in an action, by observation and time (arXiv 2304.10573), or other numbers."""

    output_size: int
    num_steps: int
    width: int
    num_blocks: int
    dropout: float
    time_features: int
    kernel_init: str = "he"
    compute_dtype: str = "float32"

    @nn.compact
    def __call__(self, observation: jax.Array, action: jax.Array, time: jax.Array) -> jax.Array:
        kernel_init, dtype = INITIALIZERS[self.kernel_init], jnp.dtype(self.compute_dtype)
        # There are few times: they are embedded once each, and rows look theirs up. For the same reason the first Dense
        # on all inputs is written as a sum over its inputs: what the rows share is computed once.
        times = FourierFeatures(self.time_features)(jnp.arange(self.num_steps, dtype=action.dtype))
        times = nn.swish(nn.Dense(self.width, kernel_init=kernel_init)(times))
        times = nn.Dense(self.width, kernel_init=kernel_init)(times)
        sizes = (action.shape[-1], observation.shape[-1], self.width)
        kernel = self.param("kernel", kernel_init, (sum(sizes), self.width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32)
        of_action, of_observation, of_time = jnp.split(kernel, (sizes[0], sizes[0] + sizes[1]))
        row = jax.nn.one_hot(time, self.num_steps, dtype=action.dtype)
        terms = [action @ of_action, observation @ of_observation, row @ (times @ of_time + bias[None])]
        rank = max(term.ndim for term in terms)
        first, second, third = (jnp.expand_dims(term, range(rank - term.ndim)) for term in terms)
        x = first + second + third
        for _ in range(self.num_blocks):
            x = ResidualBlock(self.dropout, kernel_init=self.kernel_init, dtype=dtype)(x)
        return nn.Dense(self.output_size, kernel_init=OUTPUT_INIT)(nn.swish(x))


def make_score(
    spec: Spec,
    *,
    num_steps: int,
    width: int = 256,
    num_blocks: int = 3,
    dropout: float = 0.1,
    time_features: int = 128,
    output_size: int | None = None,
    **options: Any,
) -> Network:
    """`apply(params, observation [..., O], action [..., A], time int32 [...], key=None) -> noise [..., A]`.

    Leading axes broadcast: one observation, one time and many actions will do. Times are 0 to `num_steps` - 1. Dropout
    needs the key; without one there is none. `output_size` replaces A; `options` are `kernel_init` and `compute_dtype`.
    """
    size = spec.action_size if output_size is None else output_size
    module = ScoreNet(size, num_steps, width, num_blocks, dropout, time_features, **options)

    def init(key: Key) -> Params:
        return module.init(key, jnp.zeros(spec.actor_size), jnp.zeros(spec.action_size), jnp.zeros((), jnp.int32))

    def apply(
        params: Params, observation: jax.Array, action: jax.Array, time: jax.Array, key: Key | None = None
    ) -> jax.Array:
        rngs = None if key is None else {"dropout": key}
        noise: Any = module.apply(params, spec.actor_observation(observation), action, time, rngs=rngs)
        return noise

    return Network(init, apply)


def make_log_density(spec: Spec, **options: Any) -> Network:
    """`apply(params, observation [..., O], action [..., A], time int32 [...]) -> [...]`, one number for each action.

    Trained so that `diffusion.noise_of_density` of it predicts the noise, it is the log-density of noisy actions up to
    a constant for each observation and time (arXiv 2407.09024). `options` are those of `make_score`.
    """
    wide = make_score(spec, output_size=1, dropout=0.0, **options)

    def apply(params: Params, observation: jax.Array, action: jax.Array, time: jax.Array) -> jax.Array:
        return wide.apply(params, observation, action, time)[..., 0]

    return Network(wide.init, apply)
