"""Proximal policy optimisation (Schulman et al., arXiv 1707.06347).

On-policy: of each block, `record` computes advantages and lambda-returns once; then the halves learn from it for some
epochs, in minibatches. The actor's objective is a surrogate of the importance ratio, which LPO and SPO exchange.
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

from rlx import halves, losses, networks, parallel, policies
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.optim import Learner
from rlx.types import COUNT, POSITIVE, SHARE, Agent, Key, Metrics, Params, Spec, Transition, setting


@dataclass(frozen=True)
class Config(halves.NetworkConfig):
    """Static (compile-time) configuration."""

    actor_hidden_sizes: tuple[int, ...] = setting((256, 256), "widths of the actor's hidden layers", COUNT)
    critic_hidden_sizes: tuple[int, ...] = setting((256, 256), "widths of the value network's hidden layers", COUNT)
    state_dependent_std: bool = setting(True, "the actor's deviation depends on the observation")


class BaseHypers(PyTreeNode):
    """Hyper-parameters, traced, whatever the surrogate."""

    gamma: float | jax.Array = setting(0.99, "discount per step", SHARE)
    gae_lambda: float | jax.Array = setting(0.95, "lambda of generalised advantage estimation", SHARE)
    actor_lr: float | jax.Array = setting(3e-4, "learning rate of the actor (Adam)", POSITIVE)
    critic_lr: float | jax.Array = setting(3e-4, "learning rate of the value network (Adam)", POSITIVE)
    max_gradient_norm: float | jax.Array = setting(
        1.0, "gradients of either half are scaled down to this norm", POSITIVE
    )
    entropy_cost: float | jax.Array = setting(1e-3, "weight of the entropy, in nats of the squashed action")
    desired_kl: float | jax.Array = setting(
        0.0, "KL from the behaviour policy that the actor's learning rate is adapted to (0: a fixed rate)", POSITIVE
    )
    reward_scale: float | jax.Array = setting(1.0, "factor on rewards inside the learning targets")


class Hypers(BaseHypers):
    """Hyper-parameters, traced."""

    clip_range: float | jax.Array = setting(0.2, "importance ratios count up to 1 +- this (epsilon)", POSITIVE)


class ActorState(HalfState):
    """The actor half."""

    rate: jax.Array  # [], factor on the learning rate, adapted to the KL


class Policy(NamedTuple):
    """What acting and recording read."""

    params: Params
    value_params: Params
    hypers: Any


def clipped_surrogate(ratio: jax.Array, advantage: jax.Array, hypers: Hypers) -> jax.Array:
    """min(r A, clip(r, 1 - epsilon, 1 + epsilon) A), `[B]` (arXiv 1707.06347, eq. 7)."""
    clipped = jnp.clip(ratio, 1 - hypers.clip_range, 1 + hypers.clip_range)
    return jnp.minimum(ratio * advantage, clipped * advantage)


def behaviour(
    policy: policies.ScoredPolicy, state: ActorState, batch: Transition, key: Key
) -> tuple[jax.Array, jax.Array | float]:
    """What ratios are to: log-probabilities of the actions [B] under the policy that collected; and rows' weights."""
    del policy, state, key
    return batch.extras["log_prob"], 1.0


class Networks(NamedTuple):
    """The networks, and what agents of this kind differ in."""

    policy: policies.ScoredPolicy
    value: Network  # (params, observation [B, O]) -> [B]
    surrogate: Callable[[jax.Array, jax.Array, Any], jax.Array]  # (ratio [B], advantage [B], hypers) -> objective [B]
    axes: parallel.Axes
    reference: Callable[..., tuple[jax.Array, jax.Array | float]] = behaviour
    optimizer: Callable[[Any], optax.GradientTransformation] = halves.limited_adam
    # hypers -> the step of the actor's target copy towards it after an update; None: there is no copy
    target_step: Callable[[Any], Any] | None = None


OnPolicyAgent = Agent[HalfState, ActorState, Params, Policy]


