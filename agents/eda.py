"""Efficient diffusion alignment (EDA; Chen et al., arXiv 2407.09024): a diffusion model of the data, aligned with Q.

The model is the slope of a network's one output, which is therefore a log-density, up to a constant, and can be read.
For the first `pretrain_steps` updates it learns the data's actions. Then it stays as it is, and a copy, which acts, is
aligned: among actions that the model draws at a state, the ratio of both densities comes to order them as Q does.

The critics are IQL's and learn from all data throughout; alignment sees the states of labelled rows only. Two runs do
the same: one that only pre-trains, and one that begins with `--init-from behaviour=RUN,critic=RUN --pretrain-steps -1`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx import diffusion, halves, losses, networks, optim, parallel, policies
from rlx.agents import iql
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.optim import Learner
from rlx.types import COUNT, POSITIVE, SHARE, Agent, Key, Metrics, Params, Spec, State, Transition, setting


@dataclass(frozen=True)
class Config(halves.ScoreConfig, iql.CriticConfig):
    """Static (compile-time) configuration."""

    actor_decay_steps: int = halves.decay_steps(-1)
    pretrain_steps: int = setting(
        0,
        "updates that learn the behaviour, before alignment (0: half of the run's; -1: none)",
        (-1, 2**31 - 1),
        plan="half_actor_updates",
    )
    diffusion_steps: int = setting(100, "noise levels of the diffusion model (T)", COUNT)
    solver_steps: int = setting(15, "of which making an action visits so many", COUNT, up_to="diffusion_steps")
    alignment_rows: int = setting(64, "rows of a minibatch that an update aligns at most, labelled ones", COUNT)
    alignment_actions: int = setting(16, "actions of the behaviour at each of them, which are compared (K)", COUNT)
    num_samples: int = setting(4, "candidates of a greedy action, of which the best by the critics is taken", COUNT)


class Hypers(iql.CriticHypers):
    """Hyper-parameters, traced."""

    q_weight: float | jax.Array = setting(3.0, "factor on Q among the actions that are compared (alpha)", POSITIVE)
    beta: float | jax.Array = setting(
        0.1, "how near the policy stays to the behaviour: their ratio tends to exp(q_weight Q / beta)", POSITIVE
    )
    score_lr: float | jax.Array = setting(3e-4, "learning rate of the behaviour's diffusion model", POSITIVE)
    label_fraction: float | jax.Array = setting(1.0, "share of the data's rows that alignment has Q of", SHARE)


class ActorState(HalfState):
    """The actor half: the learner is the policy's."""

    behaviour: Learner


class Policy(NamedTuple):
    """What acting reads."""

    params: Params
    value: iql.Value


class Networks(NamedTuple):
    """The critics, and the density that behaviour and policy have of their own parameters."""

    critic: iql.CriticNetworks
    density: Network  # (params, observation [..., O], action [..., A], time [...]) -> log-density [...]
    schedule: diffusion.Schedule
    config: Config
    action_size: int
    axes: parallel.Axes


def sample(nets: Networks, params: Params, observation: jax.Array, count: int, key: Key) -> jax.Array:
    """`count` actions for each observation `[..., O]`, by DDIM, clipped at the end: `[count, ..., A]`."""
    noise = jax.random.normal(key, (count, *observation.shape[:-1], nets.action_size), jnp.float32)
    epsilon = diffusion.noise_of_density(nets.schedule, partial(nets.density.apply, params, observation))
    return jnp.clip(diffusion.ddim(nets.schedule, epsilon, noise, nets.config.solver_steps), -1.0, 1.0)


def values(nets: Networks, value: iql.Value, observation: jax.Array, actions: jax.Array) -> jax.Array:
    """min Q' of actions `[K, ..., A]` at observations `[..., O]`: `[K, ...]`."""
    observations = jnp.broadcast_to(observation, (*actions.shape[:-1], observation.shape[-1]))
    q: jax.Array = nets.critic.critic.apply(value.target_params, observations, actions)
    return q.min(axis=0)


def labelled(batch: Transition, fraction: Any) -> jax.Array:
    """Which rows have a label, `[B]` bool: a share of the data's, always the same, by a hash of their numbers."""
    numbers = jnp.concatenate([batch.observation, batch.action], axis=-1).astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(numbers, jnp.uint32)

    def mix(bits: jax.Array) -> jax.Array:  # the finaliser of MurmurHash3
        bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
        bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
        return bits ^ (bits >> 16)

    columns = jnp.arange(bits.shape[-1], dtype=jnp.uint32)[None]
    row = mix(jnp.sum(mix(bits + columns * jnp.uint32(0x9E3779B9)), axis=-1, dtype=jnp.uint32))
    return (row >> 8).astype(jnp.float32) / 2**24 < fraction


