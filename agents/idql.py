"""Implicit diffusion Q-learning (Hansen-Estruch et al., arXiv 2304.10573): IQL's critics and a model of the data.

The actor half, a diffusion model, learns which actions the data takes; the critics choose among its samples. Greedily
the best is taken; to explore, one is chosen with the weights of the policy that the value loss implies. IFQL exchanges
the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlx import diffusion, halves, networks, optim, parallel, policies
from rlx.agents import iql
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.optim import Learner, make_schedule
from rlx.types import COUNT, POSITIVE, SHARE, Agent, Key, Metrics, Params, Spec, Transition, setting


@dataclass(frozen=True)
class Config(halves.ScoreConfig, iql.CriticConfig):
    """Static (compile-time) configuration."""

    value_layer_norm: bool = setting(True, "LayerNorm on the observation in the value network")
    dropout: float = setting(0.1, "share of the score network's activations dropped in training", (0.0, 0.999))
    diffusion_steps: int = setting(5, "steps from noise to an action (T)", COUNT)
    num_samples: int = setting(64, "candidate actions, of which the best is taken", COUNT)
    explore_samples: int = setting(16, "candidates when exploring, of which one is taken at random, by weight", COUNT)


class Hypers(iql.CriticHypers):
    """Hyper-parameters, traced."""

    weight_decay: float | jax.Array = setting(0.0, "weight decay of the actor, per unit of learning rate", POSITIVE)
    ema: float | jax.Array = setting(0.001, "step of the averaged score network, which acts, to the trained one", SHARE)


class Policy(NamedTuple):
    """What acting reads."""

    model_params: Params  # averaged, where the model has an average
    value: iql.Value
    hypers: Any


class Networks(NamedTuple):
    """The critics, and the model of the data's actions."""

    critic: iql.CriticNetworks
    init_model: Callable[[Key], Params]
    imitation_loss: Callable[[Params, Transition, Key], jax.Array]  # (params, batch, key) -> []
    sample: Callable[[Params, jax.Array, int, Key], jax.Array]  # (params, observation [..., O], S) -> [S, ..., A]
    optimizer: Callable[[Any], optax.GradientTransformation]
    average: Callable[[Any], jax.Array] | None  # hypers -> step of an averaged model, which acts, to the trained one
    decay: optax.Schedule  # factor on the learning rate
    axes: parallel.Axes


def noise_prediction(
    score: Network, schedule: diffusion.Schedule, params: Params, batch: Transition, key: Key
) -> jax.Array:
    """The score network's loss, [] (arXiv 2304.10573, eq. 10)."""
    noise_key, dropout_key = jax.random.split(key)
    predict = partial(score.apply, params, batch.observation, key=dropout_key)
    return diffusion.epsilon_loss(schedule, predict, batch.action, noise_key)[0]


def denoise(
    score: Network,
    schedule: diffusion.Schedule,
    action_size: int,
    params: Params,
    observation: jax.Array,
    count: int,
    key: Key,
) -> jax.Array:
    """`count` actions for each observation `[..., O]`: `[count, ..., A]`."""
    predict = partial(score.apply, params, observation)
    return diffusion.ddpm(schedule, predict, (count, *observation.shape[:-1], action_size), key)


def update_actor(
    nets: Networks, state: HalfState, published: iql.Value, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """The model down its loss, then its average, where there is one, towards it."""
    del published  # all data counts the same

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        loss = nets.imitation_loss(params, batch, key)
        return loss, {"actor_loss": loss}

    hypers, rate = state.hypers, state.hypers.actor_lr * nets.decay(state.step)
    tau = None if nets.average is None else nets.average(hypers)
    model, metrics = state.learner.step(loss, rate, nets.axes, tau=tau, optimizer=nets.optimizer(hypers))
    return state.advance(learner=model), metrics


def act(
    nets: Networks, num_samples: int, greedy: bool, policy: Policy, observation: jax.Array, key: Key
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Of samples of the data's model the best by u = min Q' - V or, to explore, one with weights |f'(u)| / |u|."""
    sample_key, choice_key = jax.random.split(key)
    actions = nets.sample(policy.model_params, observation, num_samples, sample_key)
    observations = jnp.broadcast_to(observation, (num_samples, *observation.shape))
    q = nets.critic.critic.apply(policy.value.target_params, observations, actions)
    value = nets.critic.value.apply(policy.value.value_params, observation)
    u = nets.critic.reduce(q, policy.hypers) - value[None]
    weight = nets.critic.value_loss.weight(u, nets.critic.parameter(policy.hypers))
    chosen = jnp.argmax(u, axis=0) if greedy else jax.random.categorical(choice_key, jnp.log(weight), axis=0)
    return policies.take(actions, chosen), {}


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Networks:
    """IQL's critic half, the LN-ResNet and the variance-preserving schedule."""
    options = config.network_options() | {"input_layer_norm": config.value_layer_norm}
    value = networks.make_value(spec, config.critic_hidden_sizes, **options)
    score = networks.make_score(
        spec,
        num_steps=config.diffusion_steps,
        dropout=config.dropout,
        **config.score_options(),
    )
    schedule = diffusion.vp_schedule(config.diffusion_steps)
    return Networks(
        critic=iql.make_critic_networks(config, spec, axes)._replace(value=value),
        init_model=score.init,
        imitation_loss=partial(noise_prediction, score, schedule),
        sample=partial(denoise, score, schedule, spec.action_size),
        optimizer=lambda hypers: optim.make_optimizer("adamw", weight_decay=hypers.weight_decay),
        average=lambda hypers: hypers.ema,
        decay=make_schedule("cosine", config.actor_decay_steps),
        axes=axes,
    )


def assemble(
    nets: Networks, defaults: type[Any], num_samples: int, explore_samples: int
) -> Agent[iql.CriticState, HalfState, iql.Value, Policy]:
    """The agent with these networks, which chooses among so many samples; with 0 to explore, it acts greedily."""

    def init_actor(key: Key, hypers: Any) -> HalfState:
        averaged = nets.average is not None
        return HalfState.create(hypers, Learner.create(nets.init_model(key), nets.optimizer(hypers), averaged))

    def policy_params(actor: HalfState, value: iql.Value) -> Policy:
        model = actor.learner.params if nets.average is None else actor.learner.target_params
        return Policy(model, value, actor.hypers)

    act_greedy = partial(act, nets, num_samples, True)
    return iql.with_actor(
        nets.critic,
        defaults,
        init_actor,
        policy_params=policy_params,
        act=partial(act, nets, explore_samples, False) if explore_samples else act_greedy,
        act_greedy=act_greedy,
        update_actor=partial(update_actor, nets),
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[iql.CriticState, HalfState, iql.Value, Policy]:
    """IDQL for environments of `spec`; gradients are averaged over the mapped `axes`."""
    return assemble(make_networks(config, spec, axes), Hypers, config.num_samples, config.explore_samples)
