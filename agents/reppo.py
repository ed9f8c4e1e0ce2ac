"""REPPO (Voelcker et al., arXiv 2507.11019): SAC's actor and soft values, on-policy, within a trust region.

Of each block, `record` computes soft lambda-returns; the critic learns them as a distribution, and the actor climbs its
mean along the action, as SAC's does, where it is still near the policy that collected.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode

from rlx import categorical, halves, losses, networks, parallel, policies
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.optim import Learner
from rlx.types import COUNT, POSITIVE, SHARE, Agent, Key, Metrics, Params, Spec, Transition, setting

LOG_STD = ("clip", -5.0, 2.0)  # bounds, as of `networks.bounded_log_std`


@dataclass(frozen=True)
class Config(halves.Config):
    """Static (compile-time) configuration."""

    num_critics: int = setting(1, "critics in the ensemble; their mean counts", COUNT)
    layer_norm: bool = setting(True, "LayerNorm in the critics")
    num_atoms: int = setting(151, "atoms of the critics' support", (2, COUNT[1]))


class Hypers(PyTreeNode):
    """Hyper-parameters, traced."""

    gamma: float | jax.Array = setting(0.99, "discount per step", SHARE)
    td_lambda: float | jax.Array = setting(0.95, "lambda of the returns that critics learn from", SHARE)
    actor_lr: float | jax.Array = setting(3e-4, "learning rate of the actor (Adam)", POSITIVE)
    critic_lr: float | jax.Array = setting(3e-4, "learning rate of the critics (Adam)", POSITIVE)
    dual_lr: float | jax.Array = setting(
        3e-4, "learning rate of the temperature and of the KL's weight (Adam)", POSITIVE
    )
    max_gradient_norm: float | jax.Array = setting(
        0.5, "gradients of actor and critics are scaled down to this norm", POSITIVE
    )
    alpha_init: float | jax.Array = setting(0.01, "entropy temperature at the start", (1e-8, math.inf))
    target_entropy_per_action: float | jax.Array = setting(
        -0.5, "target entropy, in nats for each action dimension", (-math.inf, math.log(2))
    )
    kl_weight_init: float | jax.Array = setting(0.01, "weight of the KL at the start", (1e-8, math.inf))
    max_kl: float | jax.Array = setting(
        0.1, "largest KL from the policy that collected; beyond it the actor lowers only the KL", POSITIVE
    )
    v_min: float | jax.Array = setting(-10.0, "lowest atom, in scaled rewards", below="v_max")
    v_max: float | jax.Array = setting(10.0, "highest atom, in scaled rewards")
    smoothing: float | jax.Array = setting(0.75, "deviation of a target's histogram, in steps of the support", POSITIVE)
    reward_scale: float | jax.Array = setting(1.0, "factor on rewards inside the learning targets")


class ActorState(HalfState):
    """The actor half."""

    log_alpha: Learner  # parameters []
    log_kl_weight: Learner  # parameters []


class Policy(NamedTuple):
    """What acting and recording read."""

    params: Params
    log_alpha: jax.Array
    critic_params: Params
    hypers: Any


class Networks(NamedTuple):
    """The networks, and what the updates need to know."""

    actor: Network  # (params, observation [B, O]) -> mean, log_std [B, A]
    critic: Network  # (params, observation [B, O], action [B, A]) -> logits [N, B, M]
    num_atoms: int
    action_size: int
    axes: parallel.Axes

    def q(self, params: Params, observation: jax.Array, action: jax.Array, hypers: Any) -> jax.Array:
        """The mean of all critics' values, [B]."""
        return categorical.values(self.critic.apply(params, observation, action), hypers).mean(axis=0)


