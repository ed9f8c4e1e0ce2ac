"""What most agents share: settings, the state of a half, the first state of both halves, critics and their target."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode

from rlx import losses, networks, parallel
from rlx.networks import Network
from rlx.optim import Learner, make_optimizer
from rlx.types import COUNT, POSITIVE, SHARE, Key, Metrics, Params, Spec, State, Transition, as_arrays, setting


@dataclass(frozen=True)
class NetworkConfig:
    """Static (compile-time) configuration of every network of an agent."""

    activation: str = setting("relu", "activation of the hidden layers", choices=networks.ACTIVATIONS)
    kernel_init: str = setting("he", "initial kernels of the hidden layers", choices=networks.INITIALIZERS)
    compute_dtype: str = setting(
        "float32", "type that hidden layers compute in; parameters and outputs stay float32", choices=networks.DTYPES
    )
    residual: bool = setting(False, "residual blocks as hidden layers, which then need equal sizes, two or more")
    residual_block: str = setting(
        "simba",
        "with --residual: simba: LayerNorm, Dense 4 W, Dense W; bro: Dense W and LayerNorm, twice",
        choices=networks.RESIDUAL_BLOCKS,
    )

    def network_options(self) -> dict[str, Any]:
        """These settings as arguments of the functions that make MLPs."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(NetworkConfig)}


@dataclass(frozen=True)
class CriticConfig(NetworkConfig):
    """Static (compile-time) configuration of an ensemble of critics."""

    critic_hidden_sizes: tuple[int, ...] = setting(
        (256, 256), "hidden layers of every critic and of a value network", COUNT
    )
    num_critics: int = setting(2, "critics in the ensemble; their minimum counts", COUNT)
    layer_norm: bool = setting(False, "LayerNorm in the critics")
    critic_dropout: float = setting(
        0.0, "share of the critics' activations dropped in updates, never in acting", (0.0, 0.999)
    )
    batch_norm: str = setting(
        "none",
        "batch normalisation in the critics, or renormalisation; targets and actors read running statistics",
        choices=networks.BATCH_NORMS,
    )

    def critic_options(self, axes: parallel.Axes) -> dict[str, Any]:
        """All settings but the widths, as arguments of the functions that make critics."""
        return self.network_options() | {
            "num_critics": self.num_critics,
            "layer_norm": self.layer_norm,
            "dropout": self.critic_dropout,
            "batch_norm": self.batch_norm,
            "axes": axes,
        }


@dataclass(frozen=True)
class Config(CriticConfig):
    """Static (compile-time) configuration of an actor and an ensemble of critics."""

    actor_hidden_sizes: tuple[int, ...] = setting((256, 256), "widths of the actor's hidden layers", COUNT)


def decay_steps(default: int) -> Any:
    """The setting of a Config that tells over how many updates the actor's learning rate decays."""
    text = "updates over which the actor's learning rate falls to 0 by a cosine (0: all of the run's; -1: it stays)"
    return setting(default, text, (-1, 2**31 - 1), plan="actor_updates")


def temperature_loss(default: str) -> Any:
    """The setting of a Config that tells what the gradient of a learned temperature is of."""
    text = "what the temperature's gradient is of: log_alpha; alpha, whose gradient is alpha times the other"
    return setting(default, text, choices=losses.TEMPERATURE_LOSSES)


class Hypers(PyTreeNode):
    """Hyper-parameters, traced, of every agent that learns a value."""

    gamma: float | jax.Array = setting(0.99, "discount per step", SHARE)
    tau: float | jax.Array = setting(0.005, "Polyak step of the target networks towards the online ones", SHARE)
    actor_lr: float | jax.Array = setting(3e-4, "learning rate of the actor (Adam)", POSITIVE)
    critic_lr: float | jax.Array = setting(3e-4, "learning rate of the critics and of a value network (Adam)", POSITIVE)
    reward_scale: float | jax.Array = setting(1.0, "factor on rewards inside the learning targets")


class SoftHypers(Hypers):
    """Hyper-parameters, traced, of maximum-entropy agents with a learned temperature."""

    alpha_lr: float | jax.Array = setting(3e-4, "learning rate of the temperature (Adam)", POSITIVE)
    alpha_init: float | jax.Array = setting(1.0, "entropy temperature at the start", (1e-8, math.inf))


