"""Truncated quantile critics (Kuznetsov et al., arXiv 2005.04269): SAC with quantile critics whose tail is cut off."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp

from rlx import halves, losses, parallel
from rlx.agents import sac
from rlx.types import COUNT, Spec, setting


@dataclass(frozen=True)
class Config(sac.Config):
    """Static (compile-time) configuration."""

    critic_hidden_sizes: tuple[int, ...] = setting((512, 512, 512), "widths of every critic's hidden layers", COUNT)
    num_critics: int = setting(5, "critics in the ensemble; the target pools their quantiles", COUNT)
    num_quantiles: int = setting(25, "quantiles of the return that each critic learns", COUNT)
    drop_per_critic: int = setting(
        2,
        "largest quantiles dropped from the target, per critic: more is more cautious",
        (0, COUNT[1]),
        below="num_quantiles",
    )


Hypers = sac.Hypers


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.Networks:
    """SAC's networks, but estimates are quantiles, [N, B, M]."""
    return sac.make_networks(config, spec, axes)._replace(
        critic=halves.make_critic(config, spec, axes, num_atoms=config.num_quantiles),
        bootstrap=lambda atoms, key: losses.truncate_atoms(atoms, config.drop_per_critic),
        regress=losses.quantile_huber_loss,
        action_value=partial(jnp.mean, axis=(0, -1)),
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.SoftAgent:
    """TQC for environments of `spec`; gradients are averaged over the mapped `axes`."""
    return sac.assemble(make_networks(config, spec, axes))
