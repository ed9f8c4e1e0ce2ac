"""ODICE (Mao et al., arXiv 2402.00348): a dual value whose two gradients do not conflict, and weighted imitation.

The loss (1 - lambda) E[V] + lambda E[f*(r + gamma V' - V)] has a gradient through V and one through V'. Of the latter
only the part that is orthogonal to the former is followed. f is Pearson's chi-squared divergence, f(x) = (x - 1)^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlx import halves, networks, parallel, replay
from rlx.agents import iql
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.types import COUNT, POSITIVE, SHARE, Agent, Key, Metrics, Params, Spec, Transition, setting

WEIGHTS = {"ratio": lambda u: u / 2 + 1, "residual": lambda u: u}  # before they are cut at 0 and 100


@dataclass(frozen=True)
class Config(halves.NetworkConfig):
    """Static (compile-time) configuration."""

    actor_hidden_sizes: tuple[int, ...] = setting((256, 256), "widths of the policy's hidden layers", COUNT)
    critic_hidden_sizes: tuple[int, ...] = setting((256, 256), "widths of the value network's hidden layers", COUNT)
    value_layer_norm: bool = setting(True, "LayerNorm in the value network")
    weights: str = setting(
        "ratio",
        "weights of imitation, of the residual u: ratio, u / 2 + 1, as the paper has it; residual, u, as its code",
        choices=WEIGHTS,
    )
    actor_decay_steps: int = halves.decay_steps(-1)


class Hypers(halves.Hypers):
    """Hyper-parameters, traced."""

    dual: float | jax.Array = setting(0.8, "weight of the conjugate against the value itself (lambda)", SHARE)
    backward: float | jax.Array = setting(1.0, "weight of the gradient through the next value (eta)", POSITIVE)
    actor_lr: float | jax.Array = setting(1e-4, "learning rate of the actor (Adam)", POSITIVE)
    critic_lr: float | jax.Array = setting(1e-4, "learning rate of the value network (Adam)", POSITIVE)


class Value(NamedTuple):
    """What the critic half publishes."""

    params: Params
    target_params: Params


def conjugate(u: jax.Array) -> jax.Array:
    """f*(u) over ratios w >= 0: u w - (w - 1)^2 at w = max(u / 2 + 1, 0)."""
    w = jnp.maximum(u / 2 + 1, 0.0)
    return u * w - jnp.square(w - 1)


def residual(value: jax.Array, next_value: jax.Array, batch: Transition, hypers: Hypers) -> jax.Array:
    """r + gamma d V' - V, with gradients through both, `[B]`."""
    return hypers.reward_scale * batch.reward + hypers.gamma * batch.discount * next_value - value


def orthogonal_gradient(
    value: Network, state: HalfState, batch: Transition, axes: parallel.Axes
) -> tuple[Params, Metrics]:
    """The gradient that V follows (arXiv 2402.00348, section 3), and metrics; averaged over `axes` before it is cut."""
    hypers, target_params = state.hypers, state.learner.target_params
    of, of_next = (
        partial(lambda o, params: value.apply(params, o), o) for o in (batch.observation, batch.next_observation)
    )

    def forward(params: Params) -> tuple[jax.Array, jax.Array]:
        u = residual(of(params), of_next(target_params), batch, hypers)
        return hypers.dual * conjugate(u).mean(), u

    def backward(params: Params) -> jax.Array:
        u = residual(of(target_params), of_next(params), batch, hypers)
        return hypers.dual * hypers.backward * conjugate(u).mean()

    def linear(params: Params) -> jax.Array:
        return (1 - hypers.dual) * of(params).mean()

    params = parallel.varying(state.learner.params, axes)
    (dual, u), through_v = jax.value_and_grad(forward, has_aux=True)(params)
    through_next, (mean, of_mean) = jax.grad(backward)(params), jax.value_and_grad(linear)(params)
    metrics = {"value_loss": dual + mean, "v_mean": of(params).mean(), "residual_mean": u.mean()}
    through_v, through_next, of_mean, metrics = parallel.mean((through_v, through_next, of_mean, metrics), axes)
    along = optax.tree.vdot(through_v, through_next) / jnp.maximum(optax.tree.vdot(through_v, through_v), 1e-10)
    gradient = jax.tree.map(lambda v, n, m: (1 - along) * v + n + m, through_v, through_next, of_mean)
    return gradient, metrics | {"conflict": -along}


def update_critic(
    value: Network, axes: parallel.Axes, state: HalfState, policy: Any, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """V along the orthogonal gradient, then its target network towards it."""
    del policy, key
    gradient, metrics = orthogonal_gradient(value, state, batch, axes)

    def loss(params: Params) -> tuple[jax.Array, Metrics]:  # linear: its gradient is the one above
        return optax.tree.vdot(gradient, params), metrics

    learner, metrics = state.learner.step(loss, state.hypers.critic_lr, axes, tau=state.hypers.tau)
    return state.advance(learner=learner), metrics


def imitation_weights(value: Network, weights: str, published: Value, batch: Transition, hypers: Hypers) -> jax.Array:
    """The ratio of the residual between 0 and 100, `[B]` (arXiv 2402.00348, section 2)."""
    v = value.apply(published.params, batch.observation)
    next_v = value.apply(published.target_params, batch.next_observation)
    u = residual(v, next_v, batch, hypers)
    return jax.lax.stop_gradient(jnp.clip(WEIGHTS[weights](u), 0.0, 100.0))


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[HalfState, HalfState, Value, Params]:
    """ODICE for environments of `spec`; gradients are averaged over the mapped `axes`."""
    options = config.network_options() | {"layer_norm": config.value_layer_norm}
    value = networks.make_value(spec, config.critic_hidden_sizes, **options)
    agent = iql.assemble(
        iql.make_actor_networks(config, spec, axes, partial(imitation_weights, value, config.weights)),
        Hypers,
        init_critic=halves.init_half(value, target=True),
        update_critic=partial(update_critic, value, axes),
        critic_params=lambda critic: Value(critic.learner.params, critic.learner.target_params),
    )
    return agent._replace(actor_reads=replay.FIELDS)
