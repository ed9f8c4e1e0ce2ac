"""Networks whose weights stay on the unit sphere, with batch norm behind every layer: those of XQC and FlashSAC.

Each output unit's incoming weights have norm 1, at the start and, by `to_sphere`, after every step of the optimiser.
Batch norm makes the output independent of their length, and the length fixes how far a step turns them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlx.networks.batch_norm import BatchNorm
from rlx.networks.modules import GaussianHead
from rlx.networks.network import Network, ensemble, make_network
from rlx.types import Key, Params, Spec

Dense = partial(nn.Dense, kernel_init=nn.initializers.orthogonal())


def to_sphere(params: Params, norms: bool = False) -> Params:
    """Parameters with every unit's incoming weights, `[..., I, O]` over I, at norm 1, those of stacked critics each.

    With `norms`, the scale and bias `[..., W]` of a normalisation have the joint norm sqrt(W). Biases stay as they are.
    """

    def unit(x: jax.Array, axis: int) -> jax.Array:
        return jnp.linalg.norm(x, axis=axis, keepdims=True)

    def project(node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        if "kernel" in node:
            return dict(node) | {"kernel": node["kernel"] / unit(node["kernel"], -2)}
        if norms and "scale" in node:
            together = jnp.concatenate([node[name] for name in sorted(node)], axis=-1)
            factor = node["scale"].shape[-1] ** 0.5 / unit(together, -1)
            return {name: leaf * factor for name, leaf in node.items()}
        return {name: project(child) for name, child in node.items()}

    return {name: project(tree) if name == "params" else tree for name, tree in params.items()}


class UnitModule(nn.Module):
    """The fields of networks on the sphere."""

    hidden_sizes: Sequence[int]
    output_size: int
    compute_dtype: str = "float32"
    axes: tuple[str, ...] = ()
    dropout: float = 0.0  # as `make_network` asks for; these networks have none


class UnitMLP(UnitModule):
    """`[..., I]` -> `[..., output_size]`: batch norm; layers of Dense, batch norm, ReLU; a Dense (XQC, 2509.25174)."""

    @nn.compact
    def __call__(self, *inputs: jax.Array, train: bool = False) -> jax.Array:
        x = BatchNorm(axes=self.axes)(jnp.concatenate(inputs, axis=-1), train)
        for size in self.hidden_sizes:
            x = Dense(size, use_bias=False, dtype=jnp.dtype(self.compute_dtype))(x)
            x = nn.relu(BatchNorm(axes=self.axes)(x, train))
        return Dense(self.output_size, dtype=jnp.float32)(x)


class UnitResidualMLP(UnitModule):
    """`[..., I]` -> `[..., output_size]`: batch norm, Dense, residual blocks, RMSNorm, Dense (FlashSAC).

    A block is Dense to 4 W, batch norm, ReLU, Dense to W, batch norm, ReLU, plus its input. Sizes (W, W, ...) make one
    block each, and must be equal.
    """

    @nn.compact
    def __call__(self, *inputs: jax.Array, train: bool = False) -> jax.Array:
        dense = partial(Dense, use_bias=False, dtype=jnp.dtype(self.compute_dtype))
        norm = partial(BatchNorm, axes=self.axes, epsilon=1e-5)
        x = norm()(jnp.concatenate(inputs, axis=-1), train)
        x = dense(self.hidden_sizes[0])(x)
        for size in self.hidden_sizes:
            y = nn.relu(norm()(dense(4 * size)(x), train))
            x = x + nn.relu(norm()(dense(size)(y), train))
        x = nn.RMSNorm(epsilon=1e-5, dtype=jnp.float32)(x)
        return Dense(self.output_size, dtype=jnp.float32)(x)


Module = Callable[..., Any]  # UnitMLP or UnitResidualMLP
Project = Callable[[Params], Params]


def make_policy(
    spec: Spec,
    module: Module,
    hidden_sizes: Sequence[int],
    log_std: tuple[str, float, float],
    project: Project,
    **options: Any,
) -> Network:
    """`apply(params, observation [..., O]) -> (mean, log_std)`, both `[..., A]`, of a network that starts projected."""
    head = GaussianHead(module(hidden_sizes, 2 * spec.action_size, **options), log_std=log_std)
    return _projected(make_network(head, spec.actor_size, spec.actor_observation), project)


def make_critic(
    spec: Spec,
    module: Module,
    hidden_sizes: Sequence[int],
    num_critics: int,
    num_atoms: int,
    project: Project,
    **options: Any,
) -> Network:
    """`apply(params, observation [..., O], action [..., A]) -> logits [N, ..., M]`, of critics that start projected."""
    size = spec.critic_size + spec.action_size
    critic = make_network(module(hidden_sizes, num_atoms, **options), size, spec.critic_observation)
    return ensemble(_projected(critic, project), num_critics)


def _projected(network: Network, project: Project) -> Network:
    def init(key: Key) -> Params:
        return project(network.init(key))

    return network._replace(init=init)
