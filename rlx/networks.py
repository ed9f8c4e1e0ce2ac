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

from rlx.types import Key, Params, RlxError, Spec

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
        return output, jnp.broadcast_to(self.param("log_std", nn.initializers.zeros, output.shape[-1:]), output.shape)


def make_gaussian_policy(
    spec: Spec, hidden_sizes: Sequence[int], *, state_dependent_std: bool = True, **options: Any
) -> Network:
    """`apply(params, observation [..., O]) -> (mean, log_std)`, both `[..., A]`, neither squashed nor clipped.

    `options` here and below are the MLP's: `activation`, `layer_norm`, `dtype`.
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
    if num_critics < 1 or (num_atoms is not None and num_atoms < 1):
        raise RlxError(f"num_critics {num_critics} and num_atoms {num_atoms} must be at least 1")
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
