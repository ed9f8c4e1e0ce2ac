"""Estimators of a policy's value from another policy's episodes: pure functions that can be jitted and vmapped.

Each is `(batch, gamma, weights) -> value []`. `weights` `[N]` say how often an episode counts: ones, or the counts of a
bootstrap sample, so a vmap over them is a bootstrap. The value is E[sum_t gamma^t r_t] from the first step to the end
of an episode, or, where `tail` says what follows a cut, without an end. Episodes may differ in length: after the end
of an episode its ratios are 1, its rewards 0, and it keeps its weight.

Names as in the literature: TIS and PDIS, trajectory and per-decision importance sampling (Precup et al. 2000), SNTIS
and SNPDIS, self-normalised; DM, the direct method; DR, doubly robust (Jiang and Li, arXiv 1511.03722, eq. 10), and WDR,
self-normalised (Thomas and Brunskill, arXiv 1604.00923). MIS and MDR have marginal weights of states and actions
(Kallus and Uehara, arXiv 1909.05850), SMIS and SMDR those of states times the ratio of the action; they stay as they
are in a bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

MAX_LOG_WEIGHT = 60.0  # e^60: products of weights, returns and squares of these stay finite in float32
Scalar = jax.Array | float


class Batch(NamedTuple):
    """N episodes of at most T steps, and what is known of one policy in them; 0 beyond the end of an episode."""

    reward: jax.Array  # [N, T]
    mask: jax.Array  # [N, T] bool
    log_ratio: jax.Array  # [N, T], log pi(a|s) - log mu(a|s)
    q: jax.Array  # [N, T], the policy's Q(s, a)
    v: jax.Array  # [N, T], its V(s)
    tail: jax.Array  # [N], its V of what follows the last step; 0 where nothing does
    # discounted visits by the policy over visits in the data (`rlx.ope.marginal`):
    marginal: jax.Array  # [N, T], of (s, a)
    of_state: jax.Array  # [N, T], of s


def make_batch(
    reward: Any,
    mask: Any,
    log_ratio: Any = None,
    q: Any = None,
    v: Any = None,
    marginal: Any = None,
    of_state: Any = None,
    tail: Any = None,
) -> Batch:
    """A batch in which what is missing is 0, and padding is 0 whatever it was."""
    chex.assert_rank([reward, mask], 2)
    zeros = jnp.zeros(reward.shape)
    padded = [zeros if x is None else jnp.where(mask, x, 0.0) for x in (reward, log_ratio, q, v, marginal, of_state)]
    chex.assert_equal_shape([mask, *padded])
    reward, log_ratio, q, v, marginal, of_state = padded
    log_ratio = jnp.clip(log_ratio, -1e6, 1e6)  # a density of 0: the sum of two infinities would be NaN
    tail = zeros[:, 0] if tail is None else jnp.asarray(tail)
    return Batch(reward, jnp.asarray(mask), log_ratio, q, v, tail, marginal, of_state)


def log_weights(batch: Batch) -> jax.Array:
    """log of prod_{k<=t} pi(a_k|s_k) / mu(a_k|s_k), `[N, T]`; constant after the end of an episode."""
    return jnp.minimum(jnp.cumsum(jnp.where(batch.mask, batch.log_ratio, 0.0), axis=1), MAX_LOG_WEIGHT)


def returns(batch: Batch, gamma: Scalar) -> jax.Array:
    """Discounted returns, `[N]`."""
    return jnp.sum(_powers(batch, gamma) * batch.reward, axis=1)


def effective_sample_size(log_weight: jax.Array) -> jax.Array:
    """(sum w)^2 / sum w^2 over episodes, `[N, ...]` to `[...]`: from 1, where one weight is all, to N (Kish 1965)."""
    share = normalised(log_weight, jnp.ones(len(log_weight)))
    return 1 / jnp.sum(jnp.square(share), axis=0)


def per_decision_sample_size(batch: Batch, gamma: Scalar) -> jax.Array:
    """The effective sample size of the weights of step t, averaged over steps with weights gamma^t, []."""
    share = gamma ** jnp.arange(batch.reward.shape[1])
    return jnp.sum(share * effective_sample_size(log_weights(batch))) / jnp.sum(share)


def marginal_sample_size(batch: Batch, gamma: Scalar) -> jax.Array:
    """The same of the weights w(s_t) pi(a_t|s_t) / mu(a_t|s_t), []."""
    weight = batch.of_state * action_ratio(batch)
    size = jnp.square(jnp.sum(weight, axis=0)) / jnp.maximum(jnp.sum(jnp.square(weight), axis=0), 1e-30)
    share = gamma ** jnp.arange(batch.reward.shape[1]) * jnp.any(batch.mask, axis=0)
    return jnp.sum(share * size) / jnp.sum(share)


def action_ratio(batch: Batch) -> jax.Array:
    """pi(a_t|s_t) / mu(a_t|s_t), `[N, T]`."""
    return jnp.exp(jnp.minimum(batch.log_ratio, MAX_LOG_WEIGHT))


# Terms: the mean over episodes is the estimate, so intervals for means apply to them


def trajectory_terms(batch: Batch, gamma: Scalar) -> jax.Array:
    """w_T G of each episode, `[N]`."""
    return jnp.exp(log_weights(batch)[:, -1]) * returns(batch, gamma)


def per_decision_terms(batch: Batch, gamma: Scalar) -> jax.Array:
    """sum_t gamma^t w_t r_t of each episode, `[N]`."""
    return jnp.sum(_powers(batch, gamma) * jnp.exp(log_weights(batch)) * batch.reward, axis=1)


def direct_terms(batch: Batch, gamma: Scalar) -> jax.Array:
    """V(s_0) of each episode, `[N]`."""
    del gamma
    return batch.v[:, 0]


def doubly_robust_terms(batch: Batch, gamma: Scalar) -> jax.Array:
    """sum_t gamma^t (w_{t-1} V(s_t) + w_t (r_t - Q(s_t, a_t))) + gamma^T w_T V(s_T) of each episode, `[N]`.

    w_{-1} is 1, and the last term is `tail`'s.
    """
    weight = jnp.exp(log_weights(batch))
    before = jnp.concatenate([jnp.ones_like(weight[:, :1]), weight[:, :-1]], axis=1)
    return jnp.sum(_robust_steps(batch, gamma, weight, before), axis=1) + _tails(batch, gamma, weight[:, -1])


def marginal_terms(batch: Batch, gamma: Scalar) -> jax.Array:
    """sum_t w(s_t, a_t) r_t of each episode, `[N]`; the marginal weights are discounted."""
    del gamma
    return jnp.sum(batch.marginal * batch.reward, axis=1)


def marginal_robust_terms(batch: Batch, gamma: Scalar) -> jax.Array:
    """V(s_0) + sum_t w(s_t, a_t) (r_t + gamma V(s_{t+1}) - Q(s_t, a_t)) of each episode, `[N]` (arXiv 1909.05850)."""
    number = jnp.arange(batch.mask.shape[1])
    is_last = batch.mask & (number == jnp.sum(batch.mask, axis=1, keepdims=True) - 1)
    later = jnp.where(is_last, batch.tail[:, None], jnp.roll(batch.v, -1, axis=1))
    return batch.v[:, 0] + jnp.sum(batch.marginal * (batch.reward + gamma * later - batch.q), axis=1)


def of_states(terms: Callable[[Batch, Scalar], jax.Array]) -> Callable[[Batch, Scalar], jax.Array]:
    """The same terms with w(s_t) pi(a_t|s_t) / mu(a_t|s_t) in place of w(s_t, a_t)."""

    def with_ratio(batch: Batch, gamma: Scalar) -> jax.Array:
        return terms(batch._replace(marginal=batch.of_state * action_ratio(batch)), gamma)

    return with_ratio


TERMS: dict[str, Callable[[Batch, Scalar], jax.Array]] = {
    "TIS": trajectory_terms,
    "PDIS": per_decision_terms,
    "DM": direct_terms,
    "DR": doubly_robust_terms,
    "MIS": marginal_terms,
    "MDR": marginal_robust_terms,
    "SMIS": of_states(marginal_terms),
    "SMDR": of_states(marginal_robust_terms),
}


# Estimates


def mean_of(terms: Callable[[Batch, Scalar], jax.Array]) -> Callable[[Batch, Scalar, jax.Array], jax.Array]:
    """The estimator that is the weighted mean of these terms."""

    def estimate(batch: Batch, gamma: Scalar, weights: jax.Array) -> jax.Array:
        return jnp.sum(weights * terms(batch, gamma)) / jnp.sum(weights)

    return estimate


def self_normalised_trajectory(batch: Batch, gamma: Scalar, weights: jax.Array) -> jax.Array:
    """sum_i w_i G_i / sum_i w_i, []: biased, consistent, and within the range of the returns."""
    return jnp.sum(normalised(log_weights(batch)[:, -1], weights) * returns(batch, gamma))


def self_normalised_per_decision(batch: Batch, gamma: Scalar, weights: jax.Array) -> jax.Array:
    """sum_t gamma^t sum_i w_it r_it / sum_i w_it, []; episodes that have ended are in the denominator."""
    share = normalised(log_weights(batch), weights)
    return jnp.sum(_powers(batch, gamma) * share * batch.reward)


def weighted_doubly_robust(batch: Batch, gamma: Scalar, weights: jax.Array) -> jax.Array:
    """The doubly robust estimate with weights normalised at each step, []; before the first step all are equal."""
    share = normalised(log_weights(batch), weights)
    before = jnp.concatenate([(weights / jnp.sum(weights))[:, None], share[:, :-1]], axis=1)
    return jnp.sum(_robust_steps(batch, gamma, share, before)) + jnp.sum(_tails(batch, gamma, share[:, -1]))


ESTIMATORS: dict[str, Callable[[Batch, Scalar, jax.Array], jax.Array]] = {
    "TIS": mean_of(trajectory_terms),
    "SNTIS": self_normalised_trajectory,
    "PDIS": mean_of(per_decision_terms),
    "SNPDIS": self_normalised_per_decision,
    "DM": mean_of(direct_terms),
    "DR": mean_of(doubly_robust_terms),
    "WDR": weighted_doubly_robust,
    **{name: mean_of(TERMS[name]) for name in ("MIS", "MDR", "SMIS", "SMDR")},
}
WEIGHTED = ("TIS", "SNTIS", "PDIS", "SNPDIS", "DR", "WDR")  # those with products of ratios
MODELLED = ("DM", "DR", "WDR", "MDR", "SMDR")  # those that need Q and V
MARGINALISED = ("MIS", "MDR")  # those that need marginal weights of states and actions
OF_STATES = ("SMIS", "SMDR")  # those that need marginal weights of states, and densities


def _powers(batch: Batch, gamma: Scalar) -> jax.Array:
    """gamma^t where the episode goes on, else 0, `[N, T]`."""
    return jnp.where(batch.mask, jnp.asarray(gamma) ** jnp.arange(batch.mask.shape[1]), 0.0)


def _robust_steps(batch: Batch, gamma: Scalar, weight: jax.Array, before: jax.Array) -> jax.Array:
    return _powers(batch, gamma) * (before * batch.v + weight * (batch.reward - batch.q))


def _tails(batch: Batch, gamma: Scalar, weight: jax.Array) -> jax.Array:
    return weight * batch.tail * jnp.asarray(gamma) ** jnp.sum(batch.mask, axis=1)


def normalised(log_weight: jax.Array, weights: jax.Array) -> jax.Array:
    """Importance weights `[N, ...]` times `weights` `[N]`, as shares that sum to 1 over episodes."""
    counts = weights.reshape(-1, *[1] * (log_weight.ndim - 1))
    largest = jnp.max(jnp.where(counts > 0, log_weight, -jnp.inf), axis=0)
    weight = counts * jnp.exp(jnp.minimum(log_weight - largest, 0.0))  # an episode that does not count may be larger
    return weight / jnp.sum(weight, axis=0)
