"""Learned policy optimisation in closed form (Lu et al., arXiv 2210.05639, there DPO): PPO with another surrogate.

Its drift was discovered by meta-learning: it lets ratios go on beyond PPO's range, ever more slowly.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlx import parallel
from rlx.agents import ppo
from rlx.types import POSITIVE, Spec, setting

Config = ppo.Config


class Hypers(ppo.BaseHypers):
    """Hyper-parameters, traced."""

    drift_alpha: float | jax.Array = setting(2.0, "scale of the drift where the advantage is positive", POSITIVE)
    drift_beta: float | jax.Array = setting(0.6, "scale of the drift where it is negative", POSITIVE)


def drift_surrogate(ratio: jax.Array, advantage: jax.Array, hypers: Hypers) -> jax.Array:
    """r A minus the drift (arXiv 2210.05639, its closed form), `[B]`."""
    gain, loss = (ratio - 1) * advantage, jnp.log(jnp.maximum(ratio, 1e-8)) * advantage
    gain_drift = gain - hypers.drift_alpha * jnp.tanh(gain / hypers.drift_alpha)
    loss_drift = loss - hypers.drift_beta * jnp.tanh(loss / hypers.drift_beta)
    return ratio * advantage - jax.nn.relu(jnp.where(advantage >= 0, gain_drift, loss_drift))


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> ppo.OnPolicyAgent:
    """LPO for environments of `spec`; gradients are averaged over the mapped `axes`."""
    return ppo.make(config, spec, axes, Hypers, drift_surrogate)
