"""Behaviour cloning: the Gaussian most likely to have made the data, the yardstick of every offline table.

The actor half is IQL's with all weights 1; the critic half learns nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from rlx import halves, parallel
from rlx.agents import iql
from rlx.halves import HalfState
from rlx.types import COUNT, POSITIVE, Agent, Params, Spec, setting


@dataclass(frozen=True)
class Config(halves.NetworkConfig):
    """Static (compile-time) configuration."""

    actor_hidden_sizes: tuple[int, ...] = setting((256, 256), "widths of the actor's hidden layers", COUNT)
    actor_decay_steps: int = halves.decay_steps(-1)


class Hypers(halves.ImitationHypers):
    """Hyper-parameters, traced."""

    actor_lr: float | jax.Array = setting(3e-4, "learning rate of the actor at the start (Adam)", POSITIVE)


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[HalfState, HalfState, None, Params]:
    """Behaviour cloning for environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = iql.make_actor_networks(config, spec, axes, lambda _, batch, hypers: jnp.ones_like(batch.action[..., 0]))
    return iql.assemble(nets, Hypers, init_critic=None, **halves.NO_CRITIC)
