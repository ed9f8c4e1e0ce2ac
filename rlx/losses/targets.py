"""Learning targets of values, folded windows and returns, and averages of parameters."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlx.types import Params

Scalar = jax.Array | float


def td_target(
    reward: jax.Array, discount: jax.Array, next_value: jax.Array, gamma: Scalar, reward_scale: Scalar = 1.0
) -> jax.Array:
    """`reward_scale * reward + gamma * discount * next_value`, without gradient.

    `reward` and `discount` are `[B]`; `next_value` is `[B]`, or `[B, K]` for the atoms of a return distribution.
    """
    chex.assert_rank([reward, discount, next_value, gamma, reward_scale], [1, 1, {1, 2}, 0, 0])
    chex.assert_equal_shape_prefix([reward, discount, next_value], 1)
    reward, discount = _expand_to(reward, next_value), _expand_to(discount, next_value)
    return jax.lax.stop_gradient(reward_scale * reward + gamma * discount * next_value)


def soft_value(value: jax.Array, log_prob: jax.Array, alpha: Scalar) -> jax.Array:
    """The value with its entropy term, `value - alpha * log_prob` (arXiv 1812.05905, eq. 3).

    `log_prob` is `[B]`; `value` is `[B]`, or `[B, K]` for atoms.
    """
    chex.assert_rank([value, log_prob, alpha], [{1, 2}, 1, 0])
    chex.assert_equal_shape_prefix([value, log_prob], 1)
    return value - alpha * _expand_to(log_prob, value)


def ensemble_min(q: jax.Array) -> jax.Array:
    """The smallest of N estimates, `[N, B]` -> `[B]`: clipped double Q where N = 2 (arXiv 1802.09477).

    Of values of n discrete actions, `[N, B, n]` -> `[B, n]`.
    """
    chex.assert_rank(q, {2, 3})
    return jnp.min(q, axis=0)


def smoothed_action(action: jax.Array, noise: jax.Array, max_noise: Scalar) -> jax.Array:
    """A deterministic policy's target action with clipped noise, in [-1, 1]; all `[B, A]` (TD3, arXiv 1802.09477)."""
    chex.assert_rank([action, noise, max_noise], [2, 2, 0])
    chex.assert_equal_shape([action, noise])
    return jnp.clip(action + jnp.clip(noise, -max_noise, max_noise), -1.0, 1.0)


def n_step(
    reward: jax.Array, terminated: jax.Array, truncated: jax.Array, gamma: Scalar
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Folds windows of T consecutive steps `[T, B]` into one transition each: reward, discount, last, all `[B]`.

    A window ends with its first terminated or truncated step (flags are bool); what lies beyond belongs to another
    episode and is not read. With m steps taken, `reward` is sum_{k<m} gamma^k reward_k, `last` = m - 1 is the row whose
    successor is bootstrapped from, and `discount` = gamma^(m-1) * (1 - terminated_last), so that the target is
    `reward + gamma * discount * Q(successor of last)`.
    """
    chex.assert_rank([reward, terminated, truncated, gamma], [2, 2, 2, 0])
    chex.assert_equal_shape([reward, terminated, truncated])
    chex.assert_type([terminated, truncated], bool)
    ended = jnp.cumsum(terminated | truncated, axis=0)
    taken = jnp.concatenate([jnp.ones_like(terminated[:1]), ended[:-1] == 0])
    powers = jnp.asarray(gamma, reward.dtype) ** jnp.arange(reward.shape[0])
    last = jnp.sum(taken, axis=0, dtype=jnp.int32) - 1
    folded = jnp.sum(jnp.where(taken, powers[:, None] * reward, 0.0), axis=0)  # where: rows beyond may hold anything
    return folded, jnp.where(jnp.any(terminated & taken, axis=0), 0.0, powers[last]), last


def generalised_advantage(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    gamma: Scalar,
    gae_lambda: Scalar,
) -> jax.Array:
    """Advantages of T consecutive steps, all `[T, B]`, without gradient (GAE, arXiv 1506.02438, eq. 16).

    A_t = delta_t + gamma lambda A_{t+1} within an episode, delta_t = r_t + gamma V(s_{t+1}) - V(s_t). `next_value` is
    of the true successors: it bootstraps after the last step and where an episode was `truncated`; after a termination
    0 does. `advantage + value` is the lambda-return.
    """
    chex.assert_rank([reward, gamma, gae_lambda], [2, 0, 0])
    chex.assert_equal_shape([reward, value, next_value, terminated, truncated])
    chex.assert_type([terminated, truncated], bool)
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value
    trace = jnp.where(terminated | truncated, 0.0, gamma * gae_lambda)  # of what follows

    def back(later: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        advantage = step[0] + step[1] * later
        return advantage, advantage

    _, advantage = jax.lax.scan(back, jnp.zeros_like(delta[0]), (delta, trace), reverse=True)
    return jax.lax.stop_gradient(advantage)


def lambda_return(
    reward: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    gamma: Scalar,
    trace: Scalar,
) -> jax.Array:
    """Lambda-returns of T consecutive steps, all `[T, B]`, without gradient, with lambda `trace`.

    G_t = r_t + gamma ((1 - lambda) V(s_{t+1}) + lambda G_{t+1}) within an episode. `next_value` is of the true
    successors: alone it follows the last step, and where an episode was `truncated`; after a termination 0 does.
    """
    chex.assert_rank([reward, gamma, trace], [2, 0, 0])
    chex.assert_equal_shape([reward, next_value, terminated, truncated])
    chex.assert_type([terminated, truncated], bool)
    next_value = jnp.where(terminated, 0.0, next_value)
    weight = jnp.where(terminated | truncated, 0.0, trace)  # of what follows

    def back(later: jax.Array, step: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        reward, next_value, weight = step
        result = reward + gamma * ((1 - weight) * next_value + weight * later)
        return result, result

    _, result = jax.lax.scan(back, next_value[-1], (reward, next_value, weight), reverse=True)
    return jax.lax.stop_gradient(result)


def polyak(target: Params, online: Params, tau: Scalar) -> Params:
    """`(1 - tau) * target + tau * online`, leaf by leaf; both trees have the same shapes."""
    chex.assert_trees_all_equal_shapes(target, online)
    return jax.tree.map(lambda t, o: (1 - tau) * t + tau * o, target, online)


def _expand_to(per_sample: jax.Array, values: jax.Array) -> jax.Array:
    """`[B]` in the rank of `values`, `[B]` or `[B, K]`."""
    return per_sample.reshape(per_sample.shape + (1,) * (values.ndim - 1))
