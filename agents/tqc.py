"""Truncated quantile critics (Kuznetsov et al., arXiv 2005.04269): SAC with quantile critics whose tail is cut off."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp

from rlx import losses, parallel
from rlx.agents import sac
from rlx.errors import RlxError
from rlx.types import Spec, setting


@dataclass(frozen=True)
class Config(sac.Config):
    """What changes shapes and branches."""

    critic_hidden_sizes: tuple[int, ...] = setting((512, 512, 512), "widths of every critic's hidden layers")
    num_critics: int = setting(5, "critics in the ensemble; the target pools their quantiles")
    num_quantiles: int = setting(25, "quantiles of the return that each critic learns")
    drop_per_critic: int = setting(2, "largest quantiles dropped from the target, per critic: more is more cautious")

    def __post_init__(self) -> None:
        if not 0 <= self.drop_per_critic < self.num_quantiles:
            limit = f"must be at least 0 and under --num-quantiles {self.num_quantiles}"
            raise RlxError(f"--drop-per-critic {self.drop_per_critic}: {limit}")


Hypers = sac.Hypers


def make_parts(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.Parts:
    """SAC's parts, but for the critics: estimates are quantiles, [N, B, M]."""
    return sac.make_parts(config, spec, axes)._replace(
        critic=sac.make_critic(config, spec, config.num_quantiles),
        bootstrap=partial(losses.truncate_atoms, drop_per_critic=config.drop_per_critic),
        regress=losses.quantile_huber_loss,
        action_value=partial(jnp.mean, axis=(0, -1)),
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.SoftAgent:
    """TQC for environments of `spec`; gradients are averaged over the mapped `axes`."""
    return sac.assemble(make_parts(config, spec, axes))


SMALL = sac.SMALL | {"num_critics": 3, "num_quantiles": 13, "drop_per_critic": 1}

PRESETS: dict[str, dict[str, Any]] = {
    "brax:hopper": {"drop_per_critic": 5},
    "brax:halfcheetah": {"drop_per_critic": 0},
    "brax:walker2d": {"drop_per_critic": 2},
    "brax:ant": {"drop_per_critic": 2},
    "brax:humanoid": {"drop_per_critic": 2},
    "gymnax:Pendulum-v1": SMALL | {"gamma": 0.97},
    "brax:inverted_pendulum": SMALL | {"gamma": 0.98, "backend": "generalized"},  # on spring it does not learn
}
