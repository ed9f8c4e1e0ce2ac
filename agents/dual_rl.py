"""Dual RL's f-DVL (Sikchi et al., arXiv 2302.08560): IQL whose values come from a divergence's conjugate."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from rlx import halves, losses, parallel
from rlx.agents import iql
from rlx.halves import HalfState
from rlx.types import SHARE, Agent, Params, Spec, setting


@dataclass(frozen=True)
class Config(iql.Config):
    """Static (compile-time) configuration."""

    value_loss: str = setting("chi_square", "chi_square or total_variation", choices=("chi_square", "total_variation"))


class Hypers(halves.Hypers):
    """Hyper-parameters, traced."""

    dual: float | jax.Array = setting(0.8, "weight of the conjugate in the loss of V (lambda)", SHARE)
    beta: float | jax.Array = setting(3.0, "weights of imitation are exp(beta * u), at most 100")


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[iql.CriticState, HalfState, iql.Value, Params]:
    """f-DVL for environments of `spec`; gradients are averaged over the mapped `axes`."""
    return iql.make(
        config,
        spec,
        axes,
        Hypers,
        parameter=lambda hypers: hypers.dual,
        error=lambda q, target, hypers: losses.ensemble_huber_loss(q, target, 20.0),  # as in its authors' code
    )
