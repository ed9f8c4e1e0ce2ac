"""Mirror descent policy optimisation, off-policy (MDPO; Tomar et al., arXiv 2005.09814): SAC near its previous policy.

The previous policy is a copy that is refreshed every so many updates; with a refresh at every update this is SAC.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from rlx import parallel
from rlx.agents import sac
from rlx.halves import SoftActorState
from rlx.types import COUNT, POSITIVE, Key, Metrics, Params, Spec, Transition, setting


@dataclass(frozen=True)
class Config(sac.Config):
    """Static (compile-time) configuration."""

    refresh_every: int = setting(1000, "actor updates between refreshes of the previous policy (1: SAC)", COUNT)


class Hypers(sac.Hypers):
    """Hyper-parameters, traced."""

    divergence_weight: float | jax.Array = setting(
        0.5, "weight of the divergence from the previous policy, 1 / t_k, in scaled rewards", POSITIVE
    )


def update_actor(
    nets: sac.Networks,
    refresh_every: int,
    state: SoftActorState,
    critic_params: Params,
    batch: Transition,
    key: Key,
) -> tuple[SoftActorState, Metrics]:
    """SAC's plus the weighted KL(pi || previous policy) (arXiv 2005.09814, eq. 14), then a refresh where one is due."""
    from rlx.distributions import gaussian_divergence

    hypers, learner = state.hypers, state.learner
    previous = nets.actor.apply(learner.target_params, batch.observation)

    def penalty(params: Params, q: jax.Array) -> tuple[jax.Array, Metrics]:
        divergence = gaussian_divergence(nets.actor.apply(params, batch.observation), previous).mean()
        return hypers.divergence_weight * divergence, {"divergence": divergence}

    refreshed = jnp.where((state.step + 1) % refresh_every == 0, 1.0, 0.0)
    return sac.update_actor(nets, state, critic_params, batch, key, penalty=penalty, tau=refreshed)


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.SoftAgent:
    """MDPO for environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = sac.make_networks(config, spec, axes)
    return sac.assemble(nets, Hypers, target_policy=True)._replace(  # the copy is the previous policy
        policy_params=lambda actor, critic_params: sac.Policy(actor.learner.params, actor.log_alpha.params),
        update_actor=partial(update_actor, nets, config.refresh_every),
    )
