"""The modules that networks are made of, in flax.linen: MLP, residual blocks, dropout.

Initial values: kernels of hidden layers are He-uniform (arXiv 1502.01852) unless `kernel_init` names another, which
keeps the scale through ReLU layers; kernels of output layers are 100 times smaller than fan-in scaling, so that values
start near 0 and policies near the middle of their range, wide and unsaturated (arXiv 1509.02971, section 7; 2006.05990,
section 3.2); biases are 0.

Parameters are float32. `compute_dtype` is what hidden layers compute in ("float32" or "bfloat16"); output layers and
what they return are float32 always, because bfloat16 knows values near 1000 in steps of 4 only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlx.errors import RlxError, unknown
from rlx.networks.batch_norm import BatchNorm
from rlx.types import Key

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "elu": nn.elu,
    "gelu": nn.gelu,
    "swish": nn.swish,
    "tanh": nn.tanh,
}
INITIALIZERS: dict[str, nn.initializers.Initializer] = {  # of hidden kernels
    "he": nn.initializers.he_uniform(),
    "orthogonal": nn.initializers.orthogonal(2**0.5),
    "xavier": nn.initializers.xavier_uniform(),
    "lecun": nn.initializers.lecun_uniform(),
    "torch": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),  # PyTorch's default
}
BATCH_NORMS = ("none", "batch", "renorm")
DTYPES = ("float32", "bfloat16")
OUTPUT_INIT = nn.initializers.variance_scaling(1e-4, "fan_in", "uniform")


class MLP(nn.Module):
    """`[..., I]` -> `[..., output_size]`: hidden layers of Dense, dropout, LayerNorm, activation; then a Dense.

    `input_layer_norm` normalises the input. With `batch_norm` every Dense's input is normalised, as in CrossQ
    (OpenReview PczQtTsTIX), over the batch and the mapped `axes`. `residual` makes of hidden sizes (W, W, ...) a Dense
    to W and one residual block for each further one: those of SimBa (arXiv 2410.09754), followed by a LayerNorm, or of
    BRO (2405.16158), which come after a LayerNorm and an activation.

    Raises RlxError for an unknown name, a width below 1, or residual layers of different widths or fewer than two.
    """

    hidden_sizes: Sequence[int]
    output_size: int
    activation: str = "relu"
    layer_norm: bool = False
    input_layer_norm: bool = False
    batch_norm: str = "none"
    dropout: float = 0.0
    residual: bool = False
    residual_block: str = "simba"
    kernel_init: str = "he"
    compute_dtype: str = "float32"
    axes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what, name, known in (
            ("activation", self.activation, ACTIVATIONS),
            ("batch norm", self.batch_norm, BATCH_NORMS),
            ("residual block", self.residual_block, RESIDUAL_BLOCKS),
            ("initialiser", self.kernel_init, INITIALIZERS),
            ("compute dtype", self.compute_dtype, DTYPES),
        ):
            if name not in known:
                raise unknown(what, name, known)
        sizes = f"hidden sizes {' '.join(map(str, self.hidden_sizes))} (--actor-hidden-sizes, --critic-hidden-sizes)"
        if min(self.hidden_sizes, default=1) < 1:
            raise RlxError(f"{sizes}: each must be at least 1")
        if self.residual and (len(self.hidden_sizes) < 2 or len(set(self.hidden_sizes)) > 1):
            raise RlxError(f"{sizes}: residual layers need two or more of one width, as 256 256")
        super().__post_init__()

    @nn.compact
    def __call__(self, *inputs: jax.Array, train: bool = False) -> jax.Array:
        x = inputs[0] if len(inputs) == 1 else jnp.concatenate(inputs, axis=-1)
        activation, dtype = ACTIVATIONS[self.activation], jnp.dtype(self.compute_dtype)
        if self.input_layer_norm:
            x = nn.LayerNorm(name="input_layer_norm")(x)
        for size in self.hidden_sizes[:1] if self.residual else self.hidden_sizes:
            x = self._batch_normalised(x, train)
            x = nn.Dense(size, kernel_init=INITIALIZERS[self.kernel_init], dtype=dtype)(x)
            if self.residual:
                break
            x = _dropped_out(self, x)
            if self.layer_norm:
                x = nn.LayerNorm(dtype=dtype)(x)
            x = activation(x)
        if self.residual:
            bro = self.residual_block == "bro"
            x = activation(nn.LayerNorm(dtype=dtype)(x)) if bro else x
            for _ in self.hidden_sizes[1:]:
                x = RESIDUAL_BLOCKS[self.residual_block](self.dropout, self.activation, self.kernel_init, dtype)(x)
            x = x if bro else nn.LayerNorm(dtype=dtype)(x)
        x = self._batch_normalised(x, train)
        return nn.Dense(self.output_size, kernel_init=OUTPUT_INIT, dtype=jnp.float32)(x)

    def _batch_normalised(self, x: jax.Array, train: bool) -> jax.Array:
        return x if self.batch_norm == "none" else BatchNorm(self.batch_norm == "renorm", self.axes)(x, train)


LOG_STD_MAPS = ("clip", "tanh")


def bounded_log_std(x: jax.Array, kind: str, low: float, high: float) -> jax.Array:
    """What a network says of a log standard deviation, within [low, high], by a kind of LOG_STD_MAPS.

    "clip" is the identity between the bounds, with gradient 0 beyond; "tanh" puts 0 in their middle and is smooth.
    """
    return jnp.clip(x, low, high) if kind == "clip" else low + (high - low) * (1 + jnp.tanh(x)) / 2


class GaussianHead(nn.Module):
    """Mean and log standard deviation, `[..., A]`; unless `state_dependent`, the latter is a parameter, at first 0.

    `log_std` are the arguments of `bounded_log_std` after the first; without them the network's output is passed on.
    """

    mlp: Any  # an MLP, or another module called like one
    state_dependent: bool = True
    log_std: tuple[str, float, float] | None = None

    @nn.compact
    def __call__(self, *inputs: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        output = self.mlp(*inputs, train=train)
        if self.state_dependent:
            mean, log_std = jnp.split(output, 2, axis=-1)
            return mean, log_std if self.log_std is None else bounded_log_std(log_std, *self.log_std)
        log_std = self.param("log_std", nn.initializers.zeros, output.shape[-1:], jnp.float32)
        return output, jnp.broadcast_to(log_std, output.shape)


class MixtureHead(nn.Module):
    """Logits `[..., K]`, and means and log standard deviations `[..., K, A]` of K Gaussians, from K (1 + 2 A) numbers.

    `log_std` as of `GaussianHead`.
    """

    experts: Any  # an MLP with that many outputs
    num_experts: int
    log_std: tuple[str, float, float]
    dropout: float = 0.0  # as `make_network` asks for; policies have none

    @nn.compact
    def __call__(self, *inputs: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array, jax.Array]:
        logits, rest = jnp.split(self.experts(*inputs, train=train), [self.num_experts], axis=-1)
        mean, log_std = jnp.split(rest.reshape(*rest.shape[:-1], self.num_experts, -1), 2, axis=-1)
        return logits, mean, bounded_log_std(log_std, *self.log_std)


class FlowHead(nn.Module):
    """A flow's velocity at x and the log standard deviation of a step's noise, `[..., A]`, of observation, x and time.

    With a gate the velocity is sigmoid(gate) (candidate - x), as in a gated recurrent unit; the gate starts almost
    open. Without, it is the candidate. The deviation reads the observation alone; `log_std` as of `GaussianHead`.
    """

    candidate: Any  # an MLP with A outputs, or a Decoder
    gate: Any  # an MLP with A outputs, or None
    deviation: Any  # an MLP with A outputs
    action_size: int
    log_std: tuple[str, float, float]
    dropout: float = 0.0  # as `make_network` asks for; policies have none

    @nn.compact
    def __call__(self, *inputs: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        together = jnp.concatenate(inputs, axis=-1)
        observation, x = together[..., : -1 - self.action_size], together[..., -1 - self.action_size : -1]
        velocity = self.candidate(together, train=train)
        if self.gate is not None:
            velocity = nn.sigmoid(self.gate(together, train=train) + 5.0) * (velocity - x.astype(velocity.dtype))
        return velocity, bounded_log_std(self.deviation(observation, train=train), *self.log_std)


def dropout(x: jax.Array, rate: float, key: Key) -> jax.Array:
    """`x` `[..., W]` with each number 0 with probability `rate`, to 16 bits, and else divided by 1 - `rate`."""
    halves = -(-x.shape[-1] // 2)  # two random numbers from each word: these words are what dropout costs
    words = jax.random.bits(key, (*x.shape[:-1], halves))
    numbers = jnp.concatenate([words & 0xFFFF, words >> 16], axis=-1)[..., : x.shape[-1]]
    return jnp.where(numbers >= round(rate * 2**16), x / (1 - rate), 0.0)


def _dropped_out(module: Any, x: jax.Array) -> jax.Array:
    """Dropout at the module's rate where the caller passes a key."""
    if module.dropout == 0 or not module.has_rng("dropout"):
        return x
    return dropout(x, module.dropout, module.make_rng("dropout"))


