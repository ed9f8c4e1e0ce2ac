"""How actors act: the squashed Gaussian (SAC), the Gaussian with a squashed mean (IQL), deterministic actors; and, with
discrete actions, by logits or epsilon-greedily by values.

`(actor, params, observation [..., O], key) -> (action [..., A], info)`, as `act` of an agent once network and
parameters are bound. `(actor, params, observation, action) -> [...]`, as its `log_prob`, is the log-density of actions
in the environment's units, [-1, 1]; the squashed Gaussian's includes the Jacobian of tanh.

distrax is imported inside: 0.4 s that `--help` need not spend.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from rlx import diffusion
from rlx.networks import IMPOSSIBLE, Network
from rlx.types import Key, Params, Transition

Act = Callable[[Params, jax.Array, Key], tuple[jax.Array, dict[str, Any]]]


def tanh_normal(actor: Network, params: Params, observation: jax.Array) -> Any:
    """The tanh-Gaussian, a distrax distribution over actions."""
    from rlx.distributions import TanhNormal

    return TanhNormal(*actor.apply(params, observation))


def squashed_sample(actor: Network, params: Params, observation: jax.Array, key: Key) -> tuple[jax.Array, jax.Array]:
    """A sample of the tanh-Gaussian, and its log-probability `[...]`."""
    sample: tuple[jax.Array, jax.Array] = tanh_normal(actor, params, observation).sample_and_log_prob(seed=key)
    return sample


def squashed_of_noise(
    actor: Network, params: Params, observation: jax.Array, noise: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The tanh-Gaussian's action for standard normal noise `[..., A]`, and its log-probability `[...]`."""
    from rlx.distributions import TanhNormal

    mean, log_std = actor.apply(params, observation)
    pre_tanh = mean + jnp.exp(log_std) * noise
    return jnp.tanh(pre_tanh), TanhNormal(mean, log_std).log_prob_pre_tanh(pre_tanh)


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


def squashed_functions(actor: Network) -> dict[str, Any]:
    """`act`, `act_greedy` and `log_prob` of an agent whose acting parameters have the tanh-Gaussian's as `params`."""
    functions = {"act": squashed_act, "act_greedy": squashed_mean, "log_prob": squashed_log_prob}
    return of_params({name: partial(function, actor) for name, function in functions.items()})


def of_params(functions: dict[str, Any], field: str = "params") -> dict[str, Any]:
    """Functions of a network's parameters and more as functions of an agent's, which has them in a `field`."""

    def bound(function: Any) -> Any:
        return lambda policy, *inputs: function(getattr(policy, field), *inputs)

    return {name: bound(function) for name, function in functions.items()}


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


class ScoredPolicy(NamedTuple):
    """A stochastic policy for policy-gradient agents: how it acts, and how likely a batch's actions are under it."""

    act: Act  # with "log_prob" as info, and all else that `score` reads of the batch's extras
    act_greedy: Act
    log_prob: Callable[[Params, jax.Array, jax.Array], jax.Array]  # (params, observation, action) -> [...]
    # (params, batch, key) -> log-probabilities of the batch's actions [B], and the entropy [], estimated with the key
    score: Callable[[Params, Transition, Key], tuple[jax.Array, jax.Array]]
    reads: tuple[str, ...]  # what `score` reads of a batch, beside the observation

    def functions(self) -> dict[str, Any]:
        """`act`, `act_greedy` and `log_prob` of an agent whose acting parameters have this policy's as `params`."""
        return of_params({"act": self.act, "act_greedy": self.act_greedy, "log_prob": self.log_prob})


def squashed(actor: Network) -> ScoredPolicy:
    """The tanh-Gaussian of a network of means and log-deviations; its entropy is that of the squashed action, estimated
    by a new sample for each row."""

    def score(params: Params, batch: Transition, key: Key) -> tuple[jax.Array, jax.Array]:
        policy = tanh_normal(actor, params, batch.observation)
        entropy = -policy.sample_and_log_prob(seed=key)[1].mean()
        return policy.log_prob_pre_tanh(batch.extras["pre_tanh"]), entropy

    act, act_greedy = partial(squashed_act_pre_tanh, actor), partial(squashed_mean, actor)
    return ScoredPolicy(act, act_greedy, partial(squashed_log_prob, actor), score, ("pre_tanh",))


# Discrete actions: one-hot vectors `[..., n]`, chosen by one number for each action, a logit or a value.


def chosen(scores: jax.Array, index: jax.Array) -> jax.Array:
    """The one-hot action `[..., n]` of an index `[...]` into scores `[..., n]`."""
    return jax.nn.one_hot(index, scores.shape[-1], dtype=scores.dtype)


def largest(scores: jax.Array) -> jax.Array:
    """The one-hot action of the largest score, the first of several; both `[..., n]`."""
    return chosen(scores, jnp.argmax(scores, axis=-1))


