"""Implicit Q-learning (Kostrikov et al., arXiv 2110.06169): values of the data's own actions, and weighted imitation.

The critic half moves the target critics, then learns V from them, then Q from the new V; it never asks a policy. The
actor half imitates the data, the better actions more. IDQL takes the critic half as it is, behaviour cloning the actor
half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlx import halves, losses, networks, parallel, policies
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.optim import Learner, make_schedule
from rlx.types import COUNT, SHARE, Agent, Key, Metrics, Params, Spec, State, Transition, setting


@dataclass(frozen=True)
class CriticConfig(halves.CriticConfig):
    """Static (compile-time) configuration of the critic half, and the length of the actor's schedule."""

    value_layer_norm: bool = setting(False, "LayerNorm in the value network")
    value_loss: str = setting(
        "expectile",
        "loss of the value network: expectile, quantile, exponential, or f-DVL's chi_square or total_variation",
        choices=losses.VALUE_LOSSES,
    )
    actor_decay_steps: int = halves.decay_steps(0)


@dataclass(frozen=True)
class Config(CriticConfig):
    """Static (compile-time) configuration of both halves."""

    actor_hidden_sizes: tuple[int, ...] = setting((256, 256), "widths of the actor's hidden layers", COUNT)


class CriticHypers(halves.Hypers):
    """Hyper-parameters of the critic half, traced."""

    expectile: float | jax.Array = setting(
        0.7, "expectile or quantile of the data's values that V learns, or lambda of f-DVL's losses", SHARE
    )
    exponential_scale: float | jax.Array = setting(1.0, "factor on the advantage inside the exponential value loss")


class Hypers(CriticHypers):
    """Hyper-parameters, traced."""

    beta: float | jax.Array = setting(3.0, "weights of imitation are exp(beta * advantage), at most 100")


class CriticState(HalfState):
    """The critic half: the learner is the critics'."""

    value: Learner


class Value(NamedTuple):
    """What the critic half publishes."""

    target_params: Params  # of the critics, [N, ...]
    value_params: Params


class CriticNetworks(NamedTuple):
    """The critic half's networks, and what such agents differ in."""

    critic: Network  # (params, observation [B, O], action [B, A]) -> [N, B]
    value: Network  # (params, observation [B, O]) -> [B]
    value_loss: losses.ValueLoss
    parameter: Callable[[Any], losses.Scalar]  # what that loss takes in addition to u
    reduce: Callable[[jax.Array, Any], jax.Array]  # (target critics' values [N, ...], hypers) -> [...]
    error: Callable[[jax.Array, jax.Array, Any], jax.Array]  # (values [N, B], target [B], hypers) -> loss []
    axes: parallel.Axes


class ActorNetworks(NamedTuple):
    """The actor half's network, and what makes imitation with advantages differ from plain imitation."""

    actor: Network  # (params, observation [B, O]) -> mean, log_std [B, A]
    weigh: Callable[[Any, Transition, Any], jax.Array]  # (published, batch, hypers) -> weights [B]
    decay: optax.Schedule  # factor on the learning rate
    axes: parallel.Axes


def advantage(nets: CriticNetworks, published: Value, batch: Transition, hypers: CriticHypers) -> jax.Array:
    """min Q' - V of the data's actions, `[B]`."""
    q = nets.reduce(nets.critic.apply(published.target_params, batch.observation, batch.action), hypers)
    return q - nets.value.apply(published.value_params, batch.observation)


def imitation_weights(nets: CriticNetworks, published: Value, batch: Transition, hypers: Hypers) -> jax.Array:
    """min(exp(beta (min Q' - V)), 100), `[B]`."""
    return losses.advantage_weights(advantage(nets, published, batch, hypers), hypers.beta)


def update_critic(
    nets: CriticNetworks, state: CriticState, policy: Any, batch: Transition, key: Key
) -> tuple[CriticState, Metrics]:
    """The target critics, V towards them (arXiv 2110.06169, eq. 5), the critics towards the new V (eq. 6).

    Value losses other than the expectile's are those of arXiv 2304.10573. The targets move first, as nothing does
    between an update's end and the next one's beginning: so the actor half sees those that V learnt from, as in the
    authors' code, and on the same minibatch XLA computes their values once.
    """
    del policy
    hypers = state.hypers
    state = state.replace(learner=state.learner.move_target(hypers.tau))
    target_critic, critic = (nets.critic.with_dropout(key, index) for index in (0, 1))
    target_q = nets.reduce(target_critic(state.learner.target_variables, batch.observation, batch.action), hypers)

    def value_loss(params: Params) -> tuple[jax.Array, Metrics]:
        v = nets.value.apply(params, batch.observation)
        loss = nets.value_loss.loss(target_q - v, nets.parameter(hypers)).mean()
        return loss, {"value_loss": loss, "v_mean": v.mean()}

    value, value_metrics = state.value.step(value_loss, hypers.critic_lr, nets.axes)
    target = halves.td_target(batch, nets.value.apply(value.params, batch.next_observation), hypers)
    new, metrics = halves.update_critics(
        state,
        critic,
        batch,
        target,
        nets.axes,
        regress=lambda q, target: nets.error(q, target, hypers),
        moves_target=False,
    )
    return new.replace(value=value), value_metrics | metrics


