"""PQN, a parallelised Q-network (Gallici et al., arXiv 2407.04811): Q(lambda) on each new block.

It has neither target networks nor replay: LayerNorm, and many environments at once, keep its values stable.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rlx import halves, losses, optim, parallel
from rlx.agents import dqn
from rlx.halves import HalfState
from rlx.types import POSITIVE, SHARE, Key, Metrics, Spec, Transition, setting


@dataclass(frozen=True)
class Config(dqn.ExplorationConfig):
    """Static (compile-time) configuration."""

    layer_norm: bool = setting(True, "LayerNorm in the critics")


class Hypers(dqn.BaseHypers):
    """Hyper-parameters, traced."""

    td_lambda: float | jax.Array = setting(0.65, "lambda of the returns that values are learned from", SHARE)
    final_lr_fraction: float | jax.Array = setting(
        0.0, "share of the learning rate that is left at the end of its linear fall", SHARE
    )
    max_gradient_norm: float | jax.Array = setting(10.0, "gradients are scaled down to this norm", POSITIVE)


def record(nets: dqn.Networks, policy: dqn.Policy, rows: Any, info: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Of a block [K, E, ...]: r + gamma ((1 - lambda) max Q(s') + lambda G'), G' of the next row (Q(lambda))."""
    del info
    hypers, ends = policy.hypers, (rows.terminated, rows.truncated)
    best = jnp.max(dqn.values(nets, policy, rows.next_observation), axis=-1)
    target = losses.lambda_return(hypers.reward_scale * rows.reward, best, *ends, hypers.gamma, hypers.td_lambda)
    return {"value_target": target}


def update_critic(
    nets: dqn.Networks, config: Config, state: HalfState, policy: dqn.Policy, batch: Transition, key: Key
) -> tuple[HalfState, Metrics]:
    """The critics towards the block's lambda-returns, by squared error (arXiv 2407.04811, algorithm 1)."""
    hypers = state.hypers
    left = optim.make_schedule("linear", config.schedule_updates)(state.step)
    rate = hypers.critic_lr * (hypers.final_lr_fraction + (1 - hypers.final_lr_fraction) * left)
    critic, target = nets.critic.with_dropout(key, 0), batch.extras["value_target"]
    options = {"tau": 0.0, "rate": rate, "optimizer": halves.limited_adam(hypers), "epsilon": policy.epsilon}
    return halves.update_discrete_critics(state, critic, batch, target, nets.axes, **options)


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> dqn.QAgent:
    """PQN for environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = dqn.Networks(halves.make_discrete_critic(config, spec, axes), axes)
    return dqn.assemble(
        config,
        nets,
        partial(update_critic, nets, config),
        defaults=Hypers,
        optimizer=halves.limited_adam,
        records=partial(record, nets),
        on_policy=True,
    )
