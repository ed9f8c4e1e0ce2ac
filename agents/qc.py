"""Q-chunking (Li et al., arXiv 2507.07969): FQL whose actions are chunks, h actions taken one after the other.

A critic that knows all h actions backs values up over h steps without the bias of n-step returns, and chunks that
imitate the data explore as it does. Windows that the end of an episode cuts teach the critics nothing, and the flow
only the actions before the end. With chunks of one action it is FQL.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx import diffusion, halves, losses, parallel, policies
from rlx.agents import fql
from rlx.halves import HalfState
from rlx.types import COUNT, Agent, Key, Metrics, Params, Spec, Transition, setting


@dataclass(frozen=True)
class Config(fql.Config):
    """Static (compile-time) configuration."""

    chunk_size: int = setting(5, "actions of a chunk (h), which are taken one after the other", COUNT)
    extraction: str = setting(
        "distilled",
        "what acts: distilled, FQL's policy; best, the one with the largest Q of num_samples chunks of the flow",
        choices=("distilled", "best"),
    )
    num_samples: int = setting(32, "candidate chunks of --extraction best", COUNT)


class Hypers(fql.Hypers):
    """Hyper-parameters, traced."""

    distillation_weight: Any = setting(100.0, "weight of distillation against the value (alpha), if distilled")


class Policy(NamedTuple):
    """What --extraction best reads to act."""

    flow: Params
    critic: Params


def as_chunks(windows: Transition, gamma: Any) -> Transition:
    """Windows `[B, h, ...]` of steps as transitions `[B, ...]` with one chunk `[B, h A]` as their action.

    The target of a whole window is sum_i gamma^i r_i + gamma^h d Q'(s_h). Those that `extras["mask"]` `[B, h]` cuts
    have no target that a chunk of h actions could have: they must not count.
    """
    size = windows.action.shape[1]
    powers = jnp.asarray(gamma, jnp.float32) ** jnp.arange(size)
    chunk = windows.action.reshape(len(windows.action), -1)
    if windows.reward is None:  # the actor half's
        return windows._replace(observation=windows.observation[:, 0], action=chunk)
    return Transition(
        windows.observation[:, 0],
        chunk,
        (powers * windows.reward).sum(axis=1),
        powers[-1] * windows.discount[:, -1],
        windows.next_observation[:, -1],
        windows.extras,
    )


def in_chunks(agent: Agent[Any, Any, Any, Any], size: int, action_size: int) -> Agent[Any, Any, Any, Any]:
    """An agent whose actions are chunks as one that learns from windows and takes a chunk's actions in turn."""

    def update(half: Any, published: Any, windows: Transition, key: Key, *, function: Any) -> tuple[Any, Metrics]:
        updated: tuple[Any, Metrics] = function(half, published, as_chunks(windows, half.hypers.gamma), key)
        return updated

    def act(policy: Any, observation: jax.Array, key: Key, carry: Any, *, function: Any) -> tuple[jax.Array, Any, Any]:
        chunk, taken = carry  # [..., h, A], [...]
        fresh, info = function(policy, observation, key)
        chunk = jnp.where((taken == 0)[..., None, None], fresh.reshape(chunk.shape), chunk)
        action = jnp.take_along_axis(chunk, taken[..., None, None], axis=-2)[..., 0, :]
        return action, info, (chunk, (taken + 1) % size)

    return agent._replace(
        act=partial(act, function=agent.act),
        act_greedy=partial(act, function=agent.act_greedy),
        update_critic=partial(update, function=agent.update_critic),
        update_actor=partial(update, function=agent.update_actor),
        q_value=None,  # of chunks, not of an action
        carry=lambda: (jnp.zeros((size, action_size)), jnp.zeros((), jnp.int32)),
        window=size,
    )


def act(nets: fql.Networks, policy: Policy, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The one with the largest Q of the flow's chunks, `[..., O]` to `[..., h A]`."""
    count = nets.config.num_samples
    sample = partial(policies.flow_samples, nets.flow, nets.config.flow_steps, nets.action_size)
    actions = sample(policy.flow, observation, count, key)
    q = nets.critic.apply(policy.critic, jnp.broadcast_to(observation, (count, *observation.shape)), actions)
    return policies.take(actions, jnp.argmax(fql.NEXT_VALUES[nets.config.next_value](q), axis=0)), {}


def update_flow(
    nets: fql.Networks, state: HalfState, critic_params: Params, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """The flow down its matching loss (arXiv 2507.07969, section 4.2)."""

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        value = nets.matching(partial(nets.flow.apply, params, batch.observation), batch, key)
        return value, {"actor_loss": value}

    flow, metrics = state.learner.step(loss, state.hypers.actor_lr, nets.axes)
    return state.advance(learner=flow), metrics


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> fql.Networks:
    """FQL's networks for chunks, with losses that leave out what the end of an episode cuts from a window."""
    size = config.chunk_size
    chunk = jax.ShapeDtypeStruct((size * spec.action_size,), spec.action.dtype)
    nets = fql.make_networks(config, spec._replace(action=chunk), axes)
    if size == 1:
        return nets

    def matching(velocity: diffusion.Velocity, batch: Transition, key: Key) -> jax.Array:
        weight = jnp.repeat(batch.extras["mask"].astype(batch.action.dtype), spec.action_size, axis=-1)
        return diffusion.flow_loss(velocity, batch.action, key, weight)

    def regress(q: jax.Array, target: jax.Array, batch: Transition) -> jax.Array:
        return losses.ensemble_td_loss(q, target, batch.extras["mask"][:, -1].astype(target.dtype))

    return nets._replace(matching=matching, regress=regress)


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[Any, Any, Any, Any]:
    """Q-chunking for environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = make_networks(config, spec, axes)
    agent: Any = fql.assemble(nets, Hypers)
    if config.extraction == "best":
        agent = agent._replace(
            init=halves.make_init(Hypers, halves.init_half(nets.critic, target=True), halves.init_half(nets.flow)),
            policy_params=lambda actor, critic_params: Policy(actor.learner.params, critic_params),
            act=partial(act, nets),
            act_greedy=partial(act, nets),
            update_critic=partial(fql.update_critic, nets, act=act),
            update_actor=partial(update_flow, nets),
        )
    return in_chunks(agent, config.chunk_size, spec.action_size) if config.chunk_size > 1 else agent
