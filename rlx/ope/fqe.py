"""Fitted Q evaluation (Le et al., arXiv 1903.08738): the Q of policies that do not change, learnt from data.

It is trained as every offline agent, on a data set with actions of the policies to evaluate at each next observation,
`target_action` `[C, K, A]`: K actions of each of C candidates. A member of the run evaluates the one that its
hyper-parameter `candidate` names, so a run evaluates all of them. The actor half learns nothing, and does not act.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode

from rlx import halves, losses, parallel
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.types import COUNT, POSITIVE, SHARE, Agent, Key, Metrics, Params, Read, Spec, Transition, setting

TARGET_ACTION = "target_action"


@dataclass(frozen=True)
class Config(halves.CriticConfig):
    """Static (compile-time) configuration."""

    num_critics: int = setting(3, "critics in the ensemble, each with targets of its own", COUNT)
    num_quantiles: int = setting(0, "quantiles of the return that each critic learns (0: its mean)", (0, COUNT[1]))


class Hypers(PyTreeNode):
    """Hyper-parameters, traced."""

    gamma: float | jax.Array = setting(0.99, "discount per step", SHARE)
    tau: float | jax.Array = setting(0.005, "Polyak step of the target networks towards the online ones", SHARE)
    critic_lr: float | jax.Array = setting(3e-4, "learning rate of the critics (Adam)", POSITIVE)
    reward_scale: float | jax.Array = setting(1.0, "factor on rewards inside the learning targets")
    candidate: float | jax.Array = setting(0.0, "number of the policy that is evaluated, from 0", (0, COUNT[1]))


class Networks(NamedTuple):
    """The critics, and whether they are distributions."""

    critic: Network  # (params, observation [..., O], action [..., A]) -> [N, ...] or, of quantiles, [N, ..., M]
    quantiles: bool
    axes: parallel.Axes


def next_estimates(nets: Networks, params: Params, batch: Transition, candidate: Any) -> jax.Array:
    """Estimates at the candidate's K next actions: their mean `[N, B]`; of quantiles, all atoms `[N, B, K M]`."""
    actions = jnp.take(batch.extras[TARGET_ACTION], jnp.asarray(candidate, jnp.int32), axis=1)  # [B, K, A]
    following = batch.next_observation[:, None]
    observations = jnp.broadcast_to(following, (*actions.shape[:2], following.shape[-1]))
    estimates = nets.critic.apply(params, observations, actions)
    return estimates.reshape(*estimates.shape[:2], -1) if nets.quantiles else estimates.mean(axis=-1)


def regress(estimates: jax.Array, target: jax.Array) -> jax.Array:
    """The sum over N critics of the mean squared error of each to its own target, `[N, B]` both; of quantiles `[N, B,
    M]`, the quantile Huber loss to its own atoms `[N, B, K]`."""
    if estimates.ndim == 2:
        return jnp.sum(jnp.mean(jnp.square(estimates - target), axis=1))
    return jnp.sum(
        jax.vmap(lambda quantiles, atoms: losses.quantile_huber_loss(quantiles[None], atoms))(estimates, target)
    )


def update_critic(
    nets: Networks, state: HalfState, policy: Any, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """Each critic towards r + gamma Q'(s', a' ~ pi) of its own target network (arXiv 1903.08738, algorithm 3)."""
    del policy
    values = next_estimates(nets, state.learner.target_variables, batch, state.hypers.candidate)
    target = jax.vmap(lambda value: halves.td_target(batch, value, state.hypers))(values)
    critic = nets.critic.with_dropout(key, 0)
    return halves.update_critics(state, critic, batch, target, nets.axes, regress=regress)


def atoms(nets: Networks, critic: HalfState, observation: jax.Array, action: jax.Array) -> jax.Array:
    """Estimates of every critic in units of rewards, `[N, ..., M]`; of means, M is 1."""
    estimates = nets.critic.apply(critic.learner.variables, observation, action) / critic.hypers.reward_scale
    return estimates if nets.quantiles else estimates[..., None]


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Networks:
    """The ensemble that `config` describes."""
    critic = halves.make_critic(config, spec, axes, num_atoms=config.num_quantiles or None)
    return Networks(critic, config.num_quantiles > 0, axes)


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[HalfState, HalfState, Params, None]:
    """FQE on data of environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = make_networks(config, spec, axes)

    def act(policy: None, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
        return jnp.zeros((*observation.shape[:-1], spec.action_size)), {}

    return Agent(
        init=halves.make_init(
            Hypers, halves.init_half(nets.critic, target=True), lambda key, hypers: HalfState.create(hypers, None)
        ),
        critic_params=lambda critic: critic.learner.variables,
        policy_params=lambda actor, critic_params: None,
        act=act,
        act_greedy=act,
        update_critic=partial(update_critic, nets),
        update_actor=lambda state, critic_params, batch, key: (state.advance(), {}),
        reads={TARGET_ACTION: Read(TARGET_ACTION, "last")},
        q_value=lambda critic, *inputs: nets.critic.apply(critic.learner.variables, *inputs).mean(
            axis=(0, -1) if nets.quantiles else 0
        ),
    )
