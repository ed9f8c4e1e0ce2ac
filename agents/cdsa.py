"""Conservative denoising score-based algorithm (CDSA; Liu et al., arXiv 2406.07541): a policy, corrected.

A diffusion model learns how dense the data is at a pair of observation and action. The policy of another run, of any
agent with continuous actions, `--init-from policy=RUN`, stays as it is, and each of its actions makes a few steps up
that density. Without one, they climb from the middle of the actions. The correction by the observation's slope, which
needs a model of the dynamics, is not part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx import agents, diffusion, halves, networks, parallel
from rlx.errors import RlxError
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.optim import Learner
from rlx.types import COUNT, POSITIVE, SHARE, Agent, Key, Metrics, Params, Spec, State, Transition, setting


@dataclass(frozen=True)
class Config(halves.ScoreConfig):
    """Static (compile-time) configuration."""

    policy: str = setting(
        "", "agent and settings of the corrected policy, as --init-from policy=RUN writes them down", describes="policy"
    )
    diffusion_steps: int = setting(100, "noise levels of the diffusion model (T)", COUNT)
    correction_steps: int = setting(20, "steps that every action makes up the density", COUNT)


class Hypers(halves.ImitationHypers):
    """Hyper-parameters, traced."""

    actor_lr: float | jax.Array = setting(3e-4, "learning rate of the score network (Adam)", POSITIVE)
    correction_rate: float | jax.Array = setting(
        0.3, "share of the way to the mean of the data near an action that a step makes; 0: no correction", SHARE
    )
    correction_noise: float | jax.Array = setting(
        0.1, "how near that is: deviation of the noise, in units of actions and normalised observations", POSITIVE
    )


class ActorState(HalfState):
    """The actor half: the learner is the score network's."""

    original: Any  # what the corrected policy acts with; None without one


class Policy(NamedTuple):
    """What acting reads."""

    original: Any
    score: Params
    hypers: Any


class Networks(NamedTuple):
    """The diffusion model of observations and actions."""

    score: Network  # (params, observation [B, O], action [B, A], time [B]) -> noise in both [B, O + A]
    schedule: diffusion.Schedule
    spec: Spec
    config: Config
    axes: parallel.Axes


def join(spec: Spec, observation: jax.Array, action: jax.Array) -> jax.Array:
    """The data's point `[..., O + A]`: what policies read of an observation `[..., O]`, and the action."""
    return jnp.concatenate([spec.actor_observation(observation), action], axis=-1)


def noise_of(nets: Networks, params: Params) -> diffusion.Epsilon:
    """The noise that the network sees in points `[..., O + A]`."""

    def epsilon(point: jax.Array, time: jax.Array) -> jax.Array:
        observation, action = jnp.split(point, [nets.spec.actor_size], axis=-1)
        return nets.score.apply(params, nets.spec.of_actor(observation), action, time)

    return epsilon


def correct(nets: Networks, policy: Policy, observation: jax.Array, action: jax.Array) -> jax.Array:
    """Actions `[..., A]` after `correction_steps` steps `a + rate (E[a' | (s, a) is a noisy (s', a')] - a)`, clipped.

    By Tweedie's formula the bracket is the noise's variance times the slope of the noisy data's log-density in a.
    """
    rate, schedule, epsilon = policy.hypers.correction_rate, nets.schedule, noise_of(nets, policy.score)
    level = diffusion.time_of_noise(schedule, policy.hypers.correction_noise)
    time, scale = jnp.broadcast_to(level, action.shape[:-1]), jnp.sqrt(jnp.asarray(schedule.alpha_bar)[level])

    def step(_: Any, action: jax.Array) -> jax.Array:
        noisy = scale * join(nets.spec, observation, action)  # as `add_noise` scales it
        clean = diffusion.remove_noise(schedule, noisy, time, epsilon(noisy, time))
        mean = clean[..., nets.spec.actor_size :]
        return jnp.clip(action + rate * (mean - action), -1.0, 1.0).astype(action.dtype)

    corrected: jax.Array = jax.lax.fori_loop(0, nets.config.correction_steps, step, action)
    return corrected


def act(nets: Networks, original: Callable[..., Any], policy: Policy, observation: jax.Array, *rest: Any) -> Any:
    """The original's action, corrected, `[..., O]` to `[..., A]`; `rest` is a key and, where it has one, its state."""
    action, _, *state = original(policy.original, observation, *rest)
    return correct(nets, policy, observation, action), {}, *state


def update_actor(
    nets: Networks, state: ActorState, published: None, batch: Transition, key: Key
) -> tuple[ActorState, Metrics]:
    """The score network down its loss on the data's pairs of observation and action."""
    del published
    pairs = join(nets.spec, batch.observation, batch.action)
    denoising = diffusion.objective(nets.schedule, partial(noise_of, nets), pairs, key)
    score, metrics = state.learner.step(denoising, state.hypers.actor_lr, nets.axes)
    return state.advance(learner=score), metrics


def make_original(config: Config, spec: Spec) -> Agent[Any, Any, Any, Any]:
    """The agent in `config.policy`, or one that acts with 0. Raises RlxError for one with discrete actions."""
    if config.policy:
        name, network = agents.from_text("--policy", config.policy)
        agent: Agent[Any, Any, Any, Any] = agents.load(name).make(network, spec)
        if agent.discrete:
            raise RlxError(f"--init-from policy=RUN: cdsa corrects continuous actions, and {name} has discrete ones")
        return agent

    def middle(params: None, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
        return jnp.zeros((*observation.shape[:-1], spec.action_size), spec.action.dtype), {}

    return Agent(
        init=halves.make_init(Hypers, None, lambda key, hypers: HalfState.create(hypers, None)),
        policy_params=lambda actor, _: None,
        act=middle,
        act_greedy=middle,
        update_actor=lambda actor, *_: (actor.advance(), {}),
        **halves.NO_CRITIC,
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[HalfState, ActorState, None, Policy]:
    """CDSA for environments of `spec`; gradients are averaged over the mapped `axes`."""
    size, original = spec.actor_size + spec.action_size, make_original(config, spec)
    options = config.score_options() | {"output_size": size, "dropout": 0.0}
    score = networks.make_score(spec, num_steps=config.diffusion_steps, **options)
    nets = Networks(score, diffusion.vp_schedule(config.diffusion_steps), spec, config, axes)

    def init_actor(key: Key, hypers: Hypers) -> ActorState:
        policy = original.acting_params(original.init(jax.random.fold_in(key, 1)))
        return ActorState.create(hypers, Learner.create(score.init(key)), original=policy)

    def adopt_policy(state: State[Any, ActorState], other: Any) -> State[Any, ActorState]:
        return state.replace(actor=state.actor.replace(original=original.acting_params(other)))

    return Agent(
        init=halves.make_init(Hypers, None, init_actor),
        policy_params=lambda actor, _: Policy(actor.original, actor.learner.params, actor.hypers),
        act=partial(act, nets, original.act),
        act_greedy=partial(act, nets, original.act_greedy),
        update_actor=partial(update_actor, nets),
        actor_reads=("observation", "action"),
        carry=original.carry,
        noise=original.noise,
        keeps_statistics=bool(config.policy),
        adopts={"policy": adopt_policy},
        **halves.NO_CRITIC,
    )
