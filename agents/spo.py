"""Simple policy optimisation (Xie et al., arXiv 2401.16025): PPO with a quadratic penalty on the ratio, not a clip.

The penalty has a gradient everywhere, so that ratios come back to the range that they have left.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlx import parallel
from rlx.agents import ppo
from rlx.types import Spec, setting

Config = ppo.Config


class Hypers(ppo.BaseHypers):
    """Hyper-parameters, traced."""

    ratio_range: float | jax.Array = setting(
        0.2, "the objective is best where the importance ratio is 1 +- this (epsilon)", (1e-6, 1e6)
    )


def penalised_surrogate(ratio: jax.Array, advantage: jax.Array, hypers: Hypers) -> jax.Array:
    """r A - |A| / (2 epsilon) (r - 1)^2, `[B]` (arXiv 2401.16025)."""
    return ratio * advantage - jnp.abs(advantage) / (2 * hypers.ratio_range) * jnp.square(ratio - 1)


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> ppo.OnPolicyAgent:
    """SPO for environments of `spec`; gradients are averaged over the mapped `axes`."""
    return ppo.make(config, spec, axes, Hypers, penalised_surrogate)
