"""Randomised ensembled double Q-learning (REDQ; Chen et al., arXiv 2101.05982): SAC with many critics.

With LayerNorm and half of every minibatch from a data set it is RLPD (Ball et al., arXiv 2302.02948), with two critics,
dropout and LayerNorm DroQ (Hiraoka et al., arXiv 2110.02034), and from a policy and critics of CQL, which first fill
the replay unchanged, WSRL (Zhou et al., arXiv 2412.07762): the presets `rlpd`, `droq` and `wsrl`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp

from rlx import networks, parallel
from rlx.agents import sac
from rlx.halves import HalfState, SoftActorState
from rlx.types import COUNT, Spec, State, setting


@dataclass(frozen=True)
class Config(sac.Config):
    """Static (compile-time) configuration."""

    num_critics: int = setting(10, "critics in the ensemble; the actor climbs their mean", COUNT)
    num_target_critics: int = setting(
        2,
        "critics, drawn anew for every update, whose minimum makes the target: fewer are less cautious",
        COUNT,
        up_to="num_critics",
    )
    backup_entropy: bool = setting(True, "targets count the policy's entropy; the actor's loss always does")


Hypers = sac.Hypers


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.Networks:
    """SAC's networks, but a random subset of the target critics makes each target (arXiv 2101.05982, algorithm 1)."""
    nets = sac.make_networks(config, spec, axes)
    if not config.backup_entropy:
        nets = nets._replace(soft_value=lambda value, log_prob, alpha: value)
    return nets._replace(
        choose_targets=partial(networks.random_members, count=config.num_target_critics),
        action_value=partial(jnp.mean, axis=0),
    )


def adopt_policy(state: State[HalfState, SoftActorState], soft: Any) -> State[HalfState, SoftActorState]:
    """The policy and temperature of a run of SAC or CQL, with their optimisers."""
    return state.replace(actor=state.actor.replace(learner=soft.actor.learner, log_alpha=soft.actor.log_alpha))


def adopt_critic(state: State[HalfState, SoftActorState], soft: Any) -> State[HalfState, SoftActorState]:
    """The critics of a run of SAC or CQL, which had as many, with their targets and optimiser."""
    return state.replace(critic=state.critic.replace(learner=soft.critic.learner))


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.SoftAgent:
    """REDQ for environments of `spec`; gradients are averaged over the mapped `axes`."""
    agent = sac.assemble(make_networks(config, spec, axes))
    return agent._replace(adopts={"policy": adopt_policy, "critic": adopt_critic})
