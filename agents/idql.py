"""Implicit diffusion Q-learning (Hansen-Estruch et al., arXiv 2304.10573): IQL's critics and a model of the data.

The actor half, a diffusion model, learns which actions the data takes; the critics choose among actions that it draws.
Greedily the best is taken; to explore, one is drawn with the weights of the policy that the value loss implies.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode

from rlx import diffusion, losses, networks, parallel
from rlx.agents import iql
from rlx.errors import RlxError
from rlx.networks import Network
from rlx.optim import adam, cosine_decay, gradient_step
from rlx.types import POSITIVE, SHARE, Agent, Key, Metrics, Params, Spec, State, Transition, as_arrays, setting


@dataclass(frozen=True)
class Config(iql.CriticConfig):
    """What changes shapes and branches."""

    value_layer_norm: bool = setting(True, "LayerNorm in the value network")
    score_width: int = setting(256, "width of the score network; its blocks are four times as wide inside")
    score_blocks: int = setting(3, "residual blocks of the score network")
    time_features: int = setting(128, "Fourier features of the time in the score network, an even number")
    dropout: float = setting(0.1, "share of the score network's activations dropped in training")
    diffusion_steps: int = setting(5, "steps from noise to an action (T)")
    num_samples: int = setting(64, "actions drawn, of which the best is taken")
    explore_samples: int = setting(16, "actions drawn, of which one is drawn again to explore")

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ("score_width", "score_blocks", "diffusion_steps", "num_samples", "explore_samples")
        for name in (*counts, "time_features"):
            if getattr(self, name) < 1:
                raise RlxError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        if self.time_features % 2:
            raise RlxError(f"--time-features {self.time_features}: must be even, a cosine and a sine each")
        if not 0 <= self.dropout < 1:
            raise RlxError(f"--dropout {self.dropout}: must be at least 0 and under 1")


class Hypers(iql.CriticHypers):
    """Traced scalars."""

    weight_decay: float | jax.Array = setting(
        0.0, "weight decay of the actor's AdamW, per unit of learning rate", POSITIVE
    )
    ema: float | jax.Array = setting(
        0.001, "step of the averaged score network, which acts, towards the trained one", SHARE
    )


class ActorState(PyTreeNode):
    """The actor half."""

    params: Params
    ema_params: Params
    opt_state: optax.OptState
    step: jax.Array  # [] int32
    hypers: Hypers


class Policy(NamedTuple):
    """What acting needs."""

    ema_params: Params
    value: iql.Value
    hypers: Hypers


class Parts(NamedTuple):
    """The networks of both halves and the noise schedule."""

    critic: iql.CriticParts
    score: Network  # (params, observation [..., O], action [..., A], time [...], key=None) -> noise [..., A]
    schedule: diffusion.Schedule
    action_size: int
    decay: optax.Schedule  # factor on the learning rate
    axes: parallel.Axes


def optimizer(hypers: Hypers) -> optax.GradientTransformation:
    """AdamW; the state does not depend on the hyper-parameters."""
    return optax.chain(adam, optax.add_decayed_weights(hypers.weight_decay))


def actor_loss(params: Params, parts: Parts, transition: Transition, key: Key) -> tuple[jax.Array, Metrics]:
    """The error of the named noise on the data's actions (arXiv 2304.10573, eq. 10): scalar and metrics."""
    noise_key, dropout_key = jax.random.split(key)

    def epsilon(action: jax.Array, time: jax.Array) -> jax.Array:
        return parts.score.apply(params, transition.observation, action, time, dropout_key)

    loss = diffusion.epsilon_loss(parts.schedule, epsilon, transition.action, noise_key)
    return loss, {"actor_loss": loss}


def update_actor(
    parts: Parts, state: ActorState, value: iql.Value, transition: Transition, key: Key
) -> tuple[ActorState, Metrics]:
    """One step of the score network, then of its average. All data counts the same: `value` is not asked."""
    del value
    hypers = state.hypers

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        return actor_loss(params, parts, transition, key)

    step = gradient_step(loss, optimizer(hypers), parts.axes)
    params, opt_state, metrics = step(state.params, state.opt_state, hypers.actor_lr * parts.decay(state.step))
    ema_params = losses.polyak(state.ema_params, params, hypers.ema)
    return state.replace(params=params, ema_params=ema_params, opt_state=opt_state, step=state.step + 1), metrics


