"""Gradient steps, the same for every agent: gradient, mean over the shards, step times a traced learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode

from rlx import losses, parallel
from rlx.errors import RlxError, unknown
from rlx.types import Params

# The tiny summand under the root gives updates a derivative where a gradient is exactly 0, as behind ReLUs.
adam = optax.scale_by_adam(eps_root=1e-16)

OPTIMIZERS = ("adam", "adamw")
SCHEDULES: dict[str, Callable[[int], optax.Schedule]] = {
    "constant": lambda steps: optax.constant_schedule(1.0),
    "cosine": lambda steps: optax.cosine_decay_schedule(1.0, steps),
    "linear": lambda steps: optax.linear_schedule(1.0, 0.0, steps),
}


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
        gradient, aux = jax.grad(loss, has_aux=True)(parallel.varying(params, axes), *arguments)
        gradient, aux = parallel.mean((gradient, aux), axes)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes counts and floats
            updates, opt_state = optimizer.update(gradient, opt_state, params)
        updates = jax.tree.map(lambda u: (-learning_rate * u).astype(u.dtype), updates)
        return optax.apply_updates(params, updates), opt_state, aux

    return step


class Learner(PyTreeNode):
    """A network's parameters with their optimiser state and, where there are such, target copy and batch statistics.

    Batch norm's running statistics have no gradient, no moments and no target copy: target and acting take the same.
    """

    params: Params
    opt_state: optax.OptState
    target_params: Params | None = None
    statistics: Params | None = None  # of batch norm, under the key "batch_stats"

    @property
    def variables(self) -> Params:
        """What the network's `apply` takes: parameters, with running statistics where there are some."""
        return _with_statistics(self.params, self.statistics)

    @property
    def target_variables(self) -> Params:
        """The same with the target copy of the parameters."""
        return _with_statistics(self.target_params, self.statistics)

    @classmethod
    def create(
        cls, params: Params, optimizer: optax.GradientTransformation | None = None, target: bool = False
    ) -> Self:
        """Parameters before their first step; with `target`, the target copy equals them. Default optimiser: Adam.

        Batch norm's statistics, where `params` has them, go to `statistics`.
        """
        statistics = None
        if isinstance(params, dict) and "batch_stats" in params:
            statistics = {"batch_stats": params["batch_stats"]}
            params = {name: leaves for name, leaves in params.items() if name != "batch_stats"}
        return cls(params, (optimizer or adam).init(params), params if target else None, statistics)

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

        With batch norm the loss receives `variables` and returns `(scalar, (aux, statistics))`, the latter as the
        network's `apply(..., train=True)` returns them; they are averaged over `axes` and become the running ones.

        `project` maps the new parameters to allowed ones (unit-norm weights, say). With `tau`, the target copy, where
        there is one, then takes one Polyak step towards the new parameters. Default optimiser: Adam.
        """
        statistics = self.statistics
        take = gradient_step(lambda params: loss(_with_statistics(params, statistics)), optimizer or adam, axes)
        params, opt_state, aux = take(self.params, self.opt_state, learning_rate)
        if statistics is not None:
            aux, statistics = aux
        params = params if project is None else project(params)
        new = self.replace(params=params, opt_state=opt_state, statistics=statistics)
        return new if tau is None else new.move_target(tau), aux

    def move_target(self, tau: Any) -> Self:
        """The target copy, where there is one, a Polyak step nearer to the parameters."""
        if self.target_params is None:
            return self
        return self.replace(target_params=losses.polyak(self.target_params, self.params, tau))


def _with_statistics(params: Params, statistics: Params | None) -> Params:
    return params if statistics is None else params | statistics


def make_optimizer(
    name: str = "adam", *, weight_decay: Any = None, max_gradient_norm: Any = None, b1: Any = None, b2: Any = 0.999
) -> optax.GradientTransformation:
    """An optimiser of OPTIMIZERS without a learning rate; its hyper-parameters may be traced, its state holds none.

    `max_gradient_norm` scales gradients down to this global norm first. `weight_decay`, per unit of learning rate, is
    AdamW's (arXiv 1711.05101), of all leaves but batch norm's running statistics. `b1` and `b2` are the decays of
    Adam's moments (0.9 and 0.999). Raises RlxError for an unknown name, or a decay that "adam" does not have.
    """
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    if name == "adam" and weight_decay is not None:
        raise RlxError("optimizer adam: has no weight decay; choose adamw")
    base = adam if b1 is None else optax.scale_by_adam(b1=b1, b2=b2, eps_root=1e-16)
    steps = [base] if max_gradient_norm is None else [optax.clip_by_global_norm(max_gradient_norm), base]
    if name == "adamw":
        decay = optax.add_decayed_weights(1e-4 if weight_decay is None else weight_decay, _without_statistics)
        steps.append(decay)
    return optax.chain(*steps) if len(steps) > 1 else base


def _without_statistics(params: Params) -> Any:
    """Which leaves decay: True but for those below `batch_stats`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: "batch_stats" not in jax.tree_util.keystr(path), params)


def make_schedule(name: str, steps: int, warmup: int = 0) -> optax.Schedule:
    """A schedule of SCHEDULES, the factor on a learning rate by the number of updates made.

    From 1 to 0 over `steps` updates, by half a cosine or in a line; always 1 where `steps` <= 0. During the first
    `warmup` updates it is multiplied by a line from 1 / `warmup` to 1. Raises RlxError for an unknown name.
    """
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    decay = SCHEDULES[name](steps) if steps > 0 else optax.constant_schedule(1.0)

    def factor(step: Any) -> Any:
        step = jnp.asarray(step, jnp.float32)  # which optax would make of it, but not under strict promotion
        return decay(step) * jnp.minimum(1.0, (step + 1) / warmup) if warmup > 0 else decay(step)

    return factor
