"""Diffusion Q-learning (Wang et al., arXiv 2208.06193): a diffusion policy climbs Q through all its denoising steps.

EDP with the policy's own action in place of an approximation: every update of the actor runs the chain of K steps and
differentiates it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from rlx import diffusion, parallel
from rlx.agents import edp
from rlx.halves import HalfState
from rlx.types import COUNT, POSITIVE, Agent, Key, Params, Spec, setting


@dataclass(frozen=True)
class Config(edp.PolicyConfig):
    """Static (compile-time) configuration."""

    diffusion_steps: int = setting(5, "steps from noise to an action (K), all taken and all differentiated", COUNT)


class Hypers(edp.Hypers):
    """Hyper-parameters, traced."""

    q_weight: float | jax.Array = setting(1.0, "weight of the value against denoising (eta)", POSITIVE)


def own_action(nets: edp.Networks, params: Params, observation: jax.Array, guess: Any, key: Key) -> jax.Array:
    """The end of the policy's chain, `[B, A]`."""
    del guess
    return edp.sample(nets, params, observation, key)


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> edp.Networks:
    """EDP's, but the policy's own action climbs Q (arXiv 2208.06193, eq. 3).

    Values are divided by the size of another critic's, as in the authors' code.
    """
    return edp.make_networks(config, spec, axes, diffusion.ddpm)._replace(climber=own_action, scaled_by=1)


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[HalfState, HalfState, Params, edp.Policy]:
    """Diffusion Q-learning for environments of `spec`; gradients are averaged over the mapped `axes`."""
    return edp.assemble(make_networks(config, spec, axes), Hypers)