def alignment_loss(
    nets: Networks, params: Params, behaviour: Params, value: iql.Value, batch: Transition, hypers: Hypers, key: Key
) -> jax.Array:
    """`losses.alignment_loss` of q_weight Q and beta times the policy's ratio to the behaviour, mean of labelled rows.

    arXiv 2407.09024, section 3.2: K actions of the behaviour at each state, noised to one time drawn for the state.
    """
    sample_key, time_key, noise_key = jax.random.split(key, 3)
    known = labelled(batch, hypers.label_fraction)
    first = jnp.argsort(~known)[: nets.config.alignment_rows]
    observation, weight = batch.observation[first], known[first].astype(jnp.float32)
    actions = sample(nets, behaviour, observation, nets.config.alignment_actions, sample_key)
    drawn = jax.random.randint(time_key, weight.shape, 0, nets.schedule.num_steps)
    time = jnp.broadcast_to(drawn, actions.shape[:-1])
    noise = jax.random.normal(noise_key, actions.shape, actions.dtype)
    noisy = diffusion.add_noise(nets.schedule, actions, time, noise)
    policy, reference = (nets.density.apply(p, observation, noisy, time) for p in (params, behaviour))
    q = values(nets, value, observation, actions)
    loss = losses.alignment_loss(hypers.q_weight * q, hypers.beta * (policy - reference))
    return jnp.sum(weight * loss) / jnp.maximum(jnp.sum(weight), 1.0)


def update_actor(
    nets: Networks, state: ActorState, published: iql.Value, batch: Transition, key: Key
) -> tuple[ActorState, Metrics]:
    """The behaviour down its loss on the data, and the policy with it; after that the policy alone, down alignment's.

    Both are computed at every update, since members of a program may be at different ones; without pretraining one is.
    """
    score_key, key = jax.random.split(key)
    hypers, pretrains = state.hypers, state.step < nets.config.pretrain_steps

    def noise(params: Params) -> diffusion.Epsilon:
        return diffusion.noise_of_density(nets.schedule, partial(nets.density.apply, params, batch.observation))

    def alignment(params: Params) -> tuple[jax.Array, Metrics]:
        value = alignment_loss(nets, params, state.behaviour.params, published, batch, hypers, key)
        return value, {"actor_loss": value}

    rate = hypers.actor_lr * optim.make_schedule("cosine", nets.config.actor_decay_steps)(state.step)
    policy, metrics = state.learner.step(alignment, rate, nets.axes)
    if nets.config.pretrain_steps < 0:
        return state.advance(learner=policy), metrics
    denoising = diffusion.objective(nets.schedule, noise, batch.action, score_key)
    behaviour, others = state.behaviour.step(denoising, jnp.where(pretrains, hypers.score_lr, 0.0), nets.axes)
    params = jax.tree.map(partial(jnp.where, pretrains), behaviour.params, policy.params)
    return state.advance(learner=policy.replace(params=params), behaviour=behaviour), metrics | others


def act(
    nets: Networks, count: int, policy: Policy, observation: jax.Array, key: Key
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Of `count` actions of the policy the best by min Q', `[..., O]` to `[..., A]`."""
    actions = sample(nets, policy.params, observation, count, key)
    if count == 1:
        return actions[0], {}
    return policies.take(actions, jnp.argmax(values(nets, policy.value, observation, actions), axis=0)), {}


def adopt_behaviour(state: State[Any, ActorState], other: Any) -> State[Any, ActorState]:
    """The behaviour of another run of EDA, which is where the policy begins, too."""
    behaviour = other.actor.behaviour
    learner = state.actor.learner.replace(params=behaviour.params)
    return state.replace(actor=state.actor.replace(learner=learner, behaviour=behaviour))


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Networks:
    """IQL's critic half and the LN-ResNet of IDQL with one output."""
    critic = iql.make_critic_networks(config, spec, axes)
    density = networks.make_log_density(spec, num_steps=config.diffusion_steps, **config.score_options())
    return Networks(critic, density, diffusion.vp_schedule(config.diffusion_steps), config, spec.action_size, axes)


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[iql.CriticState, ActorState, iql.Value, Policy]:
    """EDA for environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = make_networks(config, spec, axes)

    def init_actor(key: Key, hypers: Hypers) -> ActorState:
        learner = Learner.create(nets.density.init(key))
        return ActorState.create(hypers, learner, behaviour=learner)

    return iql.with_actor(
        nets.critic,
        Hypers,
        init_actor,
        policy_params=lambda actor, value: Policy(actor.learner.params, value),
        act=partial(act, nets, 1),
        act_greedy=partial(act, nets, config.num_samples),
        update_actor=partial(update_actor, nets),
        adopts={"behaviour": adopt_behaviour, "critic": iql.adopt_critic},
    )
