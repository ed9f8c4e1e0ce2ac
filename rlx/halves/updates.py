"""Critics, their targets, and the steps of critics, soft actors and imitators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlx import losses, networks, parallel
from rlx.halves.hypers import CriticConfig, Hypers
from rlx.halves.state import ActorHalf, CriticHalf, HalfState, SoftActorState
from rlx.networks import Network
from rlx.types import Key, Metrics, Params, Spec, Transition


def make_critic(config: CriticConfig, spec: Spec, axes: parallel.Axes = (), **changes: Any) -> Network:
    """The ensemble of critics that `config` describes; batch norm takes the rows of all `axes`.

    `changes` are arguments of `networks.make_critic`.
    """
    return networks.make_critic(spec, config.critic_hidden_sizes, **config.critic_options(axes) | changes)


def make_discrete_critic(config: CriticConfig, spec: Spec, axes: parallel.Axes = ()) -> Network:
    """The same with values of all n discrete actions: `apply(params, observation [B, O]) -> [N, B, n]`."""
    return networks.make_discrete_critic(spec, config.critic_hidden_sizes, **config.critic_options(axes))


def discrete_q_value(critic: Network) -> Callable[[HalfState, jax.Array, jax.Array], jax.Array]:
    """`q_value` of an agent with such critics: the least estimate of an action."""

    def q_value(state: HalfState, observation: jax.Array, action: jax.Array) -> jax.Array:
        values = critic.apply(state.learner.variables, observation).min(axis=0)
        return jnp.sum(values * action, axis=-1)

    return q_value


def td_target(batch: Transition, next_value: jax.Array, hypers: Hypers) -> jax.Array:
    """`losses.td_target` of a minibatch, with the agent's discount and reward scale."""
    return losses.td_target(batch.reward, batch.discount, next_value, hypers.gamma, hypers.reward_scale)


# fields of an agent whose critic half learns nothing and publishes nothing; `make_init` then has no `init_critic`
NO_CRITIC: dict[str, Any] = {
    "critic_params": lambda critic: None,
    "update_critic": lambda critic, policy, batch, key: (critic.advance(), {}),
}


def update_critics(
    state: CriticHalf,
    critic: Callable[..., Any],
    batch: Transition,
    target: Any,
    axes: parallel.Axes,
    *,
    regress: Callable[[Any, Any], jax.Array] = losses.ensemble_td_loss,
    values: Callable[[Any], jax.Array] = lambda estimates: estimates,
    report: Callable[[Any], Metrics] = lambda target: {},
    measure: Callable[[Any], Metrics] = lambda estimates: {},
    tau: Any = None,
    optimizer: optax.GradientTransformation | None = None,
    project: Callable[[Params], Params] | None = None,
    rate: Any = None,
    moves_target: bool = True,
    **metrics: jax.Array,
) -> tuple[CriticHalf, Metrics]:
    """The half after a step of its critics down `regress(estimates, target)` [], and of their target networks by `tau`.

    `critic(params, observation, action)` is the network's `apply`, or what `with_dropout` returns. `tau` and the
    learning `rate` are by default those of the hyper-parameters; `optimizer` and `project` as in `Learner.step`.
    Without `moves_target` the target networks stay.
    Reports critic_loss, q_mean (of `values(estimates)`), `report(target)`, `measure(estimates)` and `metrics`. With
    batch norm, estimates use the batch's statistics, and the running ones move.
    """
    train = {} if state.learner.statistics is None else {"train": True}

    def loss(params: Params) -> tuple[jax.Array, Any]:
        result = critic(params, batch.observation, batch.action, **train)
        estimates, *statistics = result if train else (result,)
        error = regress(estimates, target)
        reported = {"critic_loss": error, "q_mean": values(estimates).mean(), **report(target), **metrics}
        reported |= measure(estimates)
        return error, (reported, *statistics) if train else reported

    hypers = state.hypers
    rate, tau = (hypers.critic_lr if rate is None else rate), (hypers.tau if tau is None else tau)
    learner, reported = state.learner.step(loss, rate, axes, tau if moves_target else None, optimizer, project)
    return state.advance(learner=learner), reported


