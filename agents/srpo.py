"""Score regularised policy optimisation (SRPO; Chen et al., arXiv 2310.07297): a diffusion model says what is likely.

A deterministic policy climbs IQL's critics, and its own actions, noised, climb the density that a diffusion model of
the data has learnt. No chain is run, in training or acting. The model is a run of IDQL, `--init-from behaviour=RUN`,
that stays as it is with `--score-lr 0`; without one it is learnt at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx import diffusion, halves, networks, optim, parallel, policies
from rlx.agents import iql
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.optim import Learner
from rlx.types import COUNT, POSITIVE, Agent, Key, Metrics, Params, Spec, State, Transition, setting


@dataclass(frozen=True)
class Config(halves.ScoreConfig, iql.Config):
    """Static (compile-time) configuration."""

    diffusion_steps: int = setting(100, "noise levels of the diffusion model (T)", COUNT)


class Hypers(iql.CriticHypers):
    """Hyper-parameters, traced."""

    q_weight: float | jax.Array = setting(0.1, "weight of the value against the data's density (beta)", POSITIVE)
    score_lr: float | jax.Array = setting(3e-4, "learning rate of the score network; 0 keeps it", POSITIVE)


class ActorState(HalfState):
    """The actor half: the learner is the policy's."""

    behaviour: Learner  # the score network's


class Networks(NamedTuple):
    """The critics, the policy and the diffusion model."""

    critic: iql.CriticNetworks
    actor: Network  # (params, observation [B, O]) -> action [B, A]
    score: Network  # (params, observation [B, O], action [B, A], time [B]) -> noise [B, A]
    schedule: diffusion.Schedule
    config: Config
    axes: parallel.Axes


def score_slope(nets: Networks, params: Params, observation: jax.Array, action: jax.Array, key: Key) -> jax.Array:
    """(1 - alpha_bar) (predicted - added noise) of noised actions `[B, A]`: away from where the data is dense.

    arXiv 2310.07297, eq. 12 with the weight of its authors' code; the added noise lowers the variance alone.
    """
    time_key, noise_key = jax.random.split(key)
    time = jax.random.randint(time_key, action.shape[:1], 0, nets.schedule.num_steps)
    noise = jax.random.normal(noise_key, action.shape, action.dtype)
    predicted = nets.score.apply(params, observation, diffusion.add_noise(nets.schedule, action, time, noise), time)
    weight = 1 - jnp.asarray(nets.schedule.alpha_bar)[time][:, None]
    return jax.lax.stop_gradient(weight * (predicted - noise))


def update_actor(
    nets: Networks, state: ActorState, published: iql.Value, batch: Transition, key: Key
) -> tuple[ActorState, Metrics]:
    """The policy up Q + the model's log-density / beta, then the model down its own loss on the data."""
    slope_key, score_key = jax.random.split(key)
    hypers, observation = state.hypers, batch.observation

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        action = nets.actor.apply(params, observation)
        slope = score_slope(nets, state.behaviour.params, observation, action, slope_key)
        q = nets.critic.critic.apply(published.target_params, observation, action).mean(axis=0)
        value = jnp.mean(jnp.sum(slope * action, axis=-1) - hypers.q_weight * q)
        return value, {"actor_loss": value, "actor_q": q.mean()}

    def noise(params: Params) -> diffusion.Epsilon:
        return partial(nets.score.apply, params, observation)

    rate = hypers.actor_lr * optim.make_schedule("cosine", nets.config.actor_decay_steps)(state.step)
    policy, metrics = state.learner.step(loss, rate, nets.axes)
    denoising = diffusion.objective(nets.schedule, noise, batch.action, score_key)
    behaviour, others = state.behaviour.step(denoising, hypers.score_lr, nets.axes)
    return state.advance(learner=policy, behaviour=behaviour), metrics | others


def adopt_behaviour(state: State[Any, ActorState], idql: Any) -> State[Any, ActorState]:
    """The score network that an IDQL run acts with, which had as many `--diffusion-steps`."""
    behaviour = state.actor.behaviour.replace(params=idql.actor.learner.target_params)
    return state.replace(actor=state.actor.replace(behaviour=behaviour))


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Networks:
    """IQL's critic half, a policy with tanh at the end, and IDQL's score network without dropout."""
    return Networks(
        critic=iql.make_critic_networks(config, spec, axes),
        actor=networks.make_deterministic_policy(spec, config.actor_hidden_sizes, **config.network_options()),
        score=networks.make_score(spec, num_steps=config.diffusion_steps, dropout=0.0, **config.score_options()),
        schedule=diffusion.vp_schedule(config.diffusion_steps),
        config=config,
        axes=axes,
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[iql.CriticState, ActorState, iql.Value, Params]:
    """SRPO for environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = make_networks(config, spec, axes)

    def init_actor(key: Key, hypers: Hypers) -> ActorState:
        policy, behaviour = map(Learner.create, (nets.actor.init(key), nets.score.init(jax.random.fold_in(key, 1))))
        return ActorState.create(hypers, policy, behaviour=behaviour)

    return iql.with_actor(
        nets.critic,
        Hypers,
        init_actor,
        policy_params=lambda actor, critic_params: actor.learner.params,
        act=partial(policies.deterministic, nets.actor),
        act_greedy=partial(policies.deterministic, nets.actor),
        update_actor=partial(update_actor, nets),
        adopts={"behaviour": adopt_behaviour, "critic": iql.adopt_critic},
    )
