"""Parallel Q-learning (Li et al., arXiv 2307.12983): TD3's critics, or two categorical ones (PQL-D), for many envs.

There is no target actor, because the drivers hand the critics a policy that lags. Exploration noise is the driver's
(`noise_min`, `noise_max`), and so is the n-step window.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import optax

from rlx import categorical, halves, losses, networks, optim, parallel
from rlx.agents import td3
from rlx.types import COUNT, POSITIVE, SHARE, Spec, setting


@dataclass(frozen=True)
class Config(halves.Config):
    """Static (compile-time) configuration."""

    actor_hidden_sizes: tuple[int, ...] = setting((512, 256, 128), "widths of the actor's hidden layers", COUNT)
    critic_hidden_sizes: tuple[int, ...] = setting((512, 256, 128), "widths of every critic's hidden layers", COUNT)
    activation: str = setting("elu", "activation of the hidden layers", choices=networks.ACTIVATIONS)
    distributional: bool = setting(False, "PQL-D: critics are distributions over a fixed support")
    num_atoms: int = setting(51, "atoms of the support (distributional)", (2, COUNT[1]))


class Hypers(td3.Hypers):
    """Hyper-parameters, traced."""

    tau: float | jax.Array = setting(0.05, "Polyak step of the target critics towards the online ones", SHARE)
    actor_lr: float | jax.Array = setting(5e-4, "learning rate of the actor (AdamW)", POSITIVE)
    critic_lr: float | jax.Array = setting(5e-4, "learning rate of the critics (AdamW)", POSITIVE)
    weight_decay: float | jax.Array = setting(0.01, "weight decay of AdamW, per unit of learning rate", POSITIVE)
    max_gradient_norm: float | jax.Array = setting(0.5, "gradients are scaled down to this global norm", POSITIVE)
    target_noise: float | jax.Array = setting(0.8, "standard deviation of the noise on the target's actions", POSITIVE)
    max_target_noise: float | jax.Array = setting(0.2, "that noise is clipped to +- this", POSITIVE)
    v_min: float | jax.Array = setting(-10.0, "lowest atom, in scaled rewards (distributional)", below="v_max")
    v_max: float | jax.Array = setting(10.0, "highest atom, in scaled rewards (distributional)")


def optimizer(hypers: Hypers) -> optax.GradientTransformation:
    """AdamW behind a clip of the global norm; the state does not depend on the hyper-parameters."""
    return optim.make_optimizer("adamw", weight_decay=hypers.weight_decay, max_gradient_norm=hypers.max_gradient_norm)


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> td3.Networks:
    """Networks, targets and losses of PQL or, where `config.distributional`, of PQL-D."""
    critic = halves.make_critic(config, spec, axes, num_atoms=config.num_atoms if config.distributional else None)
    nets = td3.make_networks(config, spec, axes)._replace(
        critic=critic, published_critic=critic, optimizer=optimizer, target_actor=False
    )
    if not config.distributional:
        return nets
    return nets._replace(
        target=lambda next_logits, next_action, batch, hypers: categorical.target(next_logits, batch, hypers),
        regress=losses.cross_entropy_loss,
        values=categorical.values,
        report=categorical.report,
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> td3.DeterministicAgent:
    """PQL for environments of `spec`; gradients are averaged over the mapped `axes`."""
    return td3.assemble(
        make_networks(config, spec, axes), Hypers, critic_params=lambda critic: critic.learner.variables
    )
