"""DSAC with three refinements against its sensitivity to the reward's scale (DSAC-T; Duan et al., arXiv 2310.05858).

Means learn from the expected next return instead of a sample, there are two critics, and their gradients are divided
by the variance over the square of its running mean deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlx import losses, parallel
from rlx.agents import dsac, sac
from rlx.halves import HalfState
from rlx.types import COUNT, SHARE, Key, Metrics, Spec, State, Transition, setting

# the authors' constants
BIAS, RATIO, HUBER_DELTA, MAX_NOISE, BOUND = 0.1, (0.1, 10.0), 50.0, 3.0, 3.0


@dataclass(frozen=True)
class Config(dsac.Config):
    """Static (compile-time) configuration."""

    num_critics: int = setting(2, "critics in the ensemble; the distribution of the lowest mean counts", COUNT)


class Hypers(dsac.CommonHypers):
    """Hyper-parameters, traced."""

    std_tau: float | jax.Array = setting(0.005, "step of the running mean of each critic's standard deviation", SHARE)


class CriticState(HalfState):
    """The critic half."""

    mean_std: jax.Array  # [N], running mean of each critic's standard deviation


def gaussian_loss(estimates: jax.Array, target: jax.Array, mean_std: jax.Array) -> jax.Array:
    """The critics' loss as its authors' code has it (arXiv 2310.05858, eqs. 14 to 21), summed over N.

    Estimates are `[N, B, 2]`, targets of mean and sample `[B, 2]`, `mean_std` is `[N]`.
    """
    mean, std = dsac.mean_and_std(estimates)
    fixed_mean, fixed_std = jax.lax.stop_gradient((mean, std))
    bound = BOUND * mean_std[:, None]
    error = jnp.clip(target[None, :, 1] - fixed_mean, -bound, bound)
    variance_error = fixed_std**2 - optax.huber_loss(error, delta=HUBER_DELTA)
    of_mean = optax.huber_loss(mean - target[None, :, 0], delta=HUBER_DELTA)
    of_std = std * variance_error / (fixed_std + BIAS)
    ratio = jnp.clip(mean_std[:, None] ** 2 / (fixed_std**2 + BIAS), *RATIO)
    return jnp.sum(jnp.mean(ratio * (of_mean + of_std), axis=1))


def update_critic(
    nets: sac.Networks, state: CriticState, policy: sac.Policy, batch: Transition, key: Key
) -> tuple[CriticState, Metrics]:
    """The running means of the deviations, the first one of this minibatch, then SAC's step down this loss."""
    estimates = nets.critic.apply(state.learner.variables, batch.observation, batch.action)
    std = parallel.mean(dsac.mean_and_std(estimates)[1].mean(axis=1), nets.axes)
    mean_std = jnp.where(state.step == 0, std, losses.polyak(state.mean_std, std, state.hypers.std_tau))
    nets = nets._replace(regress=partial(gaussian_loss, mean_std=mean_std))
    new, metrics = sac.update_critic(nets, state, policy, batch, key)
    return new.replace(mean_std=mean_std), metrics | {"q_std": std.mean()}


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.Networks:
    """DSAC's networks, whose targets are both the mean and a sample."""
    return dsac.make_networks(config, spec, axes)._replace(bootstrap=partial(dsac.bootstrap, max_noise=MAX_NOISE))


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.SoftAgent:
    """DSAC-T for environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = make_networks(config, spec, axes)
    agent = sac.assemble(nets, Hypers, target_policy=True)

    def init(key: Key, hypers: Any = None) -> State[Any, Any]:
        state = agent.init(key, hypers)
        critic = CriticState(**vars(state.critic), mean_std=jnp.zeros(config.num_critics, jnp.float32))
        return state.replace(critic=critic)

    return agent._replace(init=init, update_critic=partial(update_critic, nets))
