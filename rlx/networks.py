"""Networks behind init/apply pairs: flax.linen stays behind them, agents see `Network` records only.

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
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlx.errors import RlxError, unknown
from rlx.types import Key, Params, Spec

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


class Apply(Protocol):
    """`(params, *inputs)` to outputs; several inputs `[..., I]` are concatenated on their last axis.

    With a `key` it drops out at random; without, as in acting and in targets, dropout does nothing. With `train`, batch
    norm takes the batch's statistics, and `(outputs, statistics)` is returned: `params | statistics` are the parameters
    with the new running ones.
    """

    def __call__(self, params: Params, *inputs: jax.Array, key: Key | None = None, train: bool = False) -> Any: ...


class Network(NamedTuple):
    """A network as a pair of pure functions."""

    init: Callable[[Key], Params]
    apply: Callable[..., Any]  # as `Apply`
    dropout: float = 0.0  # the rate at which `apply` drops out where it has a key

    def with_dropout(self, key: Key, index: int) -> Callable[..., Any]:
        """`apply` with dropout by the `index`-th key of an update's `key`; `apply` itself where the rate is 0."""
        return partial(self.apply, key=jax.random.fold_in(key, index)) if self.dropout else self.apply


class MLP(nn.Module):
    """`[..., I]` -> `[..., output_size]`: hidden layers of Dense, dropout, LayerNorm, activation; then a Dense.

    `input_layer_norm` normalises the input. With `batch_norm` every Dense's input is normalised, as in CrossQ
    (OpenReview PczQtTsTIX), over the batch and the mapped `axes`. `residual` makes of hidden sizes (W, W, ...) a Dense
    to W, one residual block for each further one, and a LayerNorm, as in SimBa (arXiv 2410.09754).

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
    kernel_init: str = "he"
    compute_dtype: str = "float32"
    axes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what, name, known in (
            ("activation", self.activation, ACTIVATIONS),
            ("batch norm", self.batch_norm, BATCH_NORMS),
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
            for _ in self.hidden_sizes[1:]:
                x = ResidualBlock(self.dropout, self.activation, self.kernel_init, dtype)(x)
            x = nn.LayerNorm(dtype=dtype)(x)
        x = self._batch_normalised(x, train)
        return nn.Dense(self.output_size, kernel_init=OUTPUT_INIT, dtype=jnp.float32)(x)

    def _batch_normalised(self, x: jax.Array, train: bool) -> jax.Array:
        return x if self.batch_norm == "none" else BatchNorm(self.batch_norm == "renorm", self.axes)(x, train)


class BatchNorm(nn.Module):
    """`[..., W]`: every feature by its mean and variance over all leading axes and the mapped `axes` (1502.03167).

    Without `train` by running ones. `renormalize` shifts and scales what training sees towards that, within bounds,
    once the running ones have seen `warmup` batches (batch renormalisation, arXiv 1702.03275, eqs. 3 to 6).
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
            self.variable("batch_stats", "mean", jnp.zeros, size),
            self.variable("batch_stats", "variance", jnp.ones, size),
            self.variable("batch_stats", "batches", jnp.zeros, ()),
        ]
        old_mean, old_variance, batches = (jax.lax.stop_gradient(variable.value) for variable in running)
        old_deviation = jnp.sqrt(old_variance + self.epsilon)
        x = x.astype(jnp.float32)
        if not train:
            return ((x - old_mean) / old_deviation * scale + bias).astype(dtype)
        mean = self._mean(x)
        variance = self._mean((x - mean) ** 2)
        deviation = jnp.sqrt(variance + self.epsilon)
        y = (x - mean) / deviation
        if self.renormalize:
            r = jnp.clip(deviation / old_deviation, 1 / self.max_scale, self.max_scale)
            d = jnp.clip((mean - old_mean) / old_deviation, -self.max_shift, self.max_shift)
            warm = batches >= self.warmup
            y = y * jax.lax.stop_gradient(jnp.where(warm, r, 1.0)) + jax.lax.stop_gradient(jnp.where(warm, d, 0.0))
        for variable, new in zip(running[:2], (mean, variance), strict=True):
            variable.value = self.momentum * variable.value + (1 - self.momentum) * jax.lax.stop_gradient(new)
        running[2].value = batches + 1
        return (y * scale + bias).astype(dtype)

    def _mean(self, x: jax.Array) -> jax.Array:
        mean = x.mean(axis=tuple(range(x.ndim - 1)))
        return jax.lax.pmean(mean, self.axes) if self.axes else mean


