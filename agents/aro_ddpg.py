"""Average-reward off-policy DDPG (ARO-DDPG; Saxena et al., arXiv 2305.12239): TD3 without discount.

Critics learn differential values, by how much the rewards that follow exceed the average, together with the average.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rlx import halves, losses, parallel
from rlx.agents import td3
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.types import POSITIVE, SHARE, Key, Metrics, Params, Spec, Transition, setting

Config = td3.Config


class Hypers(td3.Hypers):
    """Hyper-parameters, traced."""

    gamma: float | jax.Array = setting(1.0, "discount per step; the average-reward criterion has none, 1", SHARE)
    target_noise: float | jax.Array = setting(0.0, "standard deviation of the noise on the target's actions", POSITIVE)


def with_average(critic: Network) -> Network:
    """The ensemble with the average reward rho, one parameter: `[N, B]` -> `[N, B, 2]`, values and rho."""

    def init(key: Key) -> Params:
        return critic.init(key) | {"average_reward": jnp.zeros((), jnp.float32)}

    def apply(params: Params, *inputs: jax.Array, train: bool = False, **options: Any) -> Any:
        of_critic = {name: leaves for name, leaves in params.items() if name != "average_reward"}
        result = critic.apply(of_critic, *inputs, train=train, **options)
        q, *statistics = result if train else (result,)
        both = jnp.stack([q, jnp.broadcast_to(params["average_reward"], q.shape)], axis=-1)
        return (both, *statistics) if train else both

    return critic._replace(init=init, apply=apply)


def differential_target(estimates: jax.Array, action: jax.Array, batch: Transition, hypers: Any) -> jax.Array:
    """r + d min Q', `[N, B, 2]` -> `[B]`, from which both Q and rho learn."""
    return td3.clipped_double_q(estimates[..., 0], action, batch, hypers)


def regress(estimates: jax.Array, target: jax.Array) -> jax.Array:
    """Squared error of Q + rho `[N, B, 2]` against the target `[B]` (arXiv 2305.12239, eqs. 12 and 13): `[]`."""
    return losses.ensemble_td_loss(estimates.sum(axis=-1), target)


def update_critic(
    nets: td3.Networks, state: HalfState, policy: td3.Policy, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """TD3's; it reports the average reward, and differential_q_mean in place of q_mean."""
    state, metrics = td3.update_critic(nets, state, policy, batch, key)
    differential = metrics.pop("q_mean")
    average = state.learner.params["average_reward"]
    return state, metrics | {"differential_q_mean": differential, "average_reward": average}


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> td3.Networks:
    """TD3's, with critics of differential values, of which the actor climbs the lowest."""
    critic = with_average(halves.make_critic(config, spec, axes))
    return td3.make_networks(config, spec, axes, config.policy_delay)._replace(
        critic=critic,
        published_critic=critic,
        target=differential_target,
        regress=regress,
        values=lambda estimates, hypers: estimates[..., 0],
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> td3.DeterministicAgent:
    """ARO-DDPG for environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = make_networks(config, spec, axes)
    agent = td3.assemble(nets, Hypers, critic_params=lambda critic: critic.learner.variables)
    return agent._replace(update_critic=partial(update_critic, nets), q_value=None)