class ResidualBlock(nn.Module):
    """`[..., W]` -> `[..., W]`: dropout, LayerNorm, Dense 4 W, activation, Dense W, plus the input (2304.10573)."""

    dropout: float
    activation: str = "swish"
    kernel_init: str = "he"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, kernel_init = x.shape[-1], INITIALIZERS[self.kernel_init]
        y = nn.LayerNorm(dtype=self.dtype)(_dropped_out(self, x))
        y = nn.Dense(4 * size, kernel_init=kernel_init, dtype=self.dtype)(y)
        y = jax.checkpoint(ACTIVATIONS[self.activation])(y)  # cheaper to compute twice than to keep
        return x + nn.Dense(size, kernel_init=kernel_init, dtype=self.dtype)(y)


class BroBlock(nn.Module):
    """`[..., W]` -> `[..., W]`: dropout, Dense W, LayerNorm, activation, Dense W, LayerNorm, plus the input
    (2405.16158)."""

    dropout: float
    activation: str = "relu"
    kernel_init: str = "he"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense = partial(nn.Dense, x.shape[-1], kernel_init=INITIALIZERS[self.kernel_init], dtype=self.dtype)
        y = nn.LayerNorm(dtype=self.dtype)(dense()(_dropped_out(self, x)))
        return x + nn.LayerNorm(dtype=self.dtype)(dense()(ACTIVATIONS[self.activation](y)))


