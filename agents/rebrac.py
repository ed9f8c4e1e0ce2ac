"""ReBRAC (Tarasov et al., arXiv 2305.09836): TD3 with separate penalties for leaving the data, of actor and critics."""

from __future__ import annotations

from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp

from rlx import losses, parallel
from rlx.agents import td3
from rlx.types import COUNT, POSITIVE, Metrics, Read, Spec, Transition, setting


@dataclass(frozen=True)
class Config(td3.Config):
    """Static (compile-time) configuration."""

    actor_hidden_sizes: tuple[int, ...] = setting((256, 256, 256), "widths of the actor's hidden layers", COUNT)
    critic_hidden_sizes: tuple[int, ...] = setting((256, 256, 256), "widths of every critic's hidden layers", COUNT)
    layer_norm: bool = setting(True, "LayerNorm in the critics")


class Hypers(td3.Hypers):
    """Hyper-parameters, traced."""

    actor_lr: float | jax.Array = setting(1e-3, "learning rate of the actor (Adam)", POSITIVE)
    critic_lr: float | jax.Array = setting(1e-3, "learning rate of the critics (Adam)", POSITIVE)
    actor_penalty: float | jax.Array = setting(
        1.0, "weight of the squared distance from the data's action in the actor's loss (beta_1)", POSITIVE
    )
    critic_penalty: float | jax.Array = setting(
        1.0, "weight of the squared distance from the data's next action in the critics' target (beta_2)", POSITIVE
    )


def distance(action: jax.Array, other: jax.Array) -> jax.Array:
    """Squared distance of actions, `[B, A]` -> `[B]`: the sum over dimensions, as in its authors' code."""
    chex.assert_equal_shape([action, other])
    return jnp.sum(jnp.square(action - other), axis=-1)


def penalised_target(next_q: jax.Array, next_action: jax.Array, batch: Transition, hypers: Hypers) -> jax.Array:
    """r + gamma d (min Q' - beta_2 |a' - the data's next action|^2), `[N, B]` -> `[B]` (arXiv 2305.09836, eq. 5)."""
    penalty = hypers.critic_penalty * distance(next_action, batch.extras["next_action"])
    return td3.clipped_double_q(next_q - penalty[None], next_action, batch, hypers)


def actor_loss(q: jax.Array, action: jax.Array, batch: Transition, hypers: Hypers) -> tuple[jax.Array, Metrics]:
    """beta_1 |pi(s) - a|^2 - lambda min Q(s, pi(s)), lambda = 1 / mean|min Q|, `q` [B]: scalar and metrics.

    ArXiv 2305.09836, eq. 4, with lambda and the minimum over critics of its authors' code.
    """
    cloning = distance(action, batch.action).mean()
    loss = hypers.actor_penalty * cloning - losses.td3_bc_lambda(q, 1.0) * q.mean()
    return loss, {"actor_loss": loss, "cloning_loss": cloning}


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> td3.Networks:
    """TD3's, with the losses above, and an actor that climbs the lower of the critics."""
    nets = td3.make_networks(config, spec, axes, config.policy_delay)
    return nets._replace(published_critic=nets.critic, target=penalised_target, actor_loss=actor_loss)


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> td3.DeterministicAgent:
    """ReBRAC for environments of `spec`; gradients are averaged over the mapped `axes`.

    Where an episode ended, the data has no next action, and the row's own stands for it (rule "next").
    """
    agent = td3.assemble(
        make_networks(config, spec, axes),
        Hypers,
        critic_params=lambda critic: critic.learner.variables,
        actor_reads=("observation", "action"),
    )
    return agent._replace(reads={"next_action": Read("action", "next")})