class GaussianHead(nn.Module):
    """Mean and log standard deviation, `[..., A]`; unless `state_dependent`, the latter is a parameter, at first 0."""

    mlp: MLP
    state_dependent: bool

    @nn.compact
    def __call__(self, *inputs: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        output = self.mlp(*inputs, train=train)
        if self.state_dependent:
            mean, log_std = jnp.split(output, 2, axis=-1)
            return mean, log_std
        log_std = self.param("log_std", nn.initializers.zeros, output.shape[-1:], jnp.float32)
        return output, jnp.broadcast_to(log_std, output.shape)


def dropout(x: jax.Array, rate: float, key: Key) -> jax.Array:
    """`x` `[..., W]` with each number 0 with probability `rate`, to 16 bits, and else divided by 1 - `rate`."""
    halves = -(-x.shape[-1] // 2)  # two random numbers from each word: these words are what dropout costs
    words = jax.random.bits(key, (*x.shape[:-1], halves))
    numbers = jnp.concatenate([words & 0xFFFF, words >> 16], axis=-1)[..., : x.shape[-1]]
    return jnp.where(numbers >= round(rate * 2**16), x / (1 - rate), 0.0)


def _dropped_out(module: Any, x: jax.Array) -> jax.Array:
    """Dropout at the module's rate where the caller has given a key."""
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


def make_gaussian_policy(
    spec: Spec, hidden_sizes: Sequence[int], *, state_dependent_std: bool = True, **options: Any
) -> Network:
    """`apply(params, observation [..., O]) -> (mean, log_std)`, both `[..., A]`, neither squashed nor clipped.

    Of observations with parts, policies read those of the actor, critics and values those of the critic (see `Spec`).
    `options` here and below are the MLP's fields, and `input_size`, the numbers that the network reads of all inputs
    together, for networks that read others than these.
    """
    size = spec.action_size * (2 if state_dependent_std else 1)
    input_size = options.pop("input_size", spec.actor_size)
    head = GaussianHead(MLP(hidden_sizes, size, **options), state_dependent_std)
    return _network(head, input_size, spec.actor_observation)


def make_deterministic_policy(spec: Spec, hidden_sizes: Sequence[int], **options: Any) -> Network:
    """`apply(params, observation [..., O]) -> action [..., A]` in [-1, 1], by tanh."""
    input_size = options.pop("input_size", spec.actor_size)
    return _network(MLP(hidden_sizes, spec.action_size, **options), input_size, spec.actor_observation, jnp.tanh)


def make_value(spec: Spec, hidden_sizes: Sequence[int], **options: Any) -> Network:
    """`apply(params, observation [..., O]) -> value [...]`."""
    input_size = options.pop("input_size", spec.critic_size)
    mlp = MLP(hidden_sizes, 1, **options)
    return _network(mlp, input_size, spec.critic_observation, lambda output: output[..., 0])


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
    input_size = options.pop("input_size", spec.critic_size + spec.action_size)
    mlp = MLP(hidden_sizes, num_atoms or 1, **options)
    critic = _network(mlp, input_size, spec.critic_observation, lambda output: output if num_atoms else output[..., 0])
    return ensemble(critic, num_critics)


def ensemble(network: Network, size: int) -> Network:
    """N independent copies by vmap: parameters are stacked on axis 0, outputs are `[N, ...]`, inputs are shared.

    Each copy drops out by a key of its own.
    """

    def init(key: Key) -> Params:
        return jax.vmap(network.init)(jax.random.split(key, size))

    def apply(params: Params, *inputs: jax.Array, key: Key | None = None, **options: Any) -> Any:
        # Copies of the inputs are small and make every layer a batched product. Shared inputs would make the first one
        # a single wide product, whose large output must then be transposed: 5 % slower, forward and backward, on a CPU.
        copies = [jnp.broadcast_to(x, (size, *x.shape)) for x in inputs]
        keys = {} if key is None else {"key": jax.random.split(key, size)}
        return jax.vmap(lambda params, inputs, keys: network.apply(params, *inputs, **keys, **options))(
            params, copies, keys
        )

    return network._replace(init=init, apply=apply)


def _network(
    module: Any,
    input_size: int,
    read: Callable[[jax.Array], jax.Array],
    output: Callable[[Any], Any] = lambda output: output,
) -> Network:
    """A module as a record; `read` is what it reads of the observation, its first input, `output` maps its outputs."""

    def apply(params: Params, *inputs: jax.Array, key: Key | None = None, train: bool = False) -> Any:
        rngs = None if key is None else {"dropout": key}
        inputs = (read(inputs[0]), *inputs[1:])
        if not train:
            return output(module.apply(params, *inputs, rngs=rngs))
        outputs, statistics = module.apply(params, *inputs, train=True, rngs=rngs, mutable=["batch_stats"])
        return output(outputs), statistics

    dropout = module.mlp.dropout if isinstance(module, GaussianHead) else module.dropout
    return Network(lambda key: module.init(key, jnp.zeros(input_size)), apply, dropout)
