"""EDAC (An et al., arXiv 2110.01548): SAC with the minimum of many critics, whose slopes are pushed apart.

Without the diversity term it is SAC-N of the same paper, which needs more critics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp

from rlx import halves, parallel
from rlx.agents import sac
from rlx.halves import HalfState
from rlx.types import COUNT, POSITIVE, Key, Metrics, Params, Spec, Transition, setting


@dataclass(frozen=True)
class Config(sac.Config):
    """Static (compile-time) configuration."""

    actor_hidden_sizes: tuple[int, ...] = setting((256, 256, 256), "widths of the actor's hidden layers", COUNT)
    critic_hidden_sizes: tuple[int, ...] = setting((256, 256, 256), "widths of every critic's hidden layers", COUNT)
    num_critics: int = setting(10, "critics in the ensemble; their minimum counts", (2, COUNT[1]))
    log_std_min: float = setting(-5.0, "lower bound of log sigma", (-20.0, 2.0), below="log_std_max")


class Hypers(sac.Hypers):
    """Hyper-parameters, traced."""

    diversity_weight: float | jax.Array = setting(
        1.0, "weight of the similarity of the critics' slopes (eta in the paper); 0 is SAC-N", POSITIVE
    )


def similarity(slopes: jax.Array) -> jax.Array:
    """How alike the critics' gradients by the action are, `[N, B, A]` -> `[]`, at most N (arXiv 2110.01548, section 4).

    Mean over B of the sum over pairs i != j of the cosine, divided by N - 1.
    """
    chex.assert_rank(slopes, 3)
    # a tiny summand under the root, so that a slope of 0 has a derivative
    unit = slopes / jnp.sqrt(jnp.sum(jnp.square(slopes), axis=-1, keepdims=True) + 1e-12)
    total = jnp.square(unit.sum(axis=0)).sum(axis=-1)  # of all pairs, i == j as well
    return jnp.mean(total - jnp.square(unit).sum(axis=(0, 2))) / (len(slopes) - 1)


def values_and_slopes(
    critic: Callable[..., Any], params: Params, observation: jax.Array, action: jax.Array, **train: Any
) -> tuple[Any, ...]:
    """The critics' values `[N, B]`, each one's gradient by the action `[N, B, A]`, and with `train` new statistics."""
    count = jax.tree.leaves(params)[0].shape[0]
    observation, action = (jnp.broadcast_to(x, (count, *x.shape)) for x in (observation, action))

    def total(action: jax.Array) -> tuple[jax.Array, Any]:
        result = critic(params, observation, action, each=True, **train)
        q, *statistics = result if train else (result,)
        return q.sum(), (q, *statistics)

    slopes, (q, *statistics) = jax.grad(total, has_aux=True)(action)
    return q, slopes, *statistics


def update_critic(
    nets: sac.Networks, state: HalfState, policy: sac.Policy, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """All critics towards SAC's target, their slopes apart (arXiv 2110.01548, algorithm 1), then their targets."""
    target, critic = sac.soft_target(nets, state, policy, batch, key), nets.critic.with_dropout(key, 3)

    def estimates(params: Params, *inputs: jax.Array, **train: Any) -> Any:  # values and similarity
        q, slopes, *statistics = values_and_slopes(critic, params, *inputs, **train)
        both = q, similarity(slopes)
        return (both, *statistics) if train else both

    return halves.update_critics(
        state,
        estimates,
        batch,
        target,
        nets.axes,
        regress=lambda both, target: nets.regress(both[0], target) + state.hypers.diversity_weight * both[1],
        values=lambda both: both[0],
        measure=lambda both: {"similarity": both[1]},
        target_mean=target.mean(),
    )


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.SoftAgent:
    """EDAC for environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = sac.make_networks(config, spec, axes)
    return sac.assemble(nets, Hypers)._replace(update_critic=partial(update_critic, nets))
