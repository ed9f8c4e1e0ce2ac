"""Critics that are distributions over a fixed support of returns (C51, arXiv 1707.06887): support, target, values."""

from __future__ import annotations

from typing import Any

import chex
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


def histogram(returns: jax.Array, atoms: jax.Array, smoothing: Any) -> jax.Array:
    """Returns `[B]` as distributions over evenly spaced atoms `[M]`: `[B, M]` (HL-Gauss, arXiv 2403.03950, eq. 6).

    An atom gets the mass that a Gaussian about the return, of `smoothing` steps deviation, has within half a step of
    it; within the support the mean is the return. Returns beyond the support count as its ends.
    """
    chex.assert_rank([returns, atoms, smoothing], [1, 1, 0])
    step = atoms[1] - atoms[0]
    edges = jnp.concatenate([atoms - step / 2, atoms[-1:] + step / 2])
    distance = edges[None] - jnp.clip(returns, atoms[0], atoms[-1])[:, None]
    below = jax.scipy.stats.norm.cdf(distance / (smoothing * step))
    mass = below[:, 1:] - below[:, :-1]
    return jax.lax.stop_gradient(mass / mass.sum(axis=-1, keepdims=True))


def report(target_probs: jax.Array) -> Metrics:
    """The metric of targets `[..., M]` that tells whether returns are beyond the support (see `losses.edge_mass`)."""
    return {"edge_mass": losses.edge_mass(target_probs)}
