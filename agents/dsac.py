"""Distributional soft actor-critic (DSAC; Duan et al., arXiv 2001.02811): SAC whose critic learns a Gaussian return."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from rlx import halves, losses, networks, parallel
from rlx.agents import sac
from rlx.halves import HalfState
from rlx.types import COUNT, POSITIVE, Key, Metrics, Spec, Transition, setting


@dataclass(frozen=True)
class Config(sac.Config):
    """Static (compile-time) configuration."""

    activation: str = setting("gelu", "activation of the hidden layers", choices=networks.ACTIVATIONS)
    actor_hidden_sizes: tuple[int, ...] = setting((256,) * 3, "widths of the actor's hidden layers", COUNT)
    critic_hidden_sizes: tuple[int, ...] = setting((256,) * 3, "widths of every critic's hidden layers", COUNT)
    num_critics: int = setting(1, "critics in the ensemble; the distribution of the lowest mean counts", COUNT)
    log_std_max: float = setting(0.5, "upper bound of log sigma of the policy", (-20.0, 2.0))


class CommonHypers(sac.Hypers):
    """Hyper-parameters, traced, of agents whose critics learn a Gaussian."""

    actor_lr: float | jax.Array = setting(1e-4, "learning rate of the actor (Adam)", POSITIVE)
    critic_lr: float | jax.Array = setting(1e-4, "learning rate of the critics (Adam)", POSITIVE)
    alpha_init: float | jax.Array = setting(math.e, "entropy temperature at the start", (1e-8, math.inf))


class Hypers(CommonHypers):
    """Hyper-parameters, traced."""

    std_min: float | jax.Array = setting(
        0.9, "least standard deviation of the return that a critic predicts, in scaled rewards", POSITIVE
    )
    td_bound: float | jax.Array = setting(
        10.0, "errors in the loss of the standard deviation are clipped to +- this, in scaled rewards", POSITIVE
    )


def mean_and_std(estimates: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of a return by a critic's two numbers, `[..., 2]` -> `[...]` each."""
    return estimates[..., 0], jax.nn.softplus(estimates[..., 1])


def bootstrap(estimates: jax.Array, key: Key, max_noise: float = 2.0, std_min: float | jax.Array = 0.0) -> jax.Array:
    """Mean and a sample of the next return, of the critic with the lowest mean: `[N, B, 2]` -> `[B, 2]`.

    The sample is within `max_noise` standard deviations.
    """
    mean, std = mean_and_std(estimates)
    noise = jnp.clip(jax.random.normal(key, mean.shape, mean.dtype), -max_noise, max_noise)
    both = jnp.stack([mean, mean + (std_min + std) * noise], axis=-1)
    lowest = jnp.argmin(mean, axis=0)
    return jnp.take_along_axis(both, lowest[None, :, None], axis=0)[0]


def gaussian_loss(
    estimates: jax.Array, target: jax.Array, td_bound: float | jax.Array, std_min: float | jax.Array
) -> jax.Array:
    """Negative log-likelihood of a sampled target `[B, 2]` under every critic's Gaussian `[N, B, 2]`, summed over N.

    The mean learns from the target as it is, the deviation from one within `td_bound` of the mean (arXiv 2001.02811,
    eqs. 22 and 23, and its authors' code).
    """
    mean, std = mean_and_std(estimates)
    std = std_min + std
    error = target[None, :, 1] - mean
    bounded = jnp.clip(jax.lax.stop_gradient(error), -td_bound, td_bound)
    of_mean = error**2 / (2 * jax.lax.stop_gradient(std) ** 2)
    return jnp.sum(jnp.mean(of_mean + bounded**2 / (2 * std**2) + jnp.log(std), axis=1))


def update_critic(
    nets: sac.Networks, state: HalfState, policy: sac.Policy, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """SAC's, down the likelihood of the return's Gaussian."""
    hypers = state.hypers
    nets = nets._replace(
        bootstrap=partial(bootstrap, std_min=hypers.std_min),
        regress=partial(gaussian_loss, td_bound=hypers.td_bound, std_min=hypers.std_min),
    )
    return sac.update_critic(nets, state, policy, batch, key)


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.Networks:
    """SAC's networks; estimates are two numbers, [N, B, 2]."""
    return sac.make_networks(config, spec, axes)._replace(
        critic=halves.make_critic(config, spec, axes, num_atoms=2),
        bootstrap=bootstrap,
        values=lambda estimates: estimates[..., 0],
        action_value=lambda estimates: losses.ensemble_min(estimates[..., 0]),
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.SoftAgent:
    """DSAC for environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = make_networks(config, spec, axes)
    return sac.assemble(nets, Hypers, target_policy=True)._replace(update_critic=partial(update_critic, nets))
