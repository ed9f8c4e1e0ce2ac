"""Networks behind init/apply pairs: flax.linen stays in this file, agents see `Network` records only.

Initial values: kernels of hidden layers are He-uniform (arXiv 1502.01852), which keeps the scale through ReLU layers;
kernels of output layers are 100 times smaller than fan-in scaling, so that values start near 0 and policies near the
middle of their range, wide and unsaturated (arXiv 1509.02971, section 7; 2006.05990, section 3.2); biases are 0.

Parameters are float32. `dtype` is what hidden layers compute in (float32 or bfloat16); output layers and what they
return are float32 always, because bfloat16 knows values near 1000 in steps of 4 only.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlx.errors import RlxError
from rlx.types import Key, Params, Spec

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "elu": nn.elu,
    "gelu": nn.gelu,
    "swish": nn.swish,
    "tanh": nn.tanh,
}
HIDDEN_INIT = nn.initializers.he_uniform()
OUTPUT_INIT = nn.initializers.variance_scaling(1e-4, "fan_in", "uniform")


class Network(NamedTuple):
    """A network as a pair of pure functions."""

    init: Callable[[Key], Params]
    apply: Callable[..., Any]  # (params, *inputs)


class MLP(nn.Module):
    """`[..., I]` -> `[..., output_size]`: hidden layers of Dense, LayerNorm if wanted, activation; then a Dense.

    Raises RlxError for an unknown activation or a width below 1.
    """

    hidden_sizes: Sequence[int]
    output_size: int
    activation: str = "relu"
    layer_norm: bool = False
    input_layer_norm: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            close = difflib.get_close_matches(self.activation, ACTIVATIONS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(ACTIVATIONS)}"
            raise RlxError(f"unknown activation {self.activation!r}: {hint}")
        if min(self.hidden_sizes, default=1) < 1:
            sizes = " ".join(map(str, self.hidden_sizes))
            raise RlxError(
                f"hidden sizes {sizes} (--actor-hidden-sizes, --critic-hidden-sizes): each must be at least 1"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.input_layer_norm:
            x = nn.LayerNorm(dtype=self.dtype)(x)
        for size in self.hidden_sizes:
            x = nn.Dense(size, kernel_init=HIDDEN_INIT, dtype=self.dtype)(x)
            if self.layer_norm:
                x = nn.LayerNorm(dtype=self.dtype)(x)
            x = ACTIVATIONS[self.activation](x)
        return nn.Dense(self.output_size, kernel_init=OUTPUT_INIT, dtype=jnp.float32)(x)


class GaussianHead(nn.Module):
    """Mean and log standard deviation, `[..., A]`; unless `state_dependent`, the latter is a parameter, at first 0."""

    mlp: MLP
    state_dependent: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        output = self.mlp(x)
        if self.state_dependent:
            mean, log_std = jnp.split(output, 2, axis=-1)
            return mean, log_std
        log_std = self.param("log_std", nn.initializers.zeros, output.shape[-1:], jnp.float32)
        return output, jnp.broadcast_to(log_std, output.shape)


class FourierFeatures(nn.Module):
    """`[...]` -> `[..., size]`: cosines and sines of a number at learnable frequencies (arXiv 2006.10739)."""

    size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        frequencies = self.param("frequencies", nn.initializers.normal(0.2), (self.size // 2,), jnp.float32)
        angle = 2 * jnp.pi * x[..., None] * frequencies
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def dropout(x: jax.Array, rate: float, key: Key) -> jax.Array:
    """`x` `[..., W]` with each number 0 with probability `rate`, to 16 bits, and else divided by 1 - `rate`."""
    halves = -(-x.shape[-1] // 2)  # two random numbers from each word: these words are what dropout costs
    words = jax.random.bits(key, (*x.shape[:-1], halves))
    numbers = jnp.concatenate([words & 0xFFFF, words >> 16], axis=-1)[..., : x.shape[-1]]
    return jnp.where(numbers >= round(rate * 2**16), x / (1 - rate), 0.0)


class ResidualBlock(nn.Module):
    """`[..., W]` -> `[..., W]`: dropout, LayerNorm, Dense 4 W, swish, Dense W, plus the input (arXiv 2304.10573)."""

    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, training: bool) -> jax.Array:
        size = x.shape[-1]
        y = dropout(x, self.dropout, self.make_rng("dropout")) if training else x
        y = nn.Dense(4 * size, kernel_init=HIDDEN_INIT)(nn.LayerNorm()(y))
        y = jax.checkpoint(nn.swish)(y)  # cheaper to compute twice than to keep
        return x + nn.Dense(size, kernel_init=HIDDEN_INIT)(y)


class ScoreNet(nn.Module):
    """IDQL's LN-ResNet: the noise in an action, given the observation and the time (arXiv 2304.10573)."""

    action_size: int
    num_steps: int
    width: int
    num_blocks: int
    dropout: float
    time_features: int

    @nn.compact
    def __call__(self, observation: jax.Array, action: jax.Array, time: jax.Array, training: bool = False) -> jax.Array:
        # There are few times: they are embedded once each, and rows look theirs up. For the same reason the first Dense
        # on all inputs is written as a sum over its inputs: what the rows share is computed once.
        times = FourierFeatures(self.time_features)(jnp.arange(self.num_steps, dtype=action.dtype))
        times = nn.swish(nn.Dense(self.width, kernel_init=HIDDEN_INIT)(times))
        times = nn.Dense(self.width, kernel_init=HIDDEN_INIT)(times)
        sizes = (action.shape[-1], observation.shape[-1], self.width)
        kernel = self.param("kernel", HIDDEN_INIT, (sum(sizes), self.width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32)
        of_action, of_observation, of_time = jnp.split(kernel, (sizes[0], sizes[0] + sizes[1]))
        row = jax.nn.one_hot(time, self.num_steps, dtype=action.dtype)
        x = action @ of_action + observation @ of_observation + row @ (times @ of_time + bias)
        for _ in range(self.num_blocks):
            x = ResidualBlock(self.dropout)(x, training)
        return nn.Dense(self.action_size, kernel_init=OUTPUT_INIT)(nn.swish(x))


def make_score(
    spec: Spec, *, num_steps: int, width: int = 256, num_blocks: int = 3, dropout: float = 0.1, time_features: int = 128
) -> Network:
    """`apply(params, observation [..., O], action [..., A], time int32 [...], key=None) -> noise [..., A]`.

    Leading axes broadcast: one observation, one time and many actions will do. Times are 0 to `num_steps` - 1. Dropout
    needs the key; without one there is none.
    """
    module = ScoreNet(spec.action_size, num_steps, width, num_blocks, dropout, time_features)

    def init(key: Key) -> Params:
        return module.init(key, jnp.zeros(spec.observation_size), jnp.zeros(spec.action_size), jnp.zeros((), jnp.int32))

    def apply(
        params: Params, observation: jax.Array, action: jax.Array, time: jax.Array, key: Key | None = None
    ) -> jax.Array:
        rngs = None if key is None else {"dropout": key}
        noise: Any = module.apply(params, observation, action, time, key is not None, rngs=rngs)
        return noise

    return Network(init, apply)


def make_gaussian_policy(
    spec: Spec, hidden_sizes: Sequence[int], *, state_dependent_std: bool = True, **options: Any
) -> Network:
    """`apply(params, observation [..., O]) -> (mean, log_std)`, both `[..., A]`, neither squashed nor clipped.

    `options` here and below are the MLP's: `activation`, `layer_norm`, `input_layer_norm`, `dtype`.
    """
    size = spec.action_size * (2 if state_dependent_std else 1)
    return _network(GaussianHead(MLP(hidden_sizes, size, **options), state_dependent_std), spec.observation_size)


def make_deterministic_policy(spec: Spec, hidden_sizes: Sequence[int], **options: Any) -> Network:
    """`apply(params, observation [..., O]) -> action [..., A]` in [-1, 1], by tanh."""
    network = _network(MLP(hidden_sizes, spec.action_size, **options), spec.observation_size)
    return Network(network.init, lambda params, observation: jnp.tanh(network.apply(params, observation)))


def make_value(spec: Spec, hidden_sizes: Sequence[int], **options: Any) -> Network:
    """`apply(params, observation [..., O]) -> value [...]`."""
    network = _network(MLP(hidden_sizes, 1, **options), spec.observation_size)
    return Network(network.init, lambda params, observation: network.apply(params, observation)[..., 0])


def make_critic(
    spec: Spec, hidden_sizes: Sequence[int], *, num_critics: int = 2, num_atoms: int | None = None, **options: Any
) -> Network:
    """An ensemble of N critics: `apply(params, observation [..., O], action [..., A]) -> [N, ...]`.

    With `num_atoms` M the output is `[N, ..., M]`: quantiles, or logits over a support. Parameters are stacked on axis
    0. Raises RlxError for `num_critics` or `num_atoms` below 1.
    """
    if num_critics < 1:
        raise RlxError(f"--num-critics {num_critics}: must be at least 1")
    if num_atoms is not None and num_atoms < 1:
        raise RlxError(f"num_atoms {num_atoms}: must be at least 1")
    network = _network(MLP(hidden_sizes, num_atoms or 1, **options), spec.observation_size + spec.action_size)

    def apply(params: Params, observation: jax.Array, action: jax.Array) -> jax.Array:
        output = network.apply(params, jnp.concatenate([observation, action], axis=-1))
        return output if num_atoms else output[..., 0]

    return ensemble(Network(network.init, apply), num_critics)


def ensemble(network: Network, size: int) -> Network:
    """N independent copies by vmap: parameters are stacked on axis 0, outputs are `[N, ...]`, inputs are shared."""

    def init(key: Key) -> Params:
        return jax.vmap(network.init)(jax.random.split(key, size))

    def apply(params: Params, *inputs: jax.Array) -> Any:
        # Copies of the inputs are small and make every layer a batched product. Shared inputs would make the first one
        # a single wide product, whose large output must then be transposed: 5 % slower, forward and backward, on a CPU.
        copies = [jnp.broadcast_to(x, (size, *x.shape)) for x in inputs]
        return jax.vmap(network.apply)(params, *copies)

    return Network(init, apply)


def _network(module: nn.Module, input_size: int) -> Network:
    return Network(lambda key: module.init(key, jnp.zeros(input_size)), module.apply)
