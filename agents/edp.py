"""Efficient diffusion policy (Kang et al., arXiv 2305.20081): a diffusion policy climbs Q through one denoising step.

The policy's action is approximated from one noisy action of the data, so no chain is differentiated, nor run, in the
actor's update. The chain is run in acting and in the critics' targets, by a few steps of DDIM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx import diffusion, halves, losses, networks, parallel, policies
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.optim import Learner
from rlx.types import COUNT, POSITIVE, SHARE, Agent, Key, Metrics, Params, Spec, Transition, setting


@dataclass(frozen=True)
class PolicyConfig(halves.ScoreConfig, halves.CriticConfig):
    """Static (compile-time) configuration of a diffusion policy and the critics that it climbs."""

    critic_hidden_sizes: tuple[int, ...] = setting((256,) * 3, "hidden layers of every critic", COUNT)
    diffusion_steps: int = setting(100, "steps from noise to an action (K)", COUNT)
    num_samples: int = setting(50, "candidates of a greedy action, of which one is taken with weights exp(Q)", COUNT)


@dataclass(frozen=True)
class Config(PolicyConfig):
    """Static (compile-time) configuration."""

    solver_steps: int = setting(15, "of which acting and targets take so many", COUNT, up_to="diffusion_steps")


class Hypers(halves.Hypers):
    """Hyper-parameters, traced."""

    q_weight: float | jax.Array = setting(2.0, "weight of the value against denoising (alpha)", POSITIVE)
    ema: float | jax.Array = setting(0.001, "step of the averaged policy, which the critics' targets follow", SHARE)


class Policy(NamedTuple):
    """What acting and the critic half read."""

    params: Params
    target_params: Params  # averaged
    critic_params: Params


class Networks(NamedTuple):
    """The networks, and the noise that the policy removes."""

    score: Network  # (params, observation [..., O], action [..., A], time [...]) -> noise [..., A]
    critic: Network  # (params, observation [B, O], action [B, A]) -> [N, B]
    schedule: diffusion.Schedule
    chain: Callable[[diffusion.Epsilon, tuple[int, ...], Key], jax.Array]  # (epsilon, shape, key) -> actions of shape
    # (networks, params, observation [B, O], what denoising saw, key) -> the policy's action [B, A], which climbs Q
    climber: Callable[[Any, Params, jax.Array, diffusion.Prediction, Key], jax.Array]
    scaled_by: int  # the size of values that lambda divides by is of the drawn critic (0) or of so many after it
    config: PolicyConfig
    action_size: int
    axes: parallel.Axes


def sample(nets: Networks, params: Params, observation: jax.Array, key: Key, count: tuple[int, ...] = ()) -> jax.Array:
    """Actions `[*count, ..., A]` of the policy at observations `[..., O]`."""
    shape = (*count, *observation.shape[:-1], nets.action_size)
    return nets.chain(partial(nets.score.apply, params, observation), shape, key)


def act(nets: Networks, policy: Policy, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A sample of the policy, `[..., O]` to `[..., A]`."""
    return sample(nets, policy.params, observation, key), {}


