"""Expressive policy optimisation (EXPO; Dong et al., arXiv 2507.07986): a flow imitates, a Gaussian edits its actions.

The flow learns from what is stored, never from a value. Small edits of actions climb REDQ's critics, as SAC's policy
does. What acts, in targets as well, is the best of some actions of the flow and their edits. It is made for learning
online with data from the first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx import diffusion, halves, losses, networks, parallel, policies
from rlx.agents import redq, sac
from rlx.halves import HalfState, SoftActorState
from rlx.networks import Network
from rlx.optim import Learner
from rlx.types import COUNT, Agent, Key, Metrics, Params, Spec, Transition, setting


@dataclass(frozen=True)
class Config(redq.Config):
    """Static (compile-time) configuration."""

    layer_norm: bool = setting(True, "LayerNorm in the critics")
    flow_hidden_sizes: tuple[int, ...] = setting((256,) * 3, "widths of the hidden layers of the flow", COUNT)
    flow_steps: int = setting(10, "Euler steps from noise to an action", COUNT)
    num_samples: int = setting(8, "actions of the flow that acting chooses among, and as many edits of them", COUNT)


class Hypers(sac.Hypers):
    """Hyper-parameters, traced."""

    edit_scale: float | jax.Array = setting(0.3, "largest change of an action by an edit; actions are +-1", (1e-3, 2.0))
    target_entropy_per_action: float | jax.Array = setting(
        -0.5, "target entropy of an edit before it is scaled, in nats for each action dimension", (-20.0, 0.69)
    )


class ActorState(SoftActorState):
    """The actor half: the learner is the edit policy's."""

    flow: Learner


class Policy(NamedTuple):
    """What acting and the critic half read."""

    flow: Params
    edit: Params
    edit_scale: jax.Array
    critic: Params


class Networks(NamedTuple):
    """The networks, and the settings that updates read."""

    flow: Network  # (params, observation [..., O], action [..., A], time [..., 1]) -> velocity [..., A]
    edit: Network  # (params, observation [..., O], action [..., A]) -> mean, log_std [..., A]
    critic: Network  # (params, observation [..., O], action [..., A]) -> [N, ...]
    config: Config
    action_size: int
    axes: parallel.Axes


def edit(
    nets: Networks, params: Params, scale: jax.Array, observation: jax.Array, action: jax.Array, key: Key
) -> tuple[jax.Array, jax.Array]:
    """The action plus `scale` times a sample of the tanh-Gaussian, clipped, and that sample's log-probability."""
    actor = nets.edit._replace(apply=lambda params, observation: nets.edit.apply(params, observation, action))
    change, log_prob = policies.squashed_sample(actor, params, observation, key)
    return jnp.clip(action + scale * change, -1.0, 1.0), log_prob


def value(nets: Networks, params: Params, observation: jax.Array, action: jax.Array, key: Key) -> jax.Array:
    """The minimum of a few critics, drawn at random, `[...]`."""
    members = networks.random_members(params, key, nets.config.num_target_critics)
    return jnp.min(nets.critic.apply(members, observation, action), axis=0)


def act(nets: Networks, policy: Policy, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The best of the flow's samples and their edits (arXiv 2507.07986, eq. 4), `[..., O]` to `[..., A]`."""
    flow_key, edit_key, critic_key = jax.random.split(key, 3)
    count, config = nets.config.num_samples, nets.config
    observations = jnp.broadcast_to(observation, (2 * count, *observation.shape))
    sample = partial(policies.flow_samples, nets.flow, config.flow_steps, nets.action_size)
    base = sample(policy.flow, observation, count, flow_key)
    edited, _ = edit(nets, policy.edit, policy.edit_scale, observations[:count], base, edit_key)
    actions = jnp.concatenate([base, edited])
    q = value(nets, policy.critic, observations, actions, critic_key)
    return policies.take(actions, jnp.argmax(q, axis=0)), {}


def update_critic(
    nets: Networks, state: HalfState, policy: Policy, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """All critics towards r + gamma d min Q' of what acts, without entropy; then their targets towards them."""
    act_key, subset_key, dropout_key = jax.random.split(key, 3)
    following = batch.next_observation
    next_action, _ = act(nets, policy, following, act_key)
    next_q = value(nets, state.learner.target_variables, following, next_action, subset_key)
    target, critic = halves.td_target(batch, next_q, state.hypers), nets.critic.with_dropout(dropout_key, 0)
    return halves.update_critics(state, critic, batch, target, nets.axes, target_mean=target.mean())


def update_actor(
    nets: Networks, state: ActorState, critic_params: Params, batch: Transition, key: Key
) -> tuple[ActorState, Metrics]:
    """The flow down its matching loss; edits of the batch's actions down alpha log pi - mean Q, then alpha."""
    flow_key, edit_key, dropout_key = jax.random.split(key, 3)
    hypers, observation, critic = state.hypers, batch.observation, nets.critic.with_dropout(dropout_key, 0)

    def matching(params: Params) -> tuple[jax.Array, Metrics]:
        loss = diffusion.flow_loss(partial(nets.flow.apply, params, observation), batch.action, flow_key)
        return loss, {"flow_loss": loss}

    flow, flow_metrics = state.flow.step(matching, hypers.actor_lr, nets.axes)
    new: Any
    new, metrics = halves.step_soft_actor(
        state,
        sample=lambda params: edit(nets, params, hypers.edit_scale, observation, batch.action, edit_key),
        q_value=lambda action: critic(critic_params, observation, action).mean(axis=0),
        target_entropy=hypers.target_entropy_per_action * nets.action_size,
        temperature_loss=losses.TEMPERATURE_LOSSES[nets.config.temperature_loss],
        axes=nets.axes,
    )
    return new.replace(flow=flow), metrics | flow_metrics


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Networks:
    """A flow, a Gaussian of observation and action, and REDQ's critics."""
    options = config.network_options()
    size = spec.actor_size + spec.action_size
    edit = networks.make_gaussian_policy(
        spec, config.actor_hidden_sizes, log_std=config.log_std, input_size=size, **options
    )
    flow = networks.make_velocity(spec, config.flow_hidden_sizes, **options)
    return Networks(flow, edit, halves.make_critic(config, spec, axes), config, spec.action_size, axes)


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[HalfState, ActorState, Params, Policy]:
    """EXPO for environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = make_networks(config, spec, axes)

    def init_actor(key: Key, hypers: Hypers) -> ActorState:
        edit, flow = map(Learner.create, (nets.edit.init(key), nets.flow.init(jax.random.fold_in(key, 1))))
        return ActorState.create(hypers, edit, flow=flow, log_alpha=Learner.create(jnp.log(hypers.alpha_init)))

    def policy_params(actor: ActorState, critic_params: Params) -> Policy:
        return Policy(actor.flow.params, actor.learner.params, actor.hypers.edit_scale, critic_params)

    return Agent(
        init=halves.make_init(Hypers, halves.init_half(nets.critic, target=True), init_actor),
        critic_params=lambda critic: critic.learner.variables,
        policy_params=policy_params,
        actor_reads=("observation", "action"),
        act=partial(act, nets),
        act_greedy=partial(act, nets),
        update_critic=partial(update_critic, nets),
        update_actor=partial(update_actor, nets),
        q_value=lambda critic, *inputs: nets.critic.apply(critic.learner.variables, *inputs).mean(axis=0),
    )
