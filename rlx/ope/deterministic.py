"""The doubly robust value of a deterministic policy, and its gradient (Kallus and Uehara, arXiv 2006.03900).

The kernel of a single step stands in for the density (`rlx.ope.kernels`), and marginal weights of states for the
product over the steps before, so the error's rate in the number of episodes does not depend on their length. Q and the
weights are linear in features and have closed forms, so the value is a differentiable function of the policy's
parameters: `jax.grad` of it is the doubly robust gradient, with the derivatives of Q and of the weights in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx.ope import kernels, marginal
from rlx.ope.estimators import Batch, Scalar, make_batch, marginal_robust_terms


class Episodes(NamedTuple):
    """N episodes of at most T steps."""

    observation: Any  # [N, T, O], with the time in it where values depend on it
    next_observation: Any  # [N, T, O]
    action: Any  # [N, T, A]
    reward: Any  # [N, T]
    mask: Any  # [N, T] bool
    discount: Any  # [N, T], 0 where an episode ends
    log_prob: Any  # [N, T], log mu(a|s)


class Model(NamedTuple):
    """Linear classes of Q and of the weights of states, and how wide the kernel is."""

    of_state: Callable[[Any], jax.Array]  # observation [..., O] -> [..., D]
    of_action: Callable[[Any, Any], jax.Array]  # (observation [..., O], action [..., A]) -> [..., D]
    bandwidth: Scalar
    ridge: Scalar = 1e-6  # in units of the moments' mean square
    bounded: bool = True  # whether actions are in [-1, 1] (see `rlx.ope.kernels`)


def fit(act: Callable[[Any], jax.Array], episodes: Episodes, model: Model, gamma: Scalar) -> Batch:
    """What estimators read of the policy `act` `[..., O]` to `[..., A]`: ratios by its kernel, Q, V and weights.

    Q is by least squares of the temporal difference (LSTD-Q), the weights are those of `rlx.ope.marginal`.
    """
    seen, after, taken = episodes.observation, episodes.next_observation, episodes.action
    log_ratio = kernels.log_kernel(taken, act(seen), model.bandwidth, model.bounded) - episodes.log_prob
    counts = jnp.where(episodes.mask, 1.0, 0.0)
    going_on = counts * episodes.discount

    def flat(x: jax.Array) -> jax.Array:
        return x.reshape(-1, x.shape[-1])

    here, following = model.of_action(seen, taken), model.of_action(after, act(after))
    change = flat(counts[..., None] * here - gamma * going_on[..., None] * following)
    moments = flat(counts[..., None] * here).T @ change
    goal = flat(counts[..., None] * here).T @ (counts * episodes.reward).reshape(-1)
    weights = marginal.least_squares(moments, goal, model.ridge)

    states, ratio = model.of_state(seen), jnp.exp(log_ratio)
    lost = counts[..., None] * states - gamma * (going_on * ratio)[..., None] * model.of_state(after)
    base = (counts * gamma ** jnp.arange(counts.shape[1])).reshape(-1)
    visits = marginal.minimax_weights(flat(states), flat(lost), states[:, 0], base, model.ridge).reshape(counts.shape)
    q, v = here @ weights, model.of_action(seen, act(seen)) @ weights
    return make_batch(episodes.reward, episodes.mask, log_ratio, q, v, visits * ratio, visits)


def value(act: Callable[[Any], jax.Array], episodes: Episodes, model: Model, gamma: Scalar) -> jax.Array:
    """The doubly robust value, []: differentiable in the parameters that `act` depends on."""
    return jnp.mean(marginal_robust_terms(fit(act, episodes, model, gamma), gamma))
