"""Probabilistic mixture of experts (PMOE; Ren et al., arXiv 2104.09122): SAC whose policy is a mixture of Gaussians.

Choosing one of the Gaussians has no derivative, so all of them learn at every step, and the mixture's weights learn how
often each is the best.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rlx import halves, networks, parallel
from rlx.agents import sac
from rlx.halves import SoftActorState
from rlx.networks import Network
from rlx.types import COUNT, POSITIVE, Key, Metrics, Params, Spec, Transition, setting

Mixture = tuple[jax.Array, jax.Array, jax.Array]  # logits [..., K], means and log-deviations [..., K, A]


@dataclass(frozen=True)
class Config(sac.Config):
    """Static (compile-time) configuration."""

    num_experts: int = setting(4, "Gaussians that the policy is a mixture of", COUNT)


class Hypers(sac.Hypers):
    """Hyper-parameters, traced."""

    frequency_weight: float | jax.Array = setting(1.0, "weight of the loss of the mixture's weights", POSITIVE)


def log_prob(mixture: Mixture, pre_tanh: jax.Array) -> jax.Array:
    """Log-density of the actions tanh(u), `[..., A]`: `[...]`."""
    from rlx.distributions import TanhNormal

    logits, mean, log_std = mixture
    of_each = TanhNormal(mean, log_std).log_prob_pre_tanh(jnp.expand_dims(pre_tanh, -2))
    return jax.nn.logsumexp(jax.nn.log_softmax(logits) + of_each, axis=-1)


def sample_each(mixture: Mixture, key: Key) -> tuple[jax.Array, jax.Array]:
    """A sample of every Gaussian, before tanh `[..., K, A]`, and its log-probability under the mixture `[..., K]`."""
    _, mean, log_std = mixture
    pre_tanh = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype)
    every = jax.tree.map(lambda x, axis: jnp.expand_dims(x, axis), mixture, (-2, -3, -3))
    return pre_tanh, log_prob(every, pre_tanh)


def sample(actor: Network, params: Params, observation: jax.Array, key: Key) -> tuple[jax.Array, jax.Array]:
    """A sample of the mixture, `[..., A]`, and its log-probability `[...]`."""
    sample_key, choice_key = jax.random.split(key)
    mixture = actor.apply(params, observation)
    pre_tanh, log_probs = sample_each(mixture, sample_key)
    chosen = jax.random.categorical(choice_key, mixture[0])[..., None]
    action = jnp.take_along_axis(jnp.tanh(pre_tanh), chosen[..., None], axis=-2)[..., 0, :]
    return action, jnp.take_along_axis(log_probs, chosen, axis=-1)[..., 0]


def frequency_loss(logits: jax.Array, q: jax.Array) -> jax.Array:
    """Squared distance of the weights, `[B, K]`, from 1 for the Gaussian with the largest q and 0 for others: `[]`.

    In the mean over samples, weights become how often each is the best (arXiv 2104.09122, eq. 11).
    """
    best = jax.nn.one_hot(jnp.argmax(q, axis=-1), q.shape[-1], dtype=logits.dtype)
    return jnp.mean(jnp.sum((jax.nn.softmax(logits) - best) ** 2, axis=-1))


def update_actor(
    nets: sac.Networks, state: SoftActorState, critic_params: Params, batch: Transition, key: Key
) -> tuple[SoftActorState, Metrics]:
    """Every Gaussian down alpha log pi - Q, the weights down `frequency_loss`, then the temperature."""
    hypers, observation, critic = state.hypers, batch.observation, nets.critic.with_dropout(key, 1)

    def sample_all(params: Params) -> tuple[jax.Array, jax.Array]:
        logits, mean, log_std = nets.actor.apply(params, observation)
        pre_tanh, log_probs = sample_each((jax.lax.stop_gradient(logits), mean, log_std), key)
        return jnp.tanh(pre_tanh).reshape(-1, nets.action_size), log_probs.reshape(-1)  # [B K, A], [B K]

    def q_value(action: jax.Array) -> jax.Array:
        rows = jnp.repeat(observation, action.shape[0] // observation.shape[0], axis=0)
        return nets.action_value(critic(critic_params, rows, action))

    def penalty(params: Params, q: jax.Array) -> tuple[jax.Array, Metrics]:
        logits = nets.actor.apply(params, observation)[0]
        loss = frequency_loss(logits, q.reshape(logits.shape))
        largest = jax.nn.softmax(logits).max(axis=-1).mean()
        return hypers.frequency_weight * loss, {"frequency_loss": loss, "largest_weight": largest}

    return halves.step_soft_actor(
        state,
        sample=sample_all,
        q_value=q_value,
        target_entropy=hypers.target_entropy_per_action * nets.action_size,
        temperature_loss=nets.temperature_loss,
        axes=nets.axes,
        penalty=penalty,
    )


def make_networks(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.Networks:
    """SAC's networks with a policy of several Gaussians."""
    options: dict[str, Any] = {"num_experts": config.num_experts, "log_std": config.log_std}
    actor = networks.make_mixture_policy(spec, config.actor_hidden_sizes, **options, **config.network_options())
    return sac.make_networks(config, spec, axes)._replace(actor=actor, sample=sample)


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.SoftAgent:
    """PMOE for environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = make_networks(config, spec, axes)

    def act(policy: sac.Policy, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
        action, density = sample(nets.actor, policy.params, observation, key)
        return action, {"log_prob": density}

    def act_greedy(policy: sac.Policy, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
        del key
        logits, mean, _ = nets.actor.apply(policy.params, observation)
        best = jnp.argmax(logits, axis=-1)[..., None, None]
        return jnp.tanh(jnp.take_along_axis(mean, best, axis=-2)[..., 0, :]), {}

    def density(policy: sac.Policy, observation: jax.Array, action: jax.Array) -> jax.Array:
        inside = 1 - jnp.finfo(action.dtype).epsneg
        return log_prob(nets.actor.apply(policy.params, observation), jnp.arctanh(jnp.clip(action, -inside, inside)))

    return sac.assemble(nets, Hypers)._replace(
        update_actor=partial(update_actor, nets), act=act, act_greedy=act_greedy, log_prob=density
    )
