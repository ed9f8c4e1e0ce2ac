"""The mathematics of the agents: targets, losses and weights. Arrays in, arrays out; no networks and no state.

Shapes are asserted when a function is traced, so `[B]` against `[B, 1]` is an error and never broadcasts. Scalars
(gamma, kappa, expectile, beta, ...) may all be traced: no Python branch looks at them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rlx.errors import RlxError
from rlx.types import Params

Scalar = jax.Array | float


# Targets


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
    return folded, powers[last] * ~jnp.any(terminated & taken, axis=0), last


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
    trace = gamma * gae_lambda * ~(terminated | truncated)

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


# Critics with a scalar value


def ensemble_td_loss(q: jax.Array, target: jax.Array) -> jax.Array:
    """Squared error of every critic `[N, B]` against one target `[B]`: mean over B, sum over N."""
    chex.assert_rank([q, target], [2, 1])
    chex.assert_shape(q, (None, *target.shape))
    return jnp.sum(jnp.mean(jnp.square(q - target[None]), axis=1))


def ensemble_huber_loss(q: jax.Array, target: jax.Array, delta: Scalar) -> jax.Array:
    """Huber loss, x^2 / 2 within `delta`, of critics `[N, B]` against one target `[B]`: mean over B, sum over N."""
    chex.assert_rank([q, target, delta], [2, 1, 0])
    chex.assert_shape(q, (None, *target.shape))
    error = q - target[None]
    within = jnp.clip(error, -delta, delta)
    return jnp.sum(jnp.mean(within * (error - within / 2), axis=1))


# Actors


def soft_actor_loss(q: jax.Array, log_prob: jax.Array, alpha: Scalar) -> jax.Array:
    """Mean of `alpha * log_prob - q`, both `[B]` (SAC, arXiv 1812.05905, eq. 7)."""
    chex.assert_rank([q, log_prob, alpha], [1, 1, 0])
    chex.assert_equal_shape([q, log_prob])
    return jnp.mean(alpha * log_prob - q)


def temperature_loss(log_alpha: jax.Array, log_prob: jax.Array, target_entropy: Scalar) -> jax.Array:
    """Mean of `-log_alpha * (log_prob + target_entropy)`, `log_prob` `[B]` without gradient.

    SAC (arXiv 1812.05905, eq. 18) with log alpha in place of alpha, as its authors' code has it: alpha stays positive.
    """
    chex.assert_rank([log_alpha, log_prob, target_entropy], [0, 1, 0])
    return -log_alpha * jnp.mean(jax.lax.stop_gradient(log_prob + target_entropy))


def alpha_loss(log_alpha: jax.Array, log_prob: jax.Array, target_entropy: Scalar) -> jax.Array:
    """Mean of `-alpha * (log_prob + target_entropy)`: `temperature_loss` with the gradient through alpha itself.

    As the paper has it (arXiv 1812.05905, eq. 18), and the code of CrossQ, XQC and FlashSAC. The gradient is alpha
    times the other's, so a small alpha moves slowly.
    """
    return temperature_loss(jnp.exp(log_alpha), log_prob, target_entropy)


def gaussian_kl(mean: jax.Array, log_std: jax.Array, other_mean: jax.Array, other_log_std: jax.Array) -> jax.Array:
    """KL(one || other) of diagonal Gaussians, all `[B, A]`: `[B]`. Squashed by tanh, it is the same."""
    chex.assert_equal_shape([mean, log_std, other_mean, other_log_std])
    ratio = jnp.exp(2 * (log_std - other_log_std))
    shift = jnp.square((mean - other_mean) * jnp.exp(-other_log_std))
    return jnp.sum(other_log_std - log_std + (ratio + shift - 1) / 2, axis=-1)


TEMPERATURE_LOSSES = {"log_alpha": temperature_loss, "alpha": alpha_loss}


def advantage_weights(advantage: jax.Array, beta: Scalar, max_weight: Scalar = 100.0) -> jax.Array:
    """Weights of advantage-weighted regression, `min(exp(beta * advantage), max_weight)`, without gradient.

    `[B]` -> `[B]`. IQL (arXiv 2110.06169, eq. 7); the cap of 100 is its authors' code.
    """
    chex.assert_rank([advantage, beta, max_weight], [1, 0, 0])
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(beta * advantage), max_weight))


def td3_bc_lambda(q: jax.Array, alpha: Scalar = 2.5) -> jax.Array:
    """TD3+BC's weight of the value term, `alpha / mean|q|`, `[B]` -> `[]`, without gradient (arXiv 2106.06860, eq. 5).

    The mean is kept above 1e-6: a critic that is still zero everywhere gives a large weight, not NaN.
    """
    chex.assert_rank([q, alpha], [1, 0])
    return jax.lax.stop_gradient(alpha / jnp.maximum(jnp.mean(jnp.abs(q)), 1e-6))


# Value losses f(u) of u = Q - V, any shape, elementwise (IDQL, arXiv 2304.10573), and the weights
# w = |f'(u)| / |u| of the policies they imply (up to a constant factor: weights are normalised over the actions).


def expectile_loss(u: jax.Array, expectile: Scalar) -> jax.Array:
    """`|expectile - 1(u < 0)| * u^2` (IQL, arXiv 2110.06169, eq. 5)."""
    return expectile_weight(u, expectile) * jnp.square(u)


def expectile_weight(u: jax.Array, expectile: Scalar) -> jax.Array:
    """`|expectile - 1(u < 0)|`."""
    chex.assert_rank(expectile, 0)
    return jnp.abs(expectile - (u < 0).astype(u.dtype))


def quantile_loss(u: jax.Array, quantile: Scalar) -> jax.Array:
    """`|quantile - 1(u < 0)| * |u|`."""
    return expectile_weight(u, quantile) * jnp.abs(u)


def quantile_weight(u: jax.Array, quantile: Scalar) -> jax.Array:
    """`|quantile - 1(u < 0)| / |u|`, with |u| kept above 1e-6: the weight has a pole at 0."""
    return expectile_weight(u, quantile) / jnp.maximum(jnp.abs(u), 1e-6)


def exponential_loss(u: jax.Array, beta: Scalar, max_exponent: Scalar = 5.0) -> jax.Array:
    """`exp(beta * u) - beta * u`, going on as a straight line where the exponent passes `max_exponent`.

    A straight line, because clipping the exponent alone would leave the slope `-beta`: large errors would then push
    the value the wrong way.
    """
    chex.assert_rank([beta, max_exponent], 0)
    x = beta * u
    clipped = jnp.minimum(x, max_exponent)
    return jnp.exp(clipped) * (1 + x - clipped) - x


def exponential_weight(u: jax.Array, beta: Scalar, max_exponent: Scalar = 5.0) -> jax.Array:
    """`beta * |exp(beta * u) - 1| / |u|`, which is beta^2 at u = 0; the exponent is clipped as in the loss."""
    chex.assert_rank([beta, max_exponent], 0)
    x = beta * u
    safe = jnp.where(x == 0, 1.0, x)  # expm1 is exact near 0, so only 0 itself needs care
    return beta**2 * jnp.where(x == 0, 1.0, jnp.expm1(jnp.minimum(safe, max_exponent)) / safe)


# Dual value losses, lambda max(f*(u), 0) - (1 - lambda) u (f-DVL, arXiv 2302.08560), of two divergences' conjugates f*.


def chi_square_loss(u: jax.Array, dual: Scalar) -> jax.Array:
    """With f*(u) = u + u^2 / 4; below 0 nothing of it counts."""
    above = jnp.maximum(u, 0.0)
    return dual * (above + jnp.square(above) / 4) - (1 - dual) * u


def chi_square_weight(u: jax.Array, dual: Scalar) -> jax.Array:
    """`|dual * (1 + u / 2) * 1(u > 0) - (1 - dual)| / |u|`, with |u| kept above 1e-6."""
    slope = dual * (1 + u / 2) * (u > 0).astype(u.dtype) - (1 - dual)
    return jnp.abs(slope) / jnp.maximum(jnp.abs(u), 1e-6)


def total_variation_loss(u: jax.Array, dual: Scalar) -> jax.Array:
    """With f*(u) = u."""
    return dual * jnp.maximum(u, 0.0) - (1 - dual) * u


def total_variation_weight(u: jax.Array, dual: Scalar) -> jax.Array:
    """`|dual * 1(u > 0) - (1 - dual)| / |u|`, with |u| kept above 1e-6."""
    return jnp.abs(dual * (u > 0).astype(u.dtype) - (1 - dual)) / jnp.maximum(jnp.abs(u), 1e-6)


class ValueLoss(NamedTuple):
    """A loss f and the weight of its implicit policy, both `(u, parameter) -> like u`."""

    loss: Callable[[jax.Array, Scalar], jax.Array]
    weight: Callable[[jax.Array, Scalar], jax.Array]


VALUE_LOSSES = {
    "expectile": ValueLoss(expectile_loss, expectile_weight),
    "quantile": ValueLoss(quantile_loss, quantile_weight),
    "exponential": ValueLoss(exponential_loss, exponential_weight),
    "chi_square": ValueLoss(chi_square_loss, chi_square_weight),
    "total_variation": ValueLoss(total_variation_loss, total_variation_weight),
}


# Quantile critics (TQC, arXiv 2005.04269)


def truncate_atoms(atoms: jax.Array, drop_per_critic: int) -> jax.Array:
    """Pools the atoms of all critics, `[N, B, M]`, and drops the `drop_per_critic * N` largest: `[B, K]`, ascending.

    Raises RlxError if nothing would be left.
    """
    chex.assert_rank(atoms, 3)
    num_critics, batch_size, num_quantiles = atoms.shape
    if not 0 <= drop_per_critic < num_quantiles:
        raise RlxError(f"cannot drop {drop_per_critic} of {num_quantiles} quantiles; choose 0 to {num_quantiles - 1}")
    pooled = jnp.moveaxis(atoms, 0, 1).reshape(batch_size, num_critics * num_quantiles)
    remaining = num_critics * (num_quantiles - drop_per_critic)
    return -jax.lax.top_k(-pooled, remaining)[0]  # half the time of a full sort


def quantile_huber_loss(quantiles: jax.Array, target: jax.Array, kappa: Scalar = 1.0) -> jax.Array:
    """Quantile Huber loss of every critic `[N, B, M]` against the same target atoms `[B, K]`.

    The mean over N, B, M and K of `|tau_hat_m - 1(delta < 0)| * huber(delta)`, delta = target_k - quantile_m,
    tau_hat_m = (m - 0.5) / M for m = 1..M, huber(delta) = delta^2 / 2 within kappa and kappa * (|delta| - kappa / 2)
    beyond (arXiv 2005.04269; the mean over everything is its authors' code). Gradients are of first order and
    reach the quantiles only.
    """
    chex.assert_rank([quantiles, target, kappa], [3, 2, 0])
    num_quantiles, num_atoms = quantiles.shape[-1], target.shape[-1]
    chex.assert_shape(quantiles, (None, target.shape[0], None))
    tau_hat = (jnp.arange(num_quantiles, dtype=quantiles.dtype)[None, None] + 0.5) / num_quantiles
    fixed = jax.lax.stop_gradient(quantiles)

    def add_atom(sums: tuple[jax.Array, jax.Array], atom: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        delta = atom[None, :, None] - fixed
        slope = jnp.clip(delta, -kappa, kappa)  # huber' ; huber itself is slope * (delta - slope / 2)
        weighted = jnp.abs(tau_hat - (delta < 0).astype(delta.dtype)) * slope
        return (sums[0] + weighted * (delta - slope / 2), sums[1] - weighted), None

    # Loss and slope are summed atom by atom: autodiff of the direct form keeps several [N, B, M, K] arrays, and took
    # 33 times as long (N = 5, B = 256, M = 25, K = 115, one core). Unrolling spares accelerators kernel launches.
    zeros = jnp.zeros_like(quantiles, jnp.result_type(quantiles, target, kappa))
    (loss, gradient), _ = jax.lax.scan(add_atom, (zeros, zeros), jax.lax.stop_gradient(target.T), unroll=8)
    return jnp.mean(loss + gradient * (quantiles - fixed)) / num_atoms  # the second term is 0 and carries the gradient


# Categorical critics (C51, arXiv 1707.06887; PQL-D, arXiv 2307.12983)


def categorical_mean(probs: jax.Array, support: jax.Array) -> jax.Array:
    """Means of distributions `[..., M]` over a support `[M]`: `[...]`."""
    chex.assert_rank(support, 1)
    chex.assert_axis_dimension(probs, -1, support.shape[0])
    return probs @ support


def lower_mean(probs: jax.Array, support: jax.Array) -> jax.Array:
    """Per sample, the distribution of the critic with the lowest mean: `[N, B, M]` -> `[B, M]`.

    The counterpart of clipped double Q: an elementwise minimum of probabilities would be no distribution.
    """
    chex.assert_rank(probs, 3)
    lowest = jnp.argmin(categorical_mean(probs, support), axis=0)
    return jnp.take_along_axis(probs, lowest[None, :, None], axis=0)[0]


def categorical_projection(probs: jax.Array, atoms: jax.Array, support: jax.Array) -> jax.Array:
    """Projects distributions `probs` over `atoms`, both `[B, M]`, onto an evenly spaced ascending support `[M]`.

    Each atom is clipped to the support and shares its probability between its two neighbours there, the nearer one
    getting more (arXiv 1707.06887, eq. 7). The atoms are `td_target`s of the support. `[B, M]`, rows sum to 1.
    """
    chex.assert_rank([probs, atoms, support], [2, 2, 1])
    chex.assert_equal_shape([probs, atoms])
    chex.assert_axis_dimension(probs, -1, support.shape[0])
    clipped = jnp.clip(atoms, support[0], support[-1])
    index = jnp.arange(support.shape[0], dtype=support.dtype)[None]
    position = (
        (clipped - support[0]) / (support[-1] - support[0]) * (support.shape[0] - 1)
    )  # in steps of the support, 0 to M - 1

    def add_atom(projected: jax.Array, atom: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        position, prob = atom
        share = jnp.maximum(1 - jnp.abs(position[:, None] - index), 0.0)
        return projected + prob[:, None] * share, None

    # Atom by atom: no [B, M, M] array (18 times as fast at B = 8192), and no scatter, which GPUs add in any order.
    zeros = jnp.zeros_like(probs, jnp.result_type(probs, position))
    return jax.lax.scan(add_atom, zeros, (position.T, probs.T), unroll=8)[0]


def edge_mass(probs: jax.Array) -> jax.Array:
    """Share of the mass of distributions `[..., M]` at the two ends of their support, a mean: `[]`.

    Returns beyond the support pile up there, and the values that are learnt are wrong without any other sign.
    """
    return jnp.mean(probs[..., 0] + probs[..., -1])


def cross_entropy_loss(logits: jax.Array, target_probs: jax.Array) -> jax.Array:
    """Cross-entropy of every critic's `[N, B, M]` against one target distribution `[B, M]`, or one for each critic
    `[N, B, M]`: mean over B, sum over N."""
    chex.assert_rank([logits, target_probs], [3, {2, 3}])
    chex.assert_shape(logits, (None, *target_probs.shape[-2:]))
    target_probs = target_probs[None] if target_probs.ndim == 2 else target_probs
    entropy = -jnp.sum(jax.lax.stop_gradient(target_probs) * jax.nn.log_softmax(logits), axis=-1)
    return jnp.sum(jnp.mean(entropy, axis=1))


def _expand_to(per_sample: jax.Array, values: jax.Array) -> jax.Array:
    """`[B]` in the rank of `values`, `[B]` or `[B, K]`."""
    return per_sample.reshape(per_sample.shape + (1,) * (values.ndim - 1))
