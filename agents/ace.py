"""ACE (Ji et al., arXiv 2402.14528): SAC whose entropy counts most where actions move the reward, with soft resets.

The weights of the action dimensions come from a linear model of rewards. Networks are reset the more, the fewer of the
policy's neurons learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlx import halves, parallel, policies
from rlx.agents import sac
from rlx.halves import HalfState, SoftActorState
from rlx.networks import Network
from rlx.optim import Learner
from rlx.types import POSITIVE, Agent, Key, Metrics, Params, Spec, Transition, setting

DORMANT = 0.05  # neurons are whose gradients are below this share of their layer's mean
LEAST_KEPT, MOST_KEPT = 0.2, 0.9  # shares of the parameters that a reset keeps


@dataclass(frozen=True)
class Config(sac.Config):
    """Static (compile-time) configuration."""

    reset_every: int = setting(100_000, "updates of a half between its soft resets (0: none)", (0, 10**9))


class Hypers(sac.Hypers):
    """Hyper-parameters, traced."""

    reward_model_lr: float | jax.Array = setting(1e-3, "learning rate of the linear model of rewards", POSITIVE)
    weight_temperature: float | jax.Array = setting(
        1.0, "effect on the reward that makes a dimension's weight e times that of no effect (1e9: SAC)", POSITIVE
    )


class CriticState(HalfState):
    """The critic half."""

    reset_seed: jax.Array  # [] int32, of the fresh parameters, the same on every device


class ActorState(SoftActorState):
    """The actor half."""

    reward_model: Learner  # parameters: observation [O], action [A], bias []
    reset_seed: jax.Array  # [] int32, of the fresh parameters, the same on every device


class Policy(NamedTuple):
    """What acting and the critic half read."""

    params: Params
    log_alpha: jax.Array
    weights: jax.Array  # [A], of the dimensions' entropies; their mean is 1
    dormant: jax.Array  # [], share of the policy's neurons
    target_params: None = None  # as sac.Policy


def reward_loss(params: Params, batch: Transition) -> tuple[jax.Array, Metrics]:
    """Half the mean squared error of rewards that are linear in observation and action."""
    predicted = batch.observation @ params["observation"] + batch.action @ params["action"] + params["bias"]
    loss = 0.5 * jnp.mean((predicted - batch.reward) ** 2)
    return loss, {"reward_model_loss": loss}


def entropy_weights(effects: jax.Array, temperature: Any) -> jax.Array:
    """Of each dimension, by the absolute effects of its actions on the reward, `[A]`; their mean is 1."""
    return effects.shape[0] * jax.nn.softmax(jnp.abs(effects) / temperature)


def weighted_sample(
    weights: jax.Array, actor: Network, params: Params, observation: jax.Array, key: Key
) -> tuple[jax.Array, jax.Array]:
    """Actions `[B, A]` and sum_i w_i log pi_i, `[B]`, whose mean is minus the causality-aware entropy (eq. 7)."""
    policy = policies.tanh_normal(actor, params, observation)
    pre_tanh = policy.sample_pre_tanh(key)
    log_probs = policy.log_prob_of_dimensions(pre_tanh)
    return jnp.tanh(pre_tanh), jnp.sum(jnp.broadcast_to(weights, log_probs.shape) * log_probs, axis=-1)


def dormant_share(opt_state: optax.OptState) -> jax.Array:
    """Share of neurons whose gradients, averaged by Adam, are below `DORMANT` of their layer's mean norm: `[]`."""
    kernels = [x for x in jax.tree.leaves(optax.tree.get(opt_state, "mu")) if x.ndim == 2]
    norms = [jnp.linalg.norm(kernel, axis=0) for kernel in kernels]
    dormant = jnp.concatenate([norm < DORMANT * norm.mean() for norm in norms])
    return jnp.mean(dormant, dtype=jnp.float32)


