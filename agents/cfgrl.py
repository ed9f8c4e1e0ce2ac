"""CFGRL (Frans et al., arXiv 2505.23458): guiding a flow of the data's actions towards better ones improves a policy.

The critic half is IQL's. The flow learns the data's actions, and where it is told so, those that are better or worse
than their state's value. Acting goes further in the direction in which the better ones differ from all: the more
`guidance`, the further from the data and the higher the value, without training anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlx import diffusion, halves, networks, optim, parallel
from rlx.agents import iql
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.types import POSITIVE, SHARE, Agent, Key, Metrics, Params, Spec, Transition, setting

BETTER, UNKNOWN = (0.0, 1.0), (0.0, 0.0)  # labels of an action; (1, 0) says that it is worse than its state's value


@dataclass(frozen=True)
class Config(halves.FlowConfig, iql.CriticConfig):
    """Static (compile-time) configuration."""

    value_layer_norm: bool = setting(True, "LayerNorm in the value network")
    actor_decay_steps: int = halves.decay_steps(-1)


class Hypers(iql.CriticHypers):
    """Hyper-parameters, traced."""

    guidance: float | jax.Array = setting(
        3.0, "how far acting follows what distinguishes better actions: 0 is imitation, 1 the better actions", POSITIVE
    )
    label_dropout: float | jax.Array = setting(0.1, "share of the data's labels that the flow is not told", SHARE)


class Policy(NamedTuple):
    """What acting reads."""

    params: Params
    guidance: jax.Array


class Networks(NamedTuple):
    """The critics, and the flow."""

    critic: iql.CriticNetworks
    flow: Network  # (params, observation [B, O], action [B, A], time [B, 1], label [B, 2]) -> velocity [B, A]
    config: Config
    action_size: int
    axes: parallel.Axes


def labels(nets: Networks, value: iql.Value, batch: Transition, hypers: Hypers, key: Key) -> jax.Array:
    """Whether each action is better or worse than its state's value, `[B, 2]`; of a few the flow is not told."""
    better = iql.advantage(nets.critic, value, batch, hypers) >= 0
    told = jax.random.uniform(key, better.shape) >= hypers.label_dropout
    return jnp.stack([told & ~better, told & better], axis=-1).astype(batch.action.dtype)


def update_actor(
    nets: Networks, state: HalfState, published: iql.Value, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """The flow down its matching loss, with the data's labels (arXiv 2505.23458, algorithm 1)."""
    flow_key, label_key = jax.random.split(key)
    label = labels(nets, published, batch, state.hypers, label_key)

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        def velocity(x: jax.Array, time: jax.Array) -> jax.Array:
            return nets.flow.apply(params, batch.observation, x, time, label)

        value = diffusion.flow_loss(velocity, batch.action, flow_key)
        return value, {"actor_loss": value, "better_share": label[:, 1].mean()}

    rate = state.hypers.actor_lr * optim.make_schedule("cosine", nets.config.actor_decay_steps)(state.step)
    flow, metrics = state.learner.step(loss, rate, nets.axes)
    return state.advance(learner=flow), metrics


def act(nets: Networks, policy: Policy, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Where the guided flow v + guidance (v_better - v) leads new noise, clipped; greedily, too."""

    def velocity(x: jax.Array, time: jax.Array) -> jax.Array:
        known = (jnp.broadcast_to(jnp.array(label, x.dtype), (*x.shape[:-1], 2)) for label in (UNKNOWN, BETTER))
        free, better = (nets.flow.apply(policy.params, observation, x, time, label) for label in known)
        return free + policy.guidance * (better - free)

    noise = jax.random.normal(key, (*observation.shape[:-1], nets.action_size), jnp.float32)
    return diffusion.flow(velocity, noise, nets.config.flow_steps), {}


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Networks:
    """IQL's critic half, and an MLP of observation, action, time and label."""
    size = spec.actor_size + spec.action_size + 1 + len(UNKNOWN)
    flow = networks.make_velocity(spec, config.actor_hidden_sizes, input_size=size, **config.network_options())
    return Networks(iql.make_critic_networks(config, spec, axes), flow, config, spec.action_size, axes)


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[iql.CriticState, HalfState, iql.Value, Policy]:
    """CFGRL for environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = make_networks(config, spec, axes)
    return iql.with_actor(
        nets.critic,
        Hypers,
        halves.init_half(nets.flow),
        policy_params=lambda actor, critic_params: Policy(actor.learner.params, actor.hypers.guidance),
        act=partial(act, nets),
        act_greedy=partial(act, nets),
        update_actor=partial(update_actor, nets),
    )
