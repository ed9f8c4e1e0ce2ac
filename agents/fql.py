"""Flow Q-learning (Park et al., arXiv 2502.02538): a flow clones the data, a one-step policy distils it and climbs Q.

The actor half holds both networks. Only the one-step policy acts and enters the critics' targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx import diffusion, halves, losses, networks, parallel
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.optim import Learner
from rlx.types import COUNT, POSITIVE, Agent, Key, Metrics, Params, Spec, Transition, setting

NEXT_VALUES = {"mean": partial(jnp.mean, axis=0), "min": partial(jnp.min, axis=0)}


@dataclass(frozen=True)
class Config(halves.FlowConfig):
    """Static (compile-time) configuration."""

    actor_hidden_sizes: tuple[int, ...] = setting((512,) * 4, "hidden layers of the flow and of the policy", COUNT)
    num_critics: int = setting(2, "critics in the ensemble; the actor climbs their mean", COUNT)
    next_value: str = setting("mean", "how a target combines the critics: by their mean or min", choices=NEXT_VALUES)
    normalize_q: bool = setting(False, "divide the actor's Q by the minibatch's mean |Q|")


class Hypers(halves.Hypers):
    """Hyper-parameters, traced."""

    distillation_weight: float | jax.Array = setting(
        10.0, "weight of distillation against the value (alpha in the paper)", POSITIVE
    )


Act = Callable[[Any, Any, jax.Array, Key], tuple[jax.Array, dict[str, jax.Array]]]


class ActorParams(NamedTuple):
    """The actor half's networks."""

    flow: Params
    policy: Params


class Networks(NamedTuple):
    """The networks, and the settings that updates read."""

    flow: Network  # (params, observation [B, O], action [B, A], time [B, 1]) -> velocity [B, A]
    policy: Network  # (params, observation [..., O], noise [..., A]) -> action [..., A], not bounded
    critic: Network  # (params, observation [B, O], action [B, A]) -> [N, B]
    matching: Callable[[diffusion.Velocity, Transition, Key], jax.Array]  # the flow's loss, []
    regress: Callable[[jax.Array, jax.Array, Transition], jax.Array]  # (values [N, B], target [B], batch) -> loss []
    config: Any  # Config, or a variant's
    action_size: int
    axes: parallel.Axes


def act(nets: Networks, policy: Params, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The one-step policy's action for new noise, clipped; greedily, too."""
    noise = jax.random.normal(key, (*observation.shape[:-1], nets.action_size), jnp.float32)
    return jnp.clip(nets.policy.apply(policy, observation, noise), -1.0, 1.0), {}


def update_critic(
    nets: Networks, state: HalfState, policy: Params, batch: Transition, key: Key, act: Act = act
) -> tuple[HalfState, Metrics]:
    """All critics towards r + gamma d Q' of what acts (arXiv 2502.02538, algorithm 1), then their targets."""
    next_action, _ = act(nets, policy, batch.next_observation, key)
    target_variables, following = state.learner.target_variables, batch.next_observation
    next_q = nets.critic.with_dropout(key, 1)(target_variables, following, next_action)
    target = halves.td_target(batch, NEXT_VALUES[nets.config.next_value](next_q), state.hypers)
    critic = nets.critic.with_dropout(key, 2)
    regress = lambda q, target: nets.regress(q, target, batch)  # noqa: E731
    return halves.update_critics(state, critic, batch, target, nets.axes, regress=regress, target_mean=target.mean())


def update_actor(
    nets: Networks, state: HalfState, critic_params: Params, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """The flow down its matching loss, the policy down weighted distillation - Q (arXiv 2502.02538, algorithm 1)."""
    flow_key, noise_key, dropout_key = jax.random.split(key, 3)
    critic, observation = nets.critic.with_dropout(dropout_key, 0), batch.observation
    noise = jax.random.normal(noise_key, batch.action.shape, batch.action.dtype)
    fixed = partial(nets.flow.apply, state.learner.params.flow, observation)
    flowed = diffusion.flow(fixed, noise, nets.config.flow_steps)

    def loss(params: ActorParams) -> tuple[jax.Array, Metrics]:
        matching = nets.matching(partial(nets.flow.apply, params.flow, observation), batch, flow_key)
        action = nets.policy.apply(params.policy, observation, noise)
        distillation = jnp.mean(jnp.square(action - flowed))
        q = critic(critic_params, observation, jnp.clip(action, -1.0, 1.0)).mean(axis=0)
        weight = losses.td3_bc_lambda(q, 1.0) if nets.config.normalize_q else 1.0
        value = matching + state.hypers.distillation_weight * distillation - weight * q.mean()
        return value, {"actor_loss": value, "flow_loss": matching, "distillation_loss": distillation}

    actor, metrics = state.learner.step(loss, state.hypers.actor_lr, nets.axes)
    return state.advance(learner=actor), metrics


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Networks:
    """Two MLPs of observation and noise, one also of the time, and the critics."""
    flow, policy = (
        networks.make_velocity(spec, config.actor_hidden_sizes, timed=timed, **config.network_options())
        for timed in (True, False)
    )
    return Networks(
        flow=flow,
        policy=policy,
        critic=halves.make_critic(config, spec, axes),
        matching=lambda velocity, batch, key: diffusion.flow_loss(velocity, batch.action, key),
        regress=lambda q, target, batch: losses.ensemble_td_loss(q, target),
        config=config,
        action_size=spec.action_size,
        axes=axes,
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[HalfState, HalfState, Params, Params]:
    """FQL for environments of `spec`; gradients are averaged over the mapped `axes`."""
    return assemble(make_networks(config, spec, axes))


def assemble(nets: Networks, defaults: type[Hypers] = Hypers) -> Agent[HalfState, HalfState, Params, Params]:
    """The agent with these networks; `defaults` are a variant's hyper-parameters."""

    def init_actor(key: Key, hypers: Hypers) -> HalfState:
        flow_key, policy_key = jax.random.split(key)
        params = ActorParams(nets.flow.init(flow_key), nets.policy.init(policy_key))
        return HalfState.create(hypers, Learner.create(params))

    return Agent(
        init=halves.make_init(defaults, halves.init_half(nets.critic, target=True), init_actor),
        critic_params=lambda critic: critic.learner.variables,
        policy_params=lambda actor, critic_params: actor.learner.params.policy,
        actor_reads=("observation", "action"),
        act=partial(act, nets),
        act_greedy=partial(act, nets),
        update_critic=partial(update_critic, nets),
        update_actor=partial(update_actor, nets),
        q_value=lambda critic, *inputs: nets.critic.apply(critic.learner.variables, *inputs).mean(axis=0),
    )
