"""PPO-EWMA (Hilton et al., arXiv 2110.00641): PPO whose proximal policy is an average of the actor's weights.

PPO's behaviour policy has two uses: importance ratios are taken to it, and the actor must stay near it. Here an
average of recent weights takes the second, so that neither the age of the data nor the size of batches changes it.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlx import optim, parallel, policies
from rlx.agents import ppo
from rlx.types import Key, Spec, Transition, setting

Config = ppo.Config
MAX_LOG_WEIGHT = math.log(100)  # of a row, as in the authors' code


class Hypers(ppo.Hypers):
    """Hyper-parameters, traced."""

    proximal_decay: float | jax.Array = setting(0.889, "decay of the average of weights, per update", (0.0, 0.99999))
    batch_factor: float | jax.Array = setting(
        1.0, "batches are this many times those of the other settings, which are adapted to them", (1e-3, 1e3)
    )


def adapted_decay(decay: Any, factor: Any) -> jax.Array:
    """The decay of an average that reaches as many transitions back with batches `factor` times as large, [].

    Its centre of mass, decay / (1 - decay) updates ago, is divided by the factor (arXiv 2110.00641, section 3).
    """
    updates = decay / (1 - decay) / factor
    return updates / (1 + updates)


def optimizer(hypers: Hypers) -> optax.GradientTransformation:
    """PPO's, with steps and moments for the batch: steps grow with the root of its factor."""
    factor = hypers.batch_factor
    b1, b2 = adapted_decay(0.9, factor), adapted_decay(0.999, factor)
    adam = optim.make_optimizer(max_gradient_norm=hypers.max_gradient_norm, b1=b1, b2=b2)
    return optax.chain(adam, optax.scale(jnp.sqrt(factor)))


def proximal(
    policy: policies.ScoredPolicy, state: ppo.ActorState, batch: Transition, key: Key
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of the actions under the averaged weights, and those over the behaviour's, both [B] (eq. 2).

    They are clipped to within a factor of 100 of the behaviour's, so ratio times weight is always pi / pi_old.
    """
    behaviour = batch.extras["log_prob"]
    log_prob, _ = policy.score(state.learner.target_params, batch, key)
    log_weight = jnp.clip(log_prob - behaviour, -MAX_LOG_WEIGHT, MAX_LOG_WEIGHT)
    return behaviour + log_weight, jnp.exp(log_weight)


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> ppo.OnPolicyAgent:
    """PPO-EWMA for environments of `spec`; gradients are averaged over the mapped `axes`."""
    return ppo.make(
        config,
        spec,
        axes,
        Hypers,
        reference=proximal,
        optimizer=optimizer,
        target_step=lambda hypers: 1 - adapted_decay(hypers.proximal_decay, hypers.batch_factor),
    )