def init(parts: Parts, key: Key, hypers: Hypers | None = None) -> State[iql.CriticState, ActorState]:
    """A fresh agent."""
    hypers = as_arrays(hypers or Hypers())
    critic_key, actor_key = jax.random.split(key)
    params = parts.score.init(actor_key)
    actor = ActorState(params, params, optimizer(hypers).init(params), jnp.zeros((), jnp.int32), hypers)
    state = State(critic=iql.init_critic(parts.critic, critic_key, hypers), actor=actor)
    return jax.tree.map(jnp.copy, state)  # no two leaves share memory, so callers may donate it


def draw(
    parts: Parts, policy: Policy, observation: jax.Array, num_samples: int, key: Key
) -> tuple[jax.Array, jax.Array]:
    """Actions of the behaviour model, `[S, ..., A]`, and their advantages min Q' - V, `[S, ...]`."""

    def epsilon(action: jax.Array, time: jax.Array) -> jax.Array:
        return parts.score.apply(policy.ema_params, observation, action, time)

    batch = observation.shape[:-1]
    actions = diffusion.ddpm(parts.schedule, epsilon, (num_samples, *batch, parts.action_size), key)
    observations = jnp.broadcast_to(observation, (num_samples, *observation.shape))
    q = parts.critic.critic.apply(policy.value.target_params, observations, actions)
    return actions, jnp.min(q, axis=0) - parts.critic.value.apply(policy.value.value_params, observation)


def choose(actions: jax.Array, index: jax.Array) -> jax.Array:
    """Of actions `[S, ..., A]` those at `index` `[...]`: `[..., A]`."""
    return jnp.take_along_axis(actions, index[None, ..., None], axis=0)[0]


def act(
    parts: Parts, num_samples: int, policy: Policy, observation: jax.Array, key: Key
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A draw from the implicit policy, `[..., O]` to `[..., A]`: weights |f'(u)| / |u|, u the advantage."""
    draw_key, choice_key = jax.random.split(key)
    actions, u = draw(parts, policy, observation, num_samples, draw_key)
    weight = parts.critic.value_loss.weight(u, parts.critic.parameter(policy.hypers))
    return choose(actions, jax.random.categorical(choice_key, jnp.log(weight), axis=0)), {}


def act_greedy(
    parts: Parts, num_samples: int, policy: Policy, observation: jax.Array, key: Key
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The best of the behaviour model's actions by the smallest target critic; which are drawn depends on the key."""
    actions, u = draw(parts, policy, observation, num_samples, key)
    return choose(actions, jnp.argmax(u, axis=0)), {}


def make_parts(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Parts:
    """IQL's critic half, the LN-ResNet and the variance-preserving schedule."""
    return Parts(
        critic=iql.make_critic_parts(config, spec, axes),
        score=networks.make_score(
            spec,
            num_steps=config.diffusion_steps,
            width=config.score_width,
            num_blocks=config.score_blocks,
            dropout=config.dropout,
            time_features=config.time_features,
        ),
        schedule=diffusion.vp_schedule(config.diffusion_steps),
        decay=cosine_decay(config.actor_decay_steps),
        action_size=spec.action_size,
        axes=axes,
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[iql.CriticState, ActorState, iql.Value, Policy]:
    """IDQL for environments of `spec`; gradients are averaged over the mapped `axes`."""
    parts = make_parts(config, spec, axes)
    return Agent(
        init=partial(init, parts),
        critic_params=lambda critic: iql.Value(critic.target_params, critic.value_params),
        policy_params=lambda actor, critic_params: Policy(actor.ema_params, critic_params, actor.hypers),
        actor_reads=("observation", "action"),
        act=partial(act, parts, config.explore_samples),
        act_greedy=partial(act_greedy, parts, config.num_samples),
        update_critic=partial(iql.update_critic, parts.critic),
        update_actor=partial(update_actor, parts),
    )


PRESETS: dict[str, dict[str, Any]] = {
    "*": iql.OFFLINE | {"batch_size": 512},
    "*@locomotion": {"expectile": 0.7, "scale_rewards": "range"},
    "*@antmaze": {"expectile": 0.9, "reward_shift": -1.0},
    "*@small": {
        "critic_hidden_sizes": (64, 64),
        "score_width": 64,
        "time_features": 32,
        "ema": 0.005,
        "batch_size": 256,
        "offline_steps": 50_000,
    },
}
