"""FastTD3 (Seo et al., arXiv 2505.22642): TD3 with categorical critics for very many environments.

There is no target actor. The delay of the policy is the driver's ratio, 2:1. Exploration noise is the agent's: each
environment draws its standard deviation anew for every episode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlx import categorical, halves, losses, optim, parallel, policies
from rlx.agents import td3
from rlx.types import COUNT, POSITIVE, SHARE, Key, Params, Spec, Transition, setting


@dataclass(frozen=True)
class Config(halves.Config):
    """Static (compile-time) configuration."""

    actor_hidden_sizes: tuple[int, ...] = setting((512, 256, 128), "widths of the actor's hidden layers", COUNT)
    critic_hidden_sizes: tuple[int, ...] = setting((1024, 512, 256), "widths of every critic's hidden layers", COUNT)
    num_atoms: int = setting(101, "atoms of the critics' support", (2, COUNT[1]))
    clipped_double_q: bool = setting(
        True, "targets are of the critic with the lower mean, and the actor climbs the lower value; else each its own"
    )


class Hypers(td3.Hypers):
    """Hyper-parameters, traced."""

    tau: float | jax.Array = setting(0.1, "Polyak step of the target critics towards the online ones", SHARE)
    weight_decay: float | jax.Array = setting(
        0.1, "weight decay of AdamW, per unit of learning rate, of all parameters", POSITIVE
    )
    target_noise: float | jax.Array = setting(
        0.001, "standard deviation of the noise on the target's actions", POSITIVE
    )
    explore_min: float | jax.Array = setting(
        0.001, "least deviation of exploration noise; each episode draws its own", POSITIVE, up_to="explore_max"
    )
    explore_max: float | jax.Array = setting(0.4, "largest deviation of exploration noise", POSITIVE)
    v_min: float | jax.Array = setting(-10.0, "lowest atom, in scaled rewards", below="v_max")
    v_max: float | jax.Array = setting(10.0, "highest atom, in scaled rewards")


class Policy(NamedTuple):
    """What acting and the critic half read."""

    params: Params
    scales: jax.Array  # [2], least and largest deviation of exploration noise


def optimizer(hypers: Hypers) -> optax.GradientTransformation:
    """AdamW; the state does not depend on the hyper-parameters."""
    return optim.make_optimizer("adamw", weight_decay=hypers.weight_decay)


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> td3.Networks:
    """TD3's parts with categorical critics, whose target critics take the actor itself."""
    critic, each = halves.make_critic(config, spec, axes, num_atoms=config.num_atoms), not config.clipped_double_q

    def target(next_logits: jax.Array, next_action: jax.Array, batch: Transition, hypers: Any) -> jax.Array:
        del next_action
        return categorical.target(next_logits, batch, hypers, each=each)

    return td3.make_networks(config, spec, axes)._replace(
        critic=critic,
        published_critic=critic,
        target=target,
        regress=losses.cross_entropy_loss,
        values=categorical.values,
        report=categorical.report,
        reduce=(lambda values: values.mean(axis=0)) if each else losses.ensemble_min,
        optimizer=optimizer,
        target_actor=False,
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> td3.DeterministicAgent:
    """FastTD3 for environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = make_networks(config, spec, axes)

    def act(policy: Policy, observation: jax.Array, key: Key, scale: jax.Array) -> tuple[Any, ...]:
        action, scale = policies.with_own_noise(nets.actor.apply(policy.params, observation), scale, policy.scales, key)
        return action, {}, scale

    def acting_params(actor: halves.HalfState, critic_params: Params) -> Any:
        del critic_params
        hypers = actor.hypers
        return Policy(actor.learner.params, jnp.stack([hypers.explore_min, hypers.explore_max]))

    agent = td3.assemble(nets, Hypers, critic_params=lambda critic: critic.learner.variables)
    return agent._replace(act=act, noise=policies.no_scale_yet, policy_params=acting_params)
