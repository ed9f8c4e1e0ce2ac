"""TD3+BC (Fujimoto and Gu, arXiv 2106.06860): TD3 whose actor also stays near the data."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlx import losses, parallel
from rlx.agents import td3
from rlx.types import Metrics, Spec, Transition, setting

Config = td3.Config


class Hypers(td3.Hypers):
    """Hyper-parameters, traced."""

    q_weight: float | jax.Array = setting(2.5, "weight of the value against cloning (alpha in the paper)")


def actor_loss(q: jax.Array, action: jax.Array, batch: Transition, hypers: Hypers) -> tuple[jax.Array, Metrics]:
    """-lambda Q_1(s, pi(s)) + (pi(s) - a)^2 (arXiv 2106.06860, eq. 4), `q` [B]: scalar and metrics.

    Means over everything, the action's dimensions included: its authors' reduction, for which 2.5 is meant.
    """
    cloning = jnp.mean(jnp.square(action - batch.action))
    loss = cloning - losses.td3_bc_lambda(q, hypers.q_weight) * q.mean()
    return loss, {"actor_loss": loss, "cloning_loss": cloning}


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> td3.Networks:
    """TD3's, with the loss above."""
    return td3.make_networks(config, spec, axes, config.policy_delay)._replace(actor_loss=actor_loss)


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> td3.DeterministicAgent:
    """TD3+BC for environments of `spec`; gradients are averaged over the mapped `axes`."""
    return td3.assemble(make_networks(config, spec, axes), Hypers, actor_reads=("observation", "action"))