def act_greedy(
    nets: Networks, policy: Policy, observation: jax.Array, key: Key
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Of `num_samples` samples one with weights exp(min Q): arXiv 2305.20081's energy-based action selection."""
    sample_key, choice_key = jax.random.split(key)
    count = nets.config.num_samples
    actions = sample(nets, policy.params, observation, sample_key, (count,))
    observations = jnp.broadcast_to(observation, (count, *observation.shape))
    q = nets.critic.apply(policy.critic_params, observations, actions).min(axis=0)
    chosen = jax.random.categorical(choice_key, q, axis=0)
    return policies.take(actions, chosen), {}


def approximated_action(
    nets: Networks, params: Params, observation: jax.Array, guess: diffusion.Prediction, key: Key
) -> jax.Array:
    """The action that one step makes of a noisy one of the data, clipped (arXiv 2305.20081, eq. 10)."""
    del params, observation, key
    return jnp.clip(diffusion.remove_noise(nets.schedule, guess.noisy, guess.time, guess.predicted), -1.0, 1.0)


def update_critic(
    nets: Networks, state: HalfState, policy: Policy, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """All critics towards r + gamma d min Q' at an action of the averaged policy, then their targets."""
    sample_key, dropout_key = jax.random.split(key)
    next_action = sample(nets, policy.target_params, batch.next_observation, sample_key)
    return halves.update_double_q(state, nets.critic, batch, next_action, dropout_key, nets.axes)


def update_actor(
    nets: Networks, state: HalfState, critic_params: Params, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """Down denoising - lambda Q of the approximated action (arXiv 2305.20081, section 4), then the average towards it.

    Denoising is a mean over the action's dimensions; Q is one critic's, drawn for each minibatch, as in the authors'
    code.
    """
    noise_key, critic_key, dropout_key = jax.random.split(key, 3)
    critic, count = nets.critic.with_dropout(dropout_key, 0), nets.config.num_critics
    which = jax.random.randint(critic_key, (), 0, count)

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        epsilon = partial(nets.score.apply, params, batch.observation)
        summed, guess = diffusion.epsilon_loss(nets.schedule, epsilon, batch.action, noise_key)
        action = nets.climber(nets, params, batch.observation, guess, jax.random.fold_in(key, 3))
        q = critic(critic_params, batch.observation, action)
        weight = losses.td3_bc_lambda(q[(which + nets.scaled_by) % count], state.hypers.q_weight)
        denoising = summed / nets.action_size
        value = denoising - weight * q[which].mean()
        return value, {"actor_loss": value, "denoising_loss": denoising}

    actor, metrics = state.learner.step(loss, state.hypers.actor_lr, nets.axes, tau=state.hypers.ema)
    return state.advance(learner=actor), metrics


def make_networks(config: PolicyConfig, spec: Spec, axes: parallel.Axes, chain: Callable[..., jax.Array]) -> Networks:
    """IDQL's score network without dropout, clipped double Q and the variance-preserving schedule.

    `chain(schedule, epsilon, shape, key)` makes actions of noise.
    """
    schedule = diffusion.vp_schedule(config.diffusion_steps)
    return Networks(
        score=networks.make_score(spec, num_steps=config.diffusion_steps, dropout=0.0, **config.score_options()),
        critic=halves.make_critic(config, spec, axes),
        schedule=schedule,
        chain=partial(chain, schedule),
        climber=approximated_action,
        scaled_by=0,
        config=config,
        action_size=spec.action_size,
        axes=axes,
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[HalfState, HalfState, Params, Policy]:
    """EDP for environments of `spec`; gradients are averaged over the mapped `axes`."""

    def chain(schedule: diffusion.Schedule, epsilon: diffusion.Epsilon, shape: tuple[int, ...], key: Key) -> jax.Array:
        noise = jax.random.normal(key, shape, jnp.float32)
        return diffusion.ddim(schedule, epsilon, noise, config.solver_steps, bound=1.0)

    return assemble(make_networks(config, spec, axes, chain))


def assemble(nets: Networks, defaults: type[Hypers] = Hypers) -> Agent[HalfState, HalfState, Params, Policy]:
    """The agent with these networks; `defaults` are a variant's hyper-parameters."""

    def policy_params(actor: HalfState, critic_params: Params) -> Policy:
        learner: Learner = actor.learner
        return Policy(learner.params, learner.target_params, critic_params)

    init_critic, init_actor = (halves.init_half(network, target=True) for network in (nets.critic, nets.score))
    return Agent(
        init=halves.make_init(defaults, init_critic, init_actor),
        critic_params=lambda critic: critic.learner.variables,
        policy_params=policy_params,
        actor_reads=("observation", "action"),
        act=partial(act, nets),
        act_greedy=partial(act_greedy, nets),
        update_critic=partial(update_critic, nets),
        update_actor=partial(update_actor, nets),
        q_value=lambda critic, *inputs: nets.critic.apply(critic.learner.variables, *inputs).min(axis=0),
    )
