"""Critics that are distributions over a fixed support of returns (C51, arXiv 1707.06887): support, target, values."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlx import halves, losses
from rlx.types import Metrics, Transition


def support(hypers: Any, num_atoms: int) -> jax.Array:
    """The returns that the atoms stand for, `[M]`, evenly spaced from `hypers.v_min` to `hypers.v_max`."""
    return jnp.linspace(hypers.v_min, hypers.v_max, num_atoms)


def target(
    next_logits: jax.Array, batch: Transition, hypers: Any, cost: jax.Array | None = None, each: bool = False
) -> jax.Array:
    """The next distribution of the lower mean, moved by the reward and projected: logits `[N, B, M]` -> `[B, M]`.

    A `cost` [B] is subtracted from the next values, alpha * log pi for a soft value. With `each`, every critic's own
    distribution is its target, `[N, B, M]`.
    """
    atoms, probs = support(hypers, next_logits.shape[-1]), jax.nn.softmax(next_logits)

    def project(probs: jax.Array) -> jax.Array:
        following = jnp.broadcast_to(atoms, probs.shape)
        following = following if cost is None else following - cost[:, None]
        return losses.categorical_projection(probs, halves.td_target(batch, following, hypers), atoms)

    return jax.vmap(project)(probs) if each else project(losses.lower_mean(probs, atoms))


def values(logits: jax.Array, hypers: Any) -> jax.Array:
    """Mean returns, `[..., M]` -> `[...]`."""
    return losses.categorical_mean(jax.nn.softmax(logits), support(hypers, logits.shape[-1]))


def report(target_probs: jax.Array) -> Metrics:
    """The metric of targets `[..., M]` that tells whether returns are beyond the support (see `losses.edge_mass`)."""
    return {"edge_mass": losses.edge_mass(target_probs)}
