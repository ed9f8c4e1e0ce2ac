"""How actors act: the squashed Gaussian (SAC), the Gaussian with a squashed mean (IQL), deterministic actors.

`(actor, params, observation [..., O], key) -> (action [..., A], info)`, as `act` of an agent once network and
parameters are bound. `(actor, params, observation, action) -> [...]`, as its `log_prob`, is the log-density of actions
in the environment's units, [-1, 1]; the squashed Gaussian's includes the Jacobian of tanh.

distrax is imported inside: 0.4 s that `--help` need not spend.
"""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp

from rlx.networks import Network
from rlx.types import Key, Params


def tanh_normal(actor: Network, params: Params, observation: jax.Array) -> Any:
    """The tanh-Gaussian, a distrax distribution over actions."""
    from rlx.distributions import TanhNormal

    return TanhNormal(*actor.apply(params, observation))


def squashed_sample(actor: Network, params: Params, observation: jax.Array, key: Key) -> tuple[jax.Array, jax.Array]:
    """A sample of the tanh-Gaussian, and its log-probability `[...]`."""
    sample: tuple[jax.Array, jax.Array] = tanh_normal(actor, params, observation).sample_and_log_prob(seed=key)
    return sample


def squashed_act(actor: Network, params: Params, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, Any]]:
    """A sample of the tanh-Gaussian, with its log-probability as info."""
    action, log_prob = squashed_sample(actor, params, observation, key)
    return action, {"log_prob": log_prob}


def squashed_act_pre_tanh(
    actor: Network, params: Params, observation: jax.Array, key: Key
) -> tuple[jax.Array, dict[str, Any]]:
    """The same, with the sample before tanh as info, too: importance ratios of it are exact, at +-1 as well."""
    policy = tanh_normal(actor, params, observation)
    pre_tanh = policy.sample_pre_tanh(key)
    return jnp.tanh(pre_tanh), {"log_prob": policy.log_prob_pre_tanh(pre_tanh), "pre_tanh": pre_tanh}


def squashed_log_prob(actor: Network, params: Params, observation: jax.Array, action: jax.Array) -> jax.Array:
    """Of the tanh-Gaussian."""
    log_prob: jax.Array = tanh_normal(actor, params, observation).log_prob(action)
    return log_prob


def mean_tanh_normal(actor: Network, params: Params, observation: jax.Array) -> Any:
    """The Gaussian with a squashed mean, a distrax distribution over actions."""
    from rlx import distributions

    return distributions.mean_tanh_normal(*actor.apply(params, observation))


def mean_tanh_log_prob(actor: Network, params: Params, observation: jax.Array, action: jax.Array) -> jax.Array:
    """Of the Gaussian with a squashed mean before `clipped_sample` clips it, so part of its mass is outside [-1, 1]."""
    policy = mean_tanh_normal(actor, params, observation)
    chex.assert_shape(action, policy.batch_shape + policy.event_shape)  # [B] would broadcast to [B, B]
    return policy.log_prob(action)


def clipped_sample(
    actor: Network, params: Params, observation: jax.Array, key: Key
) -> tuple[jax.Array, dict[str, Any]]:
    """A sample of the Gaussian with a squashed mean, clipped to [-1, 1]; clipped, it has no density."""
    return jnp.clip(mean_tanh_normal(actor, params, observation).sample(seed=key), -1.0, 1.0), {}


def squashed_mean(actor: Network, params: Params, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, Any]]:
    """The greedy action of either Gaussian: tanh of the network's mean."""
    del key
    mean, _ = actor.apply(params, observation)
    return jnp.tanh(mean), {}


def deterministic(actor: Network, params: Params, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, Any]]:
    """The network's output; the driver adds the noise that explores."""
    del key
    return actor.apply(params, observation), {}