def update_actor(
    nets: ActorNetworks, state: HalfState, published: Any, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """The policy down -mean(weights * log pi(a|s)) (arXiv 2110.06169, eq. 7)."""
    del key
    weights = nets.weigh(published, batch, state.hypers)

    def log_prob(params: Params) -> jax.Array:
        return policies.mean_tanh_log_prob(nets.actor, params, batch.observation, batch.action)

    return halves.imitate(state, log_prob, weights, state.hypers.actor_lr * nets.decay(state.step), nets.axes)


def critic_params(critic: CriticState) -> Value:
    """What the critic half publishes."""
    return Value(critic.learner.target_variables, critic.value.params)


def q_value(nets: CriticNetworks, critic: CriticState, observation: jax.Array, action: jax.Array) -> jax.Array:
    """The ensemble's value `[...]` of actions."""
    return nets.reduce(nets.critic.apply(critic.learner.variables, observation, action), critic.hypers)


def init_critic(nets: CriticNetworks, key: Key, hypers: CriticHypers) -> CriticState:
    """Initialises the critic half."""
    critic_key, value_key = jax.random.split(key)
    critic = Learner.create(nets.critic.init(critic_key), target=True)
    return CriticState.create(hypers, critic, value=Learner.create(nets.value.init(value_key)))


def adopt_critic(state: State[CriticState, Any], other: Any) -> State[CriticState, Any]:
    """The critic half of a run of IQL, or of an agent with its critics."""
    return state.replace(critic=state.critic.replace(learner=other.critic.learner, value=other.critic.value))


def make_critic_networks(config: CriticConfig, spec: Spec, axes: parallel.Axes = ()) -> CriticNetworks:
    """Double Q, V and the loss that `config.value_loss` names."""
    options = config.network_options() | {"layer_norm": config.value_layer_norm}
    scale = "exponential_scale" if config.value_loss == "exponential" else "expectile"
    return CriticNetworks(
        critic=halves.make_critic(config, spec, axes),
        value=networks.make_value(spec, config.critic_hidden_sizes, **options),
        value_loss=losses.VALUE_LOSSES[config.value_loss],
        parameter=lambda hypers: getattr(hypers, scale),
        reduce=lambda q, hypers: jnp.min(q, axis=0),
        error=lambda q, target, hypers: losses.ensemble_td_loss(q, target),
        axes=axes,
    )


def with_actor(
    critic: CriticNetworks, defaults: type[Any], init_actor: Callable[[Key, Any], Any], **functions: Any
) -> Agent[CriticState, Any, Value, Any]:
    """An agent with the critic half of these networks, and an actor half that learns from observations and actions.

    `functions` are the fields of `Agent` that are the actor's; `defaults` is the class of hyper-parameters.
    """
    return Agent(
        init=halves.make_init(defaults, partial(init_critic, critic), init_actor),
        critic_params=critic_params,
        actor_reads=("observation", "action"),
        update_critic=partial(update_critic, critic),
        q_value=partial(q_value, critic),
        **functions,
    )


def make_actor_networks(config: Any, spec: Spec, axes: parallel.Axes, weigh: Any) -> ActorNetworks:
    """A Gaussian whose deviation does not depend on the observation."""
    options = config.network_options() | {"state_dependent_std": False}
    actor = networks.make_gaussian_policy(spec, config.actor_hidden_sizes, **options)
    return ActorNetworks(actor, weigh, make_schedule("cosine", config.actor_decay_steps), axes)


def assemble(
    nets: ActorNetworks, defaults: type[Any], init_critic: Any, update_critic: Any, critic_params: Any
) -> Agent[Any, HalfState, Any, Params]:
    """An agent that imitates, with any critic half; `defaults` is its class of hyper-parameters."""
    return Agent(
        init=halves.make_init(defaults, init_critic, halves.init_half(nets.actor)),
        critic_params=critic_params,
        policy_params=lambda actor, critic_params: actor.learner.params,
        actor_reads=("observation", "action"),
        act=partial(policies.clipped_sample, nets.actor),
        act_greedy=partial(policies.squashed_mean, nets.actor),
        update_critic=update_critic,
        update_actor=partial(update_actor, nets),
        log_prob=partial(policies.mean_tanh_log_prob, nets.actor),
    )


def make(
    config: Config, spec: Spec, axes: parallel.Axes = (), defaults: type[Any] = Hypers, **changes: Any
) -> Agent[CriticState, HalfState, Value, Params]:
    """IQL for environments of `spec`; gradients are averaged over the mapped `axes`.

    A variant gives its class of hyper-parameters and `changes` of `CriticNetworks`.
    """
    critic = make_critic_networks(config, spec, axes)._replace(**changes)
    actor = make_actor_networks(config, spec, axes, partial(imitation_weights, critic))
    made = assemble(actor, defaults, partial(init_critic, critic), partial(update_critic, critic), critic_params)
    return made._replace(q_value=partial(q_value, critic))