class Decoder(nn.Module):
    """A transformer decoder of one token, a flow's x and time, that attends to one token, the observation: `[..., A]`.

    As many layers as hidden sizes, each of self-attention, attention to the observation and a feed-forward block; each
    of these reads a LayerNorm of the token and is added to it (arXiv 2509.25756, Flow-T). Attention to a single token
    has weight 1 whatever the query, so it is written as what is left of it, a Dense of the token that it attends to.

    Raises RlxError for hidden sizes of different widths.
    """

    hidden_sizes: Sequence[int]
    output_size: int
    activation: str = "relu"
    kernel_init: str = "he"
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        if len(set(self.hidden_sizes)) != 1:
            sizes = " ".join(map(str, self.hidden_sizes))
            raise RlxError(f"--actor-hidden-sizes {sizes}: a decoder needs one or more of one width, as 256 256")
        super().__post_init__()

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        dtype = jnp.dtype(self.compute_dtype)
        dense = partial(nn.Dense, self.hidden_sizes[0], kernel_init=INITIALIZERS[self.kernel_init], dtype=dtype)
        observation, token = jnp.split(inputs, [inputs.shape[-1] - self.output_size - 1], axis=-1)
        observation = ACTIVATIONS[self.activation](dense()(observation))
        observation = nn.LayerNorm(dtype=dtype)(dense()(observation))
        token = dense()(token)
        for _ in self.hidden_sizes:
            token = token + dense()(nn.LayerNorm(dtype=dtype)(token))
            token = token + dense()(observation)
            token = ResidualBlock(0.0, self.activation, self.kernel_init, dtype)(token)
        token = nn.LayerNorm(dtype=dtype)(token)
        return nn.Dense(self.output_size, kernel_init=OUTPUT_INIT, dtype=jnp.float32)(token)


RESIDUAL_BLOCKS: dict[str, Callable[..., nn.Module]] = {"simba": ResidualBlock, "bro": BroBlock}