class HalfState(PyTreeNode):
    """One half of an agent. A half with several networks is a subclass with further learners."""

    learner: Any  # Learner; None of a half that learns nothing
    step: jax.Array  # [] int32, updates so far
    hypers: Any

    @classmethod
    def create(cls, hypers: Any, learner: Learner | None, **learners: Learner) -> Self:
        """The half before its first update."""
        return cls(learner, jnp.zeros((), jnp.int32), hypers, **learners)

    def advance(self, **learners: Learner) -> Self:
        """The half after an update, with these learners in place of the old ones."""
        return self.replace(step=self.step + 1, **learners)


class SoftActorState(HalfState):
    """The actor half of maximum-entropy agents."""

    log_alpha: Learner  # of the temperature, parameters []


def limited_adam(hypers: Any) -> optax.GradientTransformation:
    """Adam of gradients that are scaled down to the norm `hypers.max_gradient_norm`."""
    return make_optimizer(max_gradient_norm=hypers.max_gradient_norm)


C = TypeVar("C", bound=HalfState)
A = TypeVar("A", bound=HalfState)


def make_init(
    defaults: type[Any], init_critic: Callable[[Key, Any], C] | None, init_actor: Callable[[Key, Any], A]
) -> Callable[..., State[C, A]]:
    """An agent's `init(key, hypers=None)` from `(key, hypers) -> state` of each half; `defaults` is its Hypers.

    Without `init_critic` the critic half learns nothing. No two leaves share memory, so callers may donate the state.
    """

    def init(key: Key, hypers: Any = None) -> State[Any, A]:
        hypers = as_arrays(defaults() if hypers is None else hypers)
        if init_critic is None:
            state = State[Any, A](critic=HalfState.create(hypers, None), actor=init_actor(key, hypers))
        else:
            critic_key, actor_key = jax.random.split(key)
            state = State(critic=init_critic(critic_key, hypers), actor=init_actor(actor_key, hypers))
        return jax.tree.map(jnp.copy, state)

    return init


def init_half(
    network: Network,
    optimizer: Callable[[Any], optax.GradientTransformation | None] = lambda hypers: None,
    target: bool = False,
) -> Callable[[Key, Any], HalfState]:
    """`(key, hypers) -> state` of a half with one network; `optimizer(hypers)` is Adam by default."""

    def init(key: Key, hypers: Any) -> HalfState:
        return HalfState.create(hypers, Learner.create(network.init(key), optimizer(hypers), target))

    return init


def init_soft_actor(
    network: Network,
    optimizer: Callable[[Any], optax.GradientTransformation | None] = lambda hypers: None,
    target: bool = False,
) -> Callable[[Key, Any], SoftActorState]:
    """The same with a temperature, which starts at the hyper-parameter `alpha_init`."""

    def init(key: Key, hypers: Any) -> SoftActorState:
        actor = Learner.create(network.init(key), optimizer(hypers), target)
        return SoftActorState.create(hypers, actor, log_alpha=Learner.create(jnp.log(hypers.alpha_init)))

    return init


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


def update_critics(
    state: C,
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
    **metrics: jax.Array,
) -> tuple[C, Metrics]:
    """The half after a step of its critics down `regress(estimates, target)` [], and of their target networks by `tau`.

    `critic(params, observation, action)` is the network's `apply`, or what `with_dropout` returns. `tau` and the
    learning `rate` are by default those of the hyper-parameters; `optimizer` and `project` as in `Learner.step`.
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
    learner, reported = state.learner.step(loss, rate, axes, tau, optimizer, project)
    return state.advance(learner=learner), reported


def update_discrete_critics(
    state: C, critic: Callable[..., Any], batch: Transition, target: jax.Array, axes: parallel.Axes, **options: Any
) -> tuple[C, Metrics]:
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
    state: A,
    log_prob: Callable[[Params], jax.Array],
    weights: jax.Array,
    learning_rate: Any,
    axes: parallel.Axes,
    **metrics: jax.Array,
) -> tuple[A, Metrics]:
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
