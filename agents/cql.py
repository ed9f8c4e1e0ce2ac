"""Conservative Q-learning (Kumar et al., arXiv 2006.04779): SAC with lower values where the data has no actions.

With `calibrated` it is Cal-QL (Nakamoto et al., arXiv 2303.05479): values that are below the data's return already
are not lowered further, so that learning can go on online.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rlx import halves, losses, parallel, policies
from rlx.agents import sac
from rlx.optim import Learner
from rlx.parallel.xla import in_blocks
from rlx.types import COUNT, POSITIVE, Key, Metrics, Params, Spec, Transition, setting


@dataclass(frozen=True)
class Config(sac.Config):
    """Static (compile-time) configuration."""

    penalty_actions: int = setting(
        10, "actions in the penalty: that many uniform ones, of the policy, and of the policy at the next step", COUNT
    )
    backup_actions: int = setting(
        10, "actions of the policy at the next step, the best of which the target takes", COUNT
    )
    calibrated: bool = setting(
        False, "Cal-QL: in the penalty, values of the policy's actions count at least the data's return"
    )
    lagrange: bool = setting(False, "learn a factor on the penalty, so that the gap becomes `--gap-target`")


class Hypers(sac.Hypers):
    """Hyper-parameters, traced."""

    actor_lr: float | jax.Array = setting(1e-4, "learning rate of the actor (Adam)", POSITIVE)
    alpha_lr: float | jax.Array = setting(1e-4, "learning rate of the temperature (Adam)", POSITIVE)
    penalty_weight: float | jax.Array = setting(5.0, "weight of the penalty (alpha in the paper)", POSITIVE)
    gap_target: float | jax.Array = setting(1.0, "gap that `--lagrange` aims at (tau in the paper)")


class CriticState(halves.HalfState):
    """The critic half."""

    log_factor: Learner | None  # parameters []; of the Lagrange variant


def draw(nets: sac.Networks, policy: sac.Policy, batch: Transition, key: Key, n: int) -> tuple[jax.Array, jax.Array]:
    """n uniform actions and 2n of the policy, at the observation and at the next: `[3n, B, A]`, log-densities
    `[3n, B]`."""
    uniform_key, policy_key = jax.random.split(key)
    uniform = jax.random.uniform(uniform_key, (n, *batch.action.shape), batch.action.dtype, -1.0, 1.0)
    both = jnp.stack([batch.observation, batch.next_observation])
    policies_at = policies.tanh_normal(nets.actor, policy.params, both)
    sampled, log_prob = policies_at.sample_and_log_prob(seed=policy_key, sample_shape=n)
    density = jnp.full(uniform.shape[:2], -nets.action_size * math.log(2.0), log_prob.dtype)
    actions = jnp.concatenate([uniform, sampled.reshape(2 * n, *batch.action.shape)])
    return actions, jnp.concatenate([density, log_prob.reshape(2 * n, -1)])


def gap(q: jax.Array, log_density: jax.Array, floor: jax.Array | None = None) -> jax.Array:
    """How far all actions' values are above the data's: log of the sum of exp(Q) / density, minus Q(s, a), `[N, B]`.

    `q` is `[N, 1 + 3n, B]`, the data's actions first, then those of `draw`, of `log_density` `[3n, B]` (arXiv
    2006.04779, eq. 4 and appendix F; the sum is not divided by 3n). Values of the policy's actions count at least
    `floor` `[B]` (arXiv 2303.05479, eq. 5.1).
    """
    of_data, drawn = q[:, 0], q[:, 1:]
    if floor is not None:
        n = drawn.shape[1] // 3
        drawn = jnp.concatenate([drawn[:, :n], jnp.maximum(drawn[:, n:], floor[None, None])], axis=1)
    return jax.nn.logsumexp(drawn - log_density[None], axis=1) - of_data


def values(critic: Callable[..., Any], params: Params, observation: jax.Array, action: jax.Array, **train: Any) -> Any:
    """The critics' values `[N, K, B]` of K actions `[K, B, A]` at each observation `[B, O]`, and new statistics.

    On a CPU they are computed some rows at a time, each with the same dropout, since activations of all would leave
    the caches; batch norm, with `train`, needs all rows at once.
    """
    observations = jnp.broadcast_to(observation, (*action.shape[:-1], observation.shape[-1]))
    rows = tuple(x.reshape(-1, x.shape[-1]) for x in (observations, action))
    if train:
        q, statistics = critic(params, *rows, **train)
        return q.reshape(-1, *action.shape[:-1]), statistics
    q = in_blocks(lambda rows: critic(params, *rows).T, rows, recompute=True)
    return q.T.reshape(-1, *action.shape[:-1])


def best_value(
    nets: sac.Networks, policy: sac.Policy, target_values: Any, batch: Transition, key: Key, n: int
) -> jax.Array:
    """min Q' of the best of n actions of the policy at the next observation, `[B]`."""
    action, _ = policies.tanh_normal(nets.actor, policy.params, batch.next_observation).sample_and_log_prob(
        seed=key, sample_shape=n
    )
    return target_values(batch.next_observation, action).min(axis=0).max(axis=0)