def record(nets: Networks, policy: Policy, rows: Any, info: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Of a block [K, E, ...]: what `act` tells, advantages, and lambda-returns as the value's targets."""
    hypers = policy.hypers
    value, next_value = (nets.value.apply(policy.value_params, x) for x in (rows.observation, rows.next_observation))
    reward, ends = hypers.reward_scale * rows.reward, (rows.terminated, rows.truncated)
    advantage = losses.generalised_advantage(reward, value, next_value, *ends, hypers.gamma, hypers.gae_lambda)
    return info | {"advantage": advantage, "value_target": advantage + value}


def normalised(x: jax.Array, axes: parallel.Axes) -> jax.Array:
    """`[B]` with mean 0 and deviation 1 over the minibatch of all `axes`."""
    centred = x - parallel.mean(x.mean(), axes)
    return centred / (jnp.sqrt(parallel.mean(jnp.square(centred).mean(), axes)) + 1e-8)


def adapted(rate: jax.Array, kl: jax.Array, desired_kl: Any) -> jax.Array:
    """The factor on the learning rate after a minibatch: down by 1.5 above twice the desired KL, up below half of it.

    RSL-RL's rule, within a hundredth and ten times the given rate; unchanged where no KL is desired, or there is none.
    """
    high, low = kl > 2 * desired_kl, (0 < kl) & (kl < desired_kl / 2)
    moved = jnp.clip(rate * jnp.where(high, 1 / 1.5, jnp.where(low, 1.5, 1.0)), 0.01, 10.0)
    return jnp.where(desired_kl > 0, moved, rate)


def update_critic(
    nets: Networks, state: HalfState, policy: Policy, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """The value towards the block's lambda-returns, by squared error."""
    del policy, key
    hypers = state.hypers

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        value = nets.value.apply(params, batch.observation)
        error = jnp.square(value - batch.extras["value_target"]).mean()
        return error, {"critic_loss": error, "v_mean": value.mean()}

    learner, metrics = state.learner.step(loss, hypers.critic_lr, nets.axes, optimizer=nets.optimizer(hypers))
    return state.advance(learner=learner), metrics


def update_actor(
    nets: Networks, state: ActorState, critic_params: Params, batch: Transition, key: Key
) -> tuple[ActorState, Metrics]:
    """The policy up the surrogate (arXiv 1707.06347, eq. 9) at advantages normalised over the minibatch.

    The KL is estimated by mean (r - 1 - log r).
    """
    del critic_params
    hypers = state.hypers
    advantage = normalised(batch.extras["advantage"], nets.axes)
    reference, weight = nets.reference(nets.policy, state, batch, key)

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        log_prob, entropy = nets.policy.score(params, batch, key)
        log_ratio = log_prob - reference
        ratio = jnp.exp(log_ratio)
        value = -(weight * nets.surrogate(ratio, advantage, hypers)).mean() - hypers.entropy_cost * entropy
        report = {"kl": (ratio - 1 - log_ratio).mean(), "ratio_deviation": jnp.abs(ratio - 1).mean()}
        return value, {"actor_loss": value, "entropy": entropy, **report}

    rate = hypers.actor_lr * state.rate
    tau = nets.target_step and nets.target_step(hypers)
    actor, metrics = state.learner.step(loss, rate, nets.axes, tau, optimizer=nets.optimizer(hypers))
    factor = adapted(state.rate, metrics["kl"], hypers.desired_kl)
    return state.advance(learner=actor).replace(rate=factor), metrics | {"actor_rate": rate}


def make_networks(
    config: Config,
    spec: Spec,
    axes: parallel.Axes,
    surrogate: Callable[[jax.Array, jax.Array, Any], jax.Array] = clipped_surrogate,
    **parts: Any,
) -> tuple[Network, Networks]:
    """The actor's network, and all that is made of it; `parts` are other fields of `Networks`."""
    sizes, options = config.actor_hidden_sizes, config.network_options()
    value = networks.make_value(spec, config.critic_hidden_sizes, **options)
    if spec.num_actions:
        actor = networks.make_categorical_policy(spec, sizes, **options)
        return actor, Networks(policies.categorical(actor), value, surrogate, axes, **parts)
    actor = networks.make_gaussian_policy(spec, sizes, state_dependent_std=config.state_dependent_std, **options)
    return actor, Networks(policies.squashed(actor), value, surrogate, axes, **parts)


def assemble(spec: Spec, actor: Network, nets: Networks, defaults: type[Any]) -> OnPolicyAgent:
    """The agent of these networks; `defaults` is its class of hyper-parameters."""

    def init_actor(key: Key, hypers: Any) -> ActorState:
        learner = Learner.create(actor.init(key), nets.optimizer(hypers), target=nets.target_step is not None)
        return ActorState.create(hypers, learner, rate=jnp.float32(1))

    return Agent(
        init=halves.make_init(defaults, halves.init_half(nets.value, nets.optimizer), init_actor),
        critic_params=lambda critic: critic.learner.params,
        policy_params=lambda actor, critic_params: Policy(actor.learner.params, critic_params, actor.hypers),
        update_critic=partial(update_critic, nets),
        update_actor=partial(update_actor, nets),
        actor_reads=("observation", "log_prob", "advantage", *nets.policy.reads),
        records=partial(record, nets),
        **nets.policy.functions(),
        discrete=spec.num_actions > 0,
        on_policy=True,
    )


def make(
    config: Config,
    spec: Spec,
    axes: parallel.Axes = (),
    defaults: type[Any] = Hypers,
    surrogate: Callable[[jax.Array, jax.Array, Any], jax.Array] = clipped_surrogate,
    **parts: Any,
) -> OnPolicyAgent:
    """PPO for environments of `spec`; gradients and advantages' moments are averaged over the mapped `axes`.

    A variant gives its class of hyper-parameters, its surrogate, and other fields of `Networks`.
    """
    return assemble(spec, *make_networks(config, spec, axes, surrogate, **parts), defaults)