def update_double_q(
    state: CriticHalf, critic: Network, batch: Transition, next_action: jax.Array, key: Key, axes: parallel.Axes
) -> tuple[CriticHalf, Metrics]:
    """`update_critics` of all critics towards r + gamma d min Q' at these next actions [B, A]."""
    target_critic, online = (critic.with_dropout(key, index) for index in (1, 2))
    next_q = target_critic(state.learner.target_variables, batch.next_observation, next_action)
    return update_critics(state, online, batch, td_target(batch, losses.ensemble_min(next_q), state.hypers), axes)


def update_discrete_critics(
    state: CriticHalf,
    critic: Callable[..., Any],
    batch: Transition,
    target: jax.Array,
    axes: parallel.Axes,
    **options: Any,
) -> tuple[CriticHalf, Metrics]:
    """`update_critics` of what `make_discrete_critic` makes: values of the one-hot actions taken, towards targets [B].

    `options` are those of `update_critics`.
    """

    def taken(values: jax.Array) -> jax.Array:
        return jnp.sum(values * batch.action[None], axis=-1)

    return update_critics(
        state,
        lambda params, observation, action, **train: critic(params, observation, **train),
        batch,
        target,
        axes,
        regress=lambda values, target: losses.ensemble_td_loss(taken(values), target),
        values=taken,
        **options,
    )


def step_soft_actor(
    state: SoftActorState,
    *,
    sample: Callable[[Params], tuple[Any, ...]],
    q_value: Callable[[jax.Array], jax.Array],
    target_entropy: Any,
    temperature_loss: Callable[..., jax.Array],
    axes: parallel.Axes,
    penalty: Callable[[Params, jax.Array], tuple[Any, Metrics]] = lambda params, q: (0.0, {}),
    rate: Any = 1.0,
    **options: Any,
) -> tuple[SoftActorState, Metrics]:
    """The half after a step of the policy down mean(alpha log pi - Q) + penalty, and one of its temperature.

    `sample(params)` gives actions [B, A], their log-probabilities [B] and, with batch norm, the new statistics;
    `q_value(action)` is [B], `penalty(params, q)` a scalar and metrics. `rate` multiplies learning rates; `options` are
    the policy's, of `Learner.step`.
    """
    hypers, alpha = state.hypers, jnp.exp(state.log_alpha.params)

    def loss(params: Params) -> tuple[jax.Array, Any]:
        action, log_prob, *statistics = sample(params)
        q = q_value(action)
        more, metrics = penalty(params, q)
        value = losses.soft_actor_loss(q, log_prob, alpha) + more
        report = log_prob, {"actor_loss": value, "entropy": -log_prob.mean(), **metrics}
        return value, (report, *statistics) if statistics else report

    actor, (log_prob, metrics) = state.learner.step(loss, rate * hypers.actor_lr, axes, **options)

    def alpha_loss(log_alpha: jax.Array) -> tuple[jax.Array, Metrics]:
        value = temperature_loss(log_alpha, log_prob, target_entropy)
        return value, {"alpha_loss": value, "alpha": jnp.exp(log_alpha)}

    log_alpha, alpha_metrics = state.log_alpha.step(alpha_loss, rate * hypers.alpha_lr, axes)
    return state.advance(learner=actor, log_alpha=log_alpha), metrics | alpha_metrics


def imitate(
    state: ActorHalf,
    log_prob: Callable[[Params], jax.Array],
    weights: jax.Array,
    learning_rate: Any,
    axes: parallel.Axes,
    **metrics: jax.Array,
) -> tuple[ActorHalf, Metrics]:
    """The half after a step down -mean(weights * log pi(a|s)); `log_prob(params)` of the data's actions, and weights,
    are [B].

    Reports actor_loss, data_log_prob and `metrics`.
    """

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        density = log_prob(params)
        value = -jnp.mean(weights * density)
        return value, {"actor_loss": value, "data_log_prob": density.mean(), **metrics}

    actor, report = state.learner.step(loss, learning_rate, axes)
    return state.advance(learner=actor), report