def act(nets: Networks, policy: Policy, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A sample; as info the distribution that it is of, and noise for an action at the true successor."""
    key, next_key = jax.random.split(key)
    mean, log_std = nets.actor.apply(policy.params, observation)
    noise, next_noise = (jax.random.normal(k, mean.shape, mean.dtype) for k in (key, next_key))
    return policies.squash(mean, log_std, noise), {"mean": mean, "log_std": log_std, "next_noise": next_noise}


def record(nets: Networks, policy: Policy, rows: Any, info: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Of a block [K, E, ...]: the behaviour's distributions, and lambda-returns of r - gamma alpha log pi(a'|s').

    Nothing follows a termination: neither value nor entropy.
    """
    hypers, ends = policy.hypers, (rows.terminated, rows.truncated)
    noise = info["next_noise"]
    next_action, log_prob = policies.squashed_of_noise(nets.actor, policy.params, rows.next_observation, noise)
    cost = jnp.where(rows.terminated, 0.0, hypers.gamma * jnp.exp(policy.log_alpha) * log_prob)
    next_value = nets.q(policy.critic_params, rows.next_observation, next_action, hypers)
    reward = hypers.reward_scale * rows.reward - cost
    target = losses.lambda_return(reward, next_value, *ends, hypers.gamma, hypers.td_lambda)
    return {"mean": info["mean"], "log_std": info["log_std"], "value_target": target}


def update_critic(
    nets: Networks, state: HalfState, policy: Policy, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """The critics towards the block's returns, as histograms, by cross-entropy (HL-Gauss, arXiv 2403.03950)."""
    del policy
    hypers = state.hypers
    atoms = categorical.support(hypers, nets.num_atoms)
    target = categorical.histogram(batch.extras["value_target"], atoms, hypers.smoothing)
    return halves.update_critics(
        state,
        nets.critic.with_dropout(key, 0),
        batch,
        target,
        nets.axes,
        regress=losses.cross_entropy_loss,
        values=partial(categorical.values, hypers=hypers),
        report=categorical.report,
        tau=0.0,
        optimizer=halves.limited_adam(hypers),
    )


def update_actor(
    nets: Networks, state: ActorState, critic_params: Params, batch: Transition, key: Key
) -> tuple[ActorState, Metrics]:
    """The policy down alpha log pi - Q where its KL from the behaviour is under its bound, and down the KL elsewhere.

    Then the temperature follows the entropy, and the weight of the KL the KL, to their targets.
    """
    from rlx.distributions import gaussian_divergence

    hypers, old = state.hypers, (batch.extras["mean"], batch.extras["log_std"])
    alpha, kl_weight = jnp.exp(state.log_alpha.params), jnp.exp(state.log_kl_weight.params)

    def loss(params: Params) -> tuple[jax.Array, Any]:
        kl = gaussian_divergence(old, nets.actor.apply(params, batch.observation))
        action, log_prob = policies.squashed_sample(nets.actor, params, batch.observation, key)
        improves = alpha * log_prob - nets.q(critic_params, batch.observation, action, hypers)
        value = jnp.where(kl < hypers.max_kl, improves, kl_weight * kl).mean()
        return value, (log_prob, kl, {"actor_loss": value, "entropy": -log_prob.mean(), "kl": kl.mean()})

    actor, (log_prob, kl, metrics) = state.learner.step(
        loss, hypers.actor_lr, nets.axes, optimizer=halves.limited_adam(hypers)
    )

    def alpha_loss(log_alpha: jax.Array) -> tuple[jax.Array, Metrics]:
        target_entropy = hypers.target_entropy_per_action * nets.action_size
        value = losses.alpha_loss(log_alpha, log_prob, target_entropy)
        return value, {"alpha_loss": value, "alpha": jnp.exp(log_alpha)}

    def kl_weight_loss(log_weight: jax.Array) -> tuple[jax.Array, Metrics]:
        value = jnp.exp(log_weight) * (hypers.max_kl - kl.mean())
        return value, {"kl_weight_loss": value, "kl_weight": jnp.exp(log_weight)}

    log_alpha, alpha_metrics = state.log_alpha.step(alpha_loss, hypers.dual_lr, nets.axes)
    log_kl_weight, kl_metrics = state.log_kl_weight.step(kl_weight_loss, hypers.dual_lr, nets.axes)
    state = state.advance(learner=actor, log_alpha=log_alpha, log_kl_weight=log_kl_weight)
    return state, metrics | alpha_metrics | kl_metrics


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[HalfState, ActorState, Params, Policy]:
    """REPPO for environments of `spec`; gradients are averaged over the mapped `axes`."""
    sizes = config.actor_hidden_sizes
    nets = Networks(
        actor=networks.make_gaussian_policy(spec, sizes, log_std=LOG_STD, **config.network_options()),
        critic=halves.make_critic(config, spec, axes, num_atoms=config.num_atoms),
        num_atoms=config.num_atoms,
        action_size=spec.action_size,
        axes=axes,
    )

    def init_actor(key: Key, hypers: Hypers) -> ActorState:
        actor = Learner.create(nets.actor.init(key), halves.limited_adam(hypers))
        duals = Learner.create(jnp.log(hypers.alpha_init)), Learner.create(jnp.log(hypers.kl_weight_init))
        return ActorState.create(hypers, actor, log_alpha=duals[0], log_kl_weight=duals[1])

    def publish(actor: ActorState, critic_params: Params) -> Policy:
        return Policy(actor.learner.params, actor.log_alpha.params, critic_params, actor.hypers)

    functions = policies.squashed_functions(nets.actor) | {"act": partial(act, nets)}
    return Agent(
        init=halves.make_init(Hypers, halves.init_half(nets.critic, halves.limited_adam), init_actor),
        critic_params=lambda critic: critic.learner.variables,
        policy_params=publish,
        update_critic=partial(update_critic, nets),
        update_actor=partial(update_actor, nets),
        actor_reads=("observation", "mean", "log_std"),
        records=partial(record, nets),
        q_value=lambda critic, observation, action: nets.q(
            critic.learner.variables, observation, action, critic.hypers
        ),
        on_policy=True,
        **functions,
    )
