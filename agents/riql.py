"""Robust IQL (Yang et al., arXiv 2310.12955), for corrupted data: IQL with a quantile of critics and Huber's loss.

Its third part, normalised observations, is the driver's, `--normalize-observations`, as the preset says.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from rlx import losses, parallel
from rlx.agents import iql
from rlx.halves import HalfState
from rlx.types import COUNT, POSITIVE, SHARE, Agent, Params, Spec, setting


@dataclass(frozen=True)
class Config(iql.Config):
    """Static (compile-time) configuration."""

    num_critics: int = setting(5, "critics in the ensemble, of whose values a quantile counts", COUNT)


class Hypers(iql.Hypers):
    """Hyper-parameters, traced."""

    critic_quantile: float | jax.Array = setting(0.25, "quantile of the critics' values that counts (alpha)", SHARE)
    huber_delta: float | jax.Array = setting(
        1.0, "absolute error beyond which the critics' loss is linear (delta)", (1e-6, POSITIVE[1])
    )


def quantile(q: jax.Array, hypers: Hypers) -> jax.Array:
    """The quantile of the ensemble's values, `[N, ...]` -> `[...]` (arXiv 2310.12955, section 5)."""
    return jnp.quantile(q, hypers.critic_quantile, axis=0)


def huber_error(q: jax.Array, target: jax.Array, hypers: Hypers) -> jax.Array:
    """Huber's loss of all critics, `[N, B]` against `[B]`, with a slope of 1 beyond delta (arXiv 2310.12955)."""
    return losses.ensemble_huber_loss(q, target, hypers.huber_delta) / hypers.huber_delta


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[iql.CriticState, HalfState, iql.Value, Params]:
    """RIQL for environments of `spec`; gradients are averaged over the mapped `axes`."""
    return iql.make(config, spec, axes, Hypers, reduce=quantile, error=huber_error)
