"""SAC for discrete actions (Christodoulou, arXiv 1910.07207): expectations over all actions in place of samples."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlx import halves, losses, networks, parallel, policies
from rlx.agents import sac
from rlx.halves import HalfState, SoftActorState
from rlx.networks import Network
from rlx.types import SHARE, Key, Metrics, Params, Spec, Transition, setting

Config = halves.Config


class Hypers(halves.SoftHypers):
    """Hyper-parameters, traced."""

    target_entropy_share: float | jax.Array = setting(
        0.5, "target entropy, as a share of that of the uniform policy, log n", SHARE
    )


class Networks(NamedTuple):
    """The networks, and the axes that gradients are averaged over."""

    actor: Network  # (params, observation [B, O]) -> logits [B, n]
    critic: Network  # (params, observation [B, O]) -> values of all actions [N, B, n]
    num_actions: int
    axes: parallel.Axes


def update_critic(
    nets: Networks, state: HalfState, policy: sac.Policy, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """The critics towards r + gamma d sum pi (min Q' - alpha log pi) (arXiv 1910.07207, eq. 10), then their targets."""
    target_critic, critic = (nets.critic.with_dropout(key, index) for index in range(2))
    probs, log_prob = policies.probabilities(nets.actor, policy.params, batch.next_observation)
    next_q = losses.ensemble_min(target_critic(state.learner.target_variables, batch.next_observation))
    soft_value = losses.soft_value(jnp.sum(probs * next_q, axis=-1), log_prob, jnp.exp(policy.log_alpha))
    target = halves.td_target(batch, soft_value, state.hypers)
    return halves.update_discrete_critics(state, critic, batch, target, nets.axes, target_mean=target.mean())


def update_actor(
    nets: Networks, state: SoftActorState, critic_params: Params, batch: Transition, key: Key
) -> tuple[SoftActorState, Metrics]:
    """The policy down sum pi (alpha log pi - min Q) (eq. 12), then alpha (eq. 11), by the policy's exact entropy."""
    q = losses.ensemble_min(nets.critic.with_dropout(key, 0)(critic_params, batch.observation))
    return halves.step_soft_actor(
        state,
        sample=lambda params: policies.probabilities(nets.actor, params, batch.observation),
        q_value=lambda probs: jnp.sum(probs * q, axis=-1),
        target_entropy=state.hypers.target_entropy_share * math.log(nets.num_actions),
        temperature_loss=losses.temperature_loss,
        axes=nets.axes,
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.SoftAgent:
    """SAC for environments of `spec` with discrete actions; gradients are averaged over the mapped `axes`."""
    actor = networks.make_categorical_policy(spec, config.actor_hidden_sizes, **config.network_options())
    nets = Networks(actor, halves.make_discrete_critic(config, spec, axes), spec.num_actions, axes)
    return sac.assemble(nets, Hypers)._replace(
        update_critic=partial(update_critic, nets),
        update_actor=partial(update_actor, nets),
        q_value=halves.discrete_q_value(nets.critic),
        discrete=True,
        **policies.categorical(actor).functions(),
    )