def epsilon_greedy(values: jax.Array, epsilon: jax.Array, key: Key) -> jax.Array:
    """The action of the largest value, or, with probability `epsilon` [], one drawn uniformly; both `[..., n]`.

    Actions whose value is `IMPOSSIBLE` are not drawn.
    """
    explore_key, action_key = jax.random.split(key)
    explores = jax.random.uniform(explore_key, values.shape[:-1]) < epsilon
    drawn = jax.random.categorical(action_key, jnp.where(values > IMPOSSIBLE / 2, 0.0, IMPOSSIBLE))
    return chosen(values, jnp.where(explores, drawn, jnp.argmax(values, axis=-1)))


def probabilities(actor: Network, params: Params, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of all actions, `[..., n]`, by a network of logits, and the mean of their logarithms under them `[...]`."""
    log_probs = jax.nn.log_softmax(actor.apply(params, observation))
    probs = jnp.exp(log_probs)
    return probs, jnp.sum(probs * log_probs, axis=-1)


def categorical(actor: Network) -> ScoredPolicy:
    """One of n actions by a network of logits; its entropy is exact."""

    def log_prob(params: Params, observation: jax.Array, action: jax.Array) -> jax.Array:
        return jnp.sum(action * jax.nn.log_softmax(actor.apply(params, observation)), axis=-1)

    def act(params: Params, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, Any]]:
        logits = actor.apply(params, observation)
        action = chosen(logits, jax.random.categorical(key, logits))
        return action, {"log_prob": jnp.sum(action * jax.nn.log_softmax(logits), axis=-1)}

    def act_greedy(params: Params, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, Any]]:
        del key
        return largest(actor.apply(params, observation)), {}

    def score(params: Params, batch: Transition, key: Key) -> tuple[jax.Array, jax.Array]:
        del key
        log_probs = jax.nn.log_softmax(actor.apply(params, batch.observation))
        entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1).mean()
        return jnp.sum(batch.action * log_probs, axis=-1), entropy

    return ScoredPolicy(act, act_greedy, log_prob, score, ("action",))


# Exploration noise with a state of its own, one for each environment, that begins anew with every episode.


class HeldNoise(NamedTuple):
    """Standard normal noise that stays for a number of steps."""

    draw: jax.Array  # [..., A]
    steps_left: jax.Array  # [...] int32


def no_noise_yet(action_size: int) -> HeldNoise:
    """Of one environment before its first step."""
    return HeldNoise(jnp.zeros(action_size, jnp.float32), jnp.zeros((), jnp.int32))


def hold(noise: HeldNoise, key: Key, most: int) -> HeldNoise:
    """The noise of the next step, `[..., A]`: drawn anew where its time is over.

    It then stays for k steps, 1 to `most`, with probability proportional to k^-2: each environment has a k of its own.
    """
    draw_key, steps_key = jax.random.split(key)
    shape, over = noise.steps_left.shape, noise.steps_left == 0
    draw = jax.random.normal(draw_key, noise.draw.shape, noise.draw.dtype)
    steps = 1 + jax.random.categorical(steps_key, -2 * jnp.log(jnp.arange(1.0, most + 1)), shape=shape)
    left = jnp.where(over, steps.astype(jnp.int32), noise.steps_left) - 1
    return HeldNoise(jnp.where(over[..., None], draw, noise.draw), left)


def squash(mean: jax.Array, log_std: jax.Array, noise: jax.Array) -> jax.Array:
    """The tanh-Gaussian's action for standard normal noise, all `[..., A]`."""
    return jnp.tanh(mean + jnp.exp(log_std) * noise)


def no_scale_yet() -> jax.Array:
    """The deviation of one environment's noise before its first step, []: none is negative."""
    return jnp.full((), -1.0, jnp.float32)


def with_own_noise(action: jax.Array, scale: jax.Array, bounds: jax.Array, key: Key) -> tuple[jax.Array, jax.Array]:
    """Actions `[..., A]` with Gaussian noise of each environment's own deviation `[...]`, within [-1, 1], and those.

    An environment that has none yet draws it uniformly between `bounds` [2].
    """
    scale_key, noise_key = jax.random.split(key)
    drawn = jax.random.uniform(scale_key, scale.shape, action.dtype, bounds[0], bounds[1])
    scale = jnp.where(scale < 0, drawn, scale)
    noise = jax.random.normal(noise_key, action.shape, action.dtype)
    return jnp.clip(action + scale[..., None] * noise, -1.0, 1.0), scale


def take(actions: jax.Array, chosen: jax.Array) -> jax.Array:
    """Of candidates `[S, ..., A]` those with the numbers `chosen` `[...]`: `[..., A]`."""
    chex.assert_shape(chosen, actions.shape[1:-1])
    return jnp.take_along_axis(actions, chosen[None, ..., None], axis=0)[0]


def flow_samples(
    flow: Network, num_steps: int, action_size: int, params: Params, observation: jax.Array, count: int, key: Key
) -> jax.Array:
    """`count` actions of a flow, `networks.make_velocity`, for each observation `[..., O]`: `[count, ..., A]`."""
    noise = jax.random.normal(key, (count, *observation.shape[:-1], action_size), jnp.float32)
    observations = jnp.broadcast_to(observation, (count, *observation.shape))
    return diffusion.flow(partial(flow.apply, params, observations), noise, num_steps)