def update_critic(
    nets: sac.Networks, state: CriticState, policy: sac.Policy, batch: Transition, key: Key, *, config: Config
) -> tuple[CriticState, Metrics]:
    """All critics towards r + gamma d Q' and down their gap, then their target networks (arXiv 2006.04779, eq. 4)."""
    hypers, (draw_key, next_key) = state.hypers, jax.random.split(key)
    target_critic, critic = (nets.critic.with_dropout(key, index) for index in (2, 3))
    bootstrap = partial(values, target_critic, state.learner.target_variables)
    target = halves.td_target(
        batch, best_value(nets, policy, bootstrap, batch, next_key, config.backup_actions), hypers
    )
    actions, log_density = draw(nets, policy, batch, draw_key, config.penalty_actions)
    rows = batch._replace(action=jnp.concatenate([batch.action[None], actions]))
    floor = hypers.reward_scale * batch.extras["return_to_go"] if config.calibrated else None
    weight, aim = hypers.penalty_weight, 0.0
    if state.log_factor is not None:
        weight, aim = weight * jnp.minimum(jnp.exp(state.log_factor.params), 1e6), hypers.gap_target

    def gaps(q: jax.Array) -> jax.Array:  # of each critic, [N]
        return gap(q, log_density, floor).mean(axis=1) - aim

    new, metrics = halves.update_critics(
        state,
        partial(values, critic),
        rows,
        target,
        nets.axes,
        regress=lambda q, target: losses.ensemble_td_loss(q[:, 0], target) + weight * gaps(q).sum(),
        values=lambda q: q[:, 0],
        measure=lambda q: {"gap": gaps(q).mean() + aim},
        target_mean=target.mean(),
    )
    if state.log_factor is None:
        return new, metrics

    def factor_loss(log_factor: jax.Array) -> tuple[jax.Array, Metrics]:
        factor = jnp.minimum(jnp.exp(log_factor), 1e6)
        return -factor * hypers.penalty_weight * (metrics["gap"] - aim), {"penalty_factor": factor}

    log_factor, factor_metrics = state.log_factor.step(factor_loss, hypers.critic_lr, nets.axes)
    return new.replace(log_factor=log_factor), metrics | factor_metrics


def no_bound(policy: Any, rows: Any, info: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The bound of rows that the run collects, `[K, E]`: none, since their return is not known when they are stored."""
    del policy, info
    return {"return_to_go": jnp.full_like(rows.reward, jnp.finfo(jnp.float32).min)}


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> sac.SoftAgent:
    """CQL for environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = sac.make_networks(config, spec, axes)

    def init_critic(key: Key, hypers: Hypers) -> CriticState:
        log_factor: Any = (
            Learner.create(jnp.ones((), jnp.float32)) if config.lagrange else None
        )  # as its authors start it
        return CriticState.create(hypers, Learner.create(nets.critic.init(key), target=True), log_factor=log_factor)

    return sac.assemble(nets, Hypers)._replace(
        init=halves.make_init(Hypers, init_critic, halves.init_soft_actor(nets.actor)),
        update_critic=partial(update_critic, nets, config=config),
        records=no_bound if config.calibrated else None,
    )
