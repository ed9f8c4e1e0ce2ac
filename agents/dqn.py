"""Deep Q-learning (Mnih et al., arXiv 1312.5602) with double Q-learning (van Hasselt et al., arXiv 1509.06461).

Actions are discrete, and explored epsilon-greedily. The critic half is all that learns; the actor half counts updates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode

from rlx import halves, losses, parallel, policies
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.types import COUNT, POSITIVE, SHARE, Agent, Key, Metrics, Params, Spec, Transition, setting


@dataclass(frozen=True)
class ExplorationConfig(halves.CriticConfig):
    """Static (compile-time) configuration of agents that explore epsilon-greedily."""

    num_critics: int = setting(1, "critics in the ensemble; their minimum counts", COUNT)
    schedule_updates: int = setting(
        0, "updates that schedules take a share of (0: all of the run's)", (0, 2**31 - 1), plan="critic_updates"
    )


@dataclass(frozen=True)
class Config(ExplorationConfig):
    """Static (compile-time) configuration."""

    double_q: bool = setting(True, "the online critics choose the action of a target; else the target networks do")
    target_period: int = setting(1, "updates from one step of the target networks to the next", COUNT)


class BaseHypers(PyTreeNode):
    """Hyper-parameters, traced, of agents that explore epsilon-greedily."""

    gamma: float | jax.Array = setting(0.99, "discount per step", SHARE)
    critic_lr: float | jax.Array = setting(3e-4, "learning rate of the critics", POSITIVE)
    epsilon_start: float | jax.Array = setting(1.0, "probability of a random action at the first update", SHARE)
    epsilon_end: float | jax.Array = setting(0.05, "probability of a random action in the end", SHARE)
    exploration_share: float | jax.Array = setting(
        0.1, "share of the schedule's updates over which epsilon falls in a line (0: at once)", SHARE
    )
    reward_scale: float | jax.Array = setting(1.0, "factor on rewards inside the learning targets")


class Hypers(BaseHypers):
    """Hyper-parameters, traced."""

    tau: float | jax.Array = setting(
        0.005, "step of the target networks towards the online ones (1: a copy, for a long --target-period)", SHARE
    )


class Policy(NamedTuple):
    """What acting and recording read; all of it comes from the critic half."""

    params: Params
    epsilon: jax.Array
    hypers: Any


class Networks(NamedTuple):
    """The critics, and the axes that gradients are averaged over."""

    critic: Network  # (params, observation [B, O]) -> values of all actions [N, B, n]
    axes: parallel.Axes


QAgent = Agent[HalfState, HalfState, Policy, Policy]


def epsilon(state: HalfState, schedule_updates: int) -> jax.Array:
    """The probability of a random action, []: in a line from its start to its end, over a share of the updates."""
    hypers = state.hypers
    updates = jnp.maximum(hypers.exploration_share * schedule_updates, 1.0)
    left = jnp.maximum(1 - state.step.astype(jnp.float32) / updates, 0.0)
    return hypers.epsilon_end + (hypers.epsilon_start - hypers.epsilon_end) * left


def values(nets: Networks, policy: Policy, observation: jax.Array) -> jax.Array:
    """The least estimate of every action over the ensemble, `[..., O]` -> `[..., n]`."""
    least: jax.Array = nets.critic.apply(policy.params, observation).min(axis=0)
    return least


def update_critic(
    nets: Networks, config: Config, state: HalfState, policy: Policy, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """The critics towards r + gamma d Q'(s', argmax Q(s', .)) (arXiv 1509.06461, eq. 4), then their targets."""
    target_critic, chooser, critic = (nets.critic.with_dropout(key, index) for index in range(3))
    next_q = losses.ensemble_min(target_critic(state.learner.target_variables, batch.next_observation))
    scores = next_q
    if config.double_q:
        scores = losses.ensemble_min(chooser(state.learner.variables, batch.next_observation))
    target = halves.td_target(batch, jnp.sum(next_q * policies.largest(scores), axis=-1), state.hypers)
    tau = jnp.where((state.step + 1) % config.target_period == 0, state.hypers.tau, 0.0)
    return halves.update_discrete_critics(
        state, critic, batch, target, nets.axes, tau=tau, target_mean=target.mean(), epsilon=policy.epsilon
    )


def assemble(
    config: ExplorationConfig,
    nets: Networks,
    update_critic: Callable[..., tuple[HalfState, Metrics]],
    *,
    defaults: type[Any],
    optimizer: Callable[[Any], optax.GradientTransformation | None] = lambda hypers: None,
    target: bool = False,
    **changes: Any,
) -> QAgent:
    """An agent that acts epsilon-greedily by these critics; `changes` are further fields of it.

    `defaults` are its hyper-parameters, `optimizer` and `target` as of `halves.init_half`.
    """

    def publish(critic: HalfState) -> Policy:
        return Policy(critic.learner.variables, epsilon(critic, config.schedule_updates), critic.hypers)

    def act(policy: Policy, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, Any]]:
        return policies.epsilon_greedy(values(nets, policy, observation), policy.epsilon, key), {}

    def act_greedy(policy: Policy, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, Any]]:
        del key
        return policies.largest(values(nets, policy, observation)), {}

    return Agent(
        init=halves.make_init(
            defaults,
            halves.init_half(nets.critic, optimizer, target),
            lambda key, hypers: HalfState.create(hypers, None),
        ),
        critic_params=publish,
        policy_params=lambda actor, policy: policy,
        act=act,
        act_greedy=act_greedy,
        update_critic=update_critic,
        update_actor=lambda actor, policy, batch, key: (actor.advance(), {}),
        q_value=halves.discrete_q_value(nets.critic),
        discrete=True,
        **changes,
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> QAgent:
    """DQN for environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = Networks(halves.make_discrete_critic(config, spec, axes), axes)
    return assemble(config, nets, partial(update_critic, nets, config), defaults=Hypers, target=True)
