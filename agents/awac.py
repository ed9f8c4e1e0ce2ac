"""Advantage-weighted actor-critic (Nair et al., arXiv 2006.09359): imitation weighted by a learned advantage.

The critics learn the policy's own value, as SAC's do without entropy; the actor imitates the data, better actions more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax

from rlx import halves, losses, networks, parallel, policies
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.types import COUNT, Agent, Key, Metrics, Params, Spec, Transition, setting


@dataclass(frozen=True)
class Config(halves.Config):
    """Static (compile-time) configuration."""

    actor_hidden_sizes: tuple[int, ...] = setting((256,) * 4, "widths of the actor's hidden layers", COUNT)


class Hypers(halves.Hypers):
    """Hyper-parameters, traced."""

    beta: float | jax.Array = setting(1.0, "weights of imitation are exp(beta * advantage), at most 100 (1 / lambda)")


class Networks(NamedTuple):
    """The networks, and the axes that gradients are averaged over."""

    actor: Network  # (params, observation [B, O]) -> mean, log_std [B, A]
    critic: Network  # (params, observation [B, O], action [B, A]) -> values [N, B]
    axes: parallel.Axes


def update_critic(
    nets: Networks, state: HalfState, policy: Params, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """All critics towards r + gamma d min Q' at the policy's action (arXiv 2006.09359, eq. 3), then their targets."""
    next_action, _ = policies.squashed_sample(nets.actor, policy, batch.next_observation, key)
    return halves.update_double_q(state, nets.critic, batch, next_action, key, nets.axes)


def update_actor(
    nets: Networks, state: HalfState, critic_params: Params, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """The policy down -mean(weights * log pi(a|s)) (arXiv 2006.09359, eq. 9), the advantage over one sampled action."""
    policy_action, _ = policies.squashed_sample(nets.actor, state.learner.params, batch.observation, key)
    q = partial(nets.critic.with_dropout(key, 1), critic_params, batch.observation)
    advantage = losses.ensemble_min(q(batch.action)) - losses.ensemble_min(q(policy_action))
    weights = losses.advantage_weights(advantage, state.hypers.beta)

    def log_prob(params: Params) -> jax.Array:
        return policies.squashed_log_prob(nets.actor, params, batch.observation, batch.action)

    return halves.imitate(state, log_prob, weights, state.hypers.actor_lr, nets.axes, weight_mean=weights.mean())


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[HalfState, HalfState, Params, Params]:
    """AWAC for environments of `spec`; gradients are averaged over the mapped `axes`."""
    sizes, options = config.actor_hidden_sizes, config.network_options()
    actor = networks.make_gaussian_policy(spec, sizes, state_dependent_std=False, **options)
    nets = Networks(actor, halves.make_critic(config, spec, axes), axes)
    return Agent(
        init=halves.make_init(Hypers, halves.init_half(nets.critic, target=True), halves.init_half(nets.actor)),
        critic_params=lambda critic: critic.learner.variables,
        policy_params=lambda actor, critic_params: actor.learner.params,
        actor_reads=("observation", "action"),
        act=partial(policies.squashed_act, nets.actor),
        act_greedy=partial(policies.squashed_mean, nets.actor),
        update_critic=partial(update_critic, nets),
        update_actor=partial(update_actor, nets),
        log_prob=partial(policies.squashed_log_prob, nets.actor),
        q_value=lambda critic, *inputs: losses.ensemble_min(nets.critic.apply(critic.learner.variables, *inputs)),
    )
