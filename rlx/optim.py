"""Gradient steps, the same for every agent: gradient, mean over the shards, step times a traced learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import jax
import optax
from flax.struct import PyTreeNode

from rlx import losses, parallel
from rlx.types import Params

# The tiny summand under the root gives updates a derivative where a gradient is exactly 0, as behind ReLUs.
adam = optax.scale_by_adam(eps_root=1e-16)


def gradient_step(
    loss: Callable[..., tuple[jax.Array, Any]],
    optimizer: optax.GradientTransformation,
    axes: parallel.Axes = (),
) -> Callable[..., tuple[Params, optax.OptState, Any]]:
    """Makes `(params, opt_state, learning_rate, *arguments) -> (params, opt_state, aux)`.

    `loss(params, *arguments)` returns a scalar and aux (metrics, say); gradient and aux are averaged over `axes`.
    `optimizer` has no learning rate of its own (`adam`): the rate is an argument, so it may be traced,
    vmapped and differentiated through.
    """

    def step(params: Params, opt_state: optax.OptState, learning_rate: Any, *arguments: Any) -> Any:
        gradient, aux = jax.grad(loss, has_aux=True)(params, *arguments)
        gradient, aux = parallel.mean((gradient, aux), axes)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        updates = jax.tree.map(lambda u: (-learning_rate * u).astype(u.dtype), updates)
        return optax.apply_updates(params, updates), opt_state, aux

    return step


class Learner(PyTreeNode):
    """A network's parameters with their optimiser state and, where there is one, their target copy."""

    params: Params
    opt_state: optax.OptState
    target_params: Params | None = None

    @classmethod
    def create(
        cls, params: Params, optimizer: optax.GradientTransformation | None = None, target: bool = False
    ) -> Self:
        """Parameters before their first step; with `target`, the target copy equals them. Default optimiser: Adam."""
        return cls(params, (optimizer or adam).init(params), params if target else None)

    def step(
        self,
        loss: Callable[[Params], tuple[jax.Array, Any]],
        learning_rate: Any,
        axes: parallel.Axes = (),
        tau: Any = None,
        optimizer: optax.GradientTransformation | None = None,
        project: Callable[[Params], Params] | None = None,
    ) -> tuple[Self, Any]:
        """One step down `loss(params) -> (scalar, aux)`; returns aux, averaged over `axes`, too.

        `project` maps the new parameters to allowed ones (unit-norm weights, say). With `tau`, the target copy, where
        there is one, then takes one Polyak step towards the new parameters. Default optimiser: Adam.
        """
        take = gradient_step(loss, optimizer or adam, axes)
        params, opt_state, aux = take(self.params, self.opt_state, learning_rate)
        params = params if project is None else project(params)
        moves = tau is not None and self.target_params is not None
        target = losses.polyak(self.target_params, params, tau) if moves else self.target_params
        return self.replace(params=params, opt_state=opt_state, target_params=target), aux


def cosine_decay(steps: int) -> optax.Schedule:
    """A factor on a learning rate: from 1 to 0 by half a cosine over `steps` updates; always 1 where `steps` <= 0."""
    return optax.cosine_decay_schedule(1.0, steps) if steps > 0 else optax.constant_schedule(1.0)
