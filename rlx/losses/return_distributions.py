"""Critics that learn a distribution of the return: quantiles (TQC, arXiv 2005.04269) and a fixed support (C51, arXiv
1707.06887; PQL-D, arXiv 2307.12983)."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlx.errors import RlxError
from rlx.losses.targets import Scalar


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
