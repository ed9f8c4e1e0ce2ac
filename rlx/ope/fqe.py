"""Fitted Q evaluation (Le et al., arXiv 1903.08738): the Q of policies that do not change, learnt from data.

It is trained like every offline agent, on a data set with actions of the policies to evaluate at each next observation,
`target_action` `[C K A]`: K actions of each of C candidates, flat, since rows of several axes are slow to draw: each
draw would copy the data into another layout. A member of the run evaluates the one that its
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
from rlx.errors import RlxError
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.ope import mixture
from rlx.types import COUNT, POSITIVE, SHARE, Agent, Key, Metrics, Params, Read, Spec, Transition, setting

TARGET_ACTION = "target_action"
UNBOUNDED = 1e30  # settings are finite, and so is this times a scale of rewards


@dataclass(frozen=True)
class Config(halves.CriticConfig):
    """Static (compile-time) configuration."""

    num_critics: int = setting(3, "critics in the ensemble, each with a separate target network", COUNT)
    num_candidates: int = setting(1, "policies whose actions the data has", COUNT)
    num_quantiles: int = setting(0, "quantiles of the return that each critic learns (0: its mean)", (0, COUNT[1]))
    num_components: int = setting(
        0, "components of the mixture of Gaussians that each critic learns of the return (0: its mean)", (0, COUNT[1])
    )

    @property
    def kind(self) -> str:
        """What critics learn of the return."""
        return "quantiles" if self.num_quantiles else "mixture" if self.num_components else "mean"


class Hypers(PyTreeNode):
    """Hyper-parameters, traced."""

    gamma: float | jax.Array = setting(0.99, "discount per step", SHARE)
    tau: float | jax.Array = setting(0.005, "Polyak step of the target networks towards the online ones", SHARE)
    critic_lr: float | jax.Array = setting(3e-4, "learning rate of the critics (Adam)", POSITIVE)
    reward_scale: float | jax.Array = setting(1.0, "factor on rewards inside the learning targets")
    candidate: float | jax.Array = setting(0.0, "number of the policy that is evaluated, from 0", (0, COUNT[1]))
    least: float | jax.Array = setting(-UNBOUNDED, "least return that learning targets have")
    most: float | jax.Array = setting(UNBOUNDED, "largest return that learning targets have")


class Networks(NamedTuple):
    """The critics, and what they learn of the return."""

    critic: Network  # (params, observation [..., O], action [..., A]) -> [N, ...], or with M numbers each, [N, ..., M]
    kind: str  # mean, quantiles or mixture
    axes: parallel.Axes
    candidates: int = 1


def next_estimates(nets: Networks, params: Params, batch: Transition, candidate: Any, key: Key) -> jax.Array:
    """Estimates at the candidate's K next actions: their mean `[N, B]`; of quantiles, all atoms `[N, B, K M]`; of
    mixtures, a sample for each action `[N, B, K]`."""
    flat, size = batch.extras[TARGET_ACTION], batch.action.shape[-1]
    every = flat.reshape(len(flat), nets.candidates, -1, size)
    actions = jnp.take(every, jnp.asarray(candidate, jnp.int32), axis=1)  # [B, K, A]
    following = batch.next_observation[:, None]
    observations = jnp.broadcast_to(following, (*actions.shape[:2], following.shape[-1]))
    estimates = nets.critic.apply(params, observations, actions)
    if nets.kind == "mixture":
        return mixture.sample(estimates, key)
    return estimates.mean(axis=-1) if nets.kind == "mean" else estimates.reshape(*estimates.shape[:2], -1)


def regress(kind: str, estimates: jax.Array, target: jax.Array) -> jax.Array:
    """The sum over N critics of the loss of each to its own target.

    Of means, `[N, B]` both, the mean squared error; of quantiles `[N, B, M]`, the quantile Huber loss to atoms
    `[N, B, K]`; of mixtures `[N, B, M]`, the negative log-likelihood of samples `[N, B, K]`.
    """
    if kind == "mean":
        return jnp.sum(jnp.mean(jnp.square(estimates - target), axis=1))
    if kind == "mixture":
        return -jnp.sum(jnp.mean(mixture.log_prob(estimates[:, :, None], target), axis=(1, 2)))
    of_each = jax.vmap(lambda quantiles, atoms: losses.quantile_huber_loss(quantiles[None], atoms))
    return jnp.sum(of_each(estimates, target))


def means(kind: str, estimates: jax.Array) -> jax.Array:
    """Mean returns `[N, ...]` of the critics' estimates."""
    reduce = {"mean": lambda x: x, "quantiles": lambda x: x.mean(axis=-1), "mixture": mixture.mean}
    return reduce[kind](estimates)


def update_critic(
    nets: Networks, state: HalfState, policy: Any, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """Each critic towards r + gamma Q'(s', a' ~ pi) of its own target network (arXiv 1903.08738, algorithm 3).

    With mixtures towards the likelihood of r + gamma z', z' drawn from the target network: fitted likelihood estimation
    (FLE, arXiv 2302.09456). Targets are cut off at `least` and `most`, in units of rewards.
    """
    del policy
    estimates = next_estimates(nets, state.learner.target_variables, batch, state.hypers.candidate, key)
    hypers = state.hypers
    target = jax.vmap(lambda value: halves.td_target(batch, value, hypers))(estimates)
    target = jnp.clip(target, hypers.least * hypers.reward_scale, hypers.most * hypers.reward_scale)
    critic = nets.critic.with_dropout(key, 0)
    loss, values = partial(regress, nets.kind), partial(means, nets.kind)
    return halves.update_critics(state, critic, batch, target, nets.axes, regress=loss, values=values)


def returns(nets: Networks, critic: HalfState, observation: jax.Array, action: jax.Array) -> jax.Array:
    """Mean returns of every critic in units of rewards, `[N, ...]`."""
    return (
        means(nets.kind, nets.critic.apply(critic.learner.variables, observation, action)) / critic.hypers.reward_scale
    )


def draws(nets: Networks, critic: HalfState, observation: jax.Array, action: jax.Array, key: Key) -> jax.Array:
    """A return from the distribution of every critic in units of rewards, `[N, ...]`; of critics of means, the mean."""
    estimates = nets.critic.apply(critic.learner.variables, observation, action)
    if nets.kind == "mixture":
        drawn = mixture.sample(estimates, key)
    elif nets.kind == "quantiles":
        which = jax.random.randint(key, estimates.shape[:-1], 0, estimates.shape[-1])
        drawn = jnp.take_along_axis(estimates, which[..., None], axis=-1)[..., 0]
    else:
        drawn = estimates
    return drawn / critic.hypers.reward_scale


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Networks:
    """The ensemble that `config` describes. Raises RlxError for quantiles and mixtures at once."""
    if config.num_quantiles and config.num_components:
        raise RlxError(f"--num-components {config.num_components}: goes without --num-quantiles; choose one of them")
    numbers = config.num_quantiles or 3 * config.num_components
    critic = halves.make_critic(config, spec, axes, num_atoms=numbers or None)
    return Networks(critic, config.kind, axes, config.num_candidates)


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[HalfState, HalfState, Params, None]:
    """FQE on data of environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = make_networks(config, spec, axes)

    def act(policy: None, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
        return jnp.zeros((*observation.shape[:-1], spec.action_size)), {}

    def q_value(critic: HalfState, observation: jax.Array, action: jax.Array) -> jax.Array:
        return means(nets.kind, nets.critic.apply(critic.learner.variables, observation, action)).mean(axis=0)

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
        q_value=q_value,
    )