def soft_reset(state: Any, network: Network, dormant: jax.Array, every: int) -> Any:
    """Every so many updates, parameters and target copy move towards fresh ones, and the optimiser begins anew."""
    if not every:
        return state
    kept = jnp.clip(1 - dormant, LEAST_KEPT, MOST_KEPT)

    def reset(learner: Learner) -> Learner:
        key = jax.random.fold_in(jax.random.key(state.reset_seed), state.step)
        fresh = Learner.create(network.init(key), target=learner.target_params is not None)

        def mix(old: Params, new: Params) -> Params:
            return jax.tree.map(lambda x, y: kept * x + (1 - kept) * y, old, new)

        return fresh.replace(
            params=mix(learner.params, fresh.params),
            target_params=mix(learner.target_params, fresh.target_params),
            statistics=learner.statistics,
        )

    due = state.step % every == 0
    return state.replace(learner=jax.lax.cond(due, reset, lambda learner: learner, state.learner))


def update_critic(
    nets: sac.Networks, reset_every: int, state: CriticState, policy: Any, batch: Transition, key: Key
) -> tuple[CriticState, Metrics]:
    """SAC's with the weighted entropy, then the reset where one is due."""
    nets = nets._replace(sample=partial(weighted_sample, policy.weights))
    state, metrics = sac.update_critic(nets, state, policy, batch, key)
    return soft_reset(state, nets.critic, policy.dormant, reset_every), metrics


def update_actor(
    nets: sac.Networks, reset_every: int, state: ActorState, critic_params: Params, batch: Transition, key: Key
) -> tuple[ActorState, Metrics]:
    """A step of the model of rewards, SAC's with the weighted entropy, then the reset where one is due."""
    hypers, loss = state.hypers, partial(reward_loss, batch=batch)
    reward_model, report = state.reward_model.step(loss, hypers.reward_model_lr, nets.axes)
    weights = entropy_weights(reward_model.params["action"], hypers.weight_temperature)
    nets = nets._replace(sample=partial(weighted_sample, weights))
    after, metrics = sac.update_actor(nets, state.replace(reward_model=reward_model), critic_params, batch, key)
    dormant = dormant_share(after.learner.opt_state)
    report |= {"largest_weight": weights.max(), "dormant": dormant}
    return soft_reset(after, nets.actor, dormant, reset_every), metrics | report


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[CriticState, ActorState, Params, Policy]:
    """ACE for environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = sac.make_networks(config, spec, axes)

    def draw_seed(key: Key) -> jax.Array:
        return jax.random.randint(jax.random.fold_in(key, 1), (), 0, 2**31 - 1, jnp.int32)

    def init_critic(key: Key, hypers: Any) -> CriticState:
        learner = Learner.create(nets.critic.init(key), target=True)
        return CriticState.create(hypers, learner, reset_seed=draw_seed(key))

    def init_actor(key: Key, hypers: Any) -> ActorState:
        sizes = {"observation": (spec.observation_size,), "action": (spec.action_size,), "bias": ()}
        return ActorState.create(
            hypers,
            Learner.create(nets.actor.init(key)),
            log_alpha=Learner.create(jnp.log(hypers.alpha_init)),
            reward_model=Learner.create({name: jnp.zeros(size, jnp.float32) for name, size in sizes.items()}),
            reset_seed=draw_seed(key),
        )

    def policy_params(actor: ActorState, critic_params: Params) -> Policy:
        weights = entropy_weights(actor.reward_model.params["action"], actor.hypers.weight_temperature)
        return Policy(actor.learner.params, actor.log_alpha.params, weights, dormant_share(actor.learner.opt_state))

    agent: Any = sac.assemble(nets, Hypers)
    return agent._replace(
        init=halves.make_init(Hypers, init_critic, init_actor),
        policy_params=policy_params,
        update_critic=partial(update_critic, nets, config.reset_every),
        update_actor=partial(update_actor, nets, config.reset_every),
        actor_reads=("observation", "action", "reward"),
    )
