"""Implicit flow Q-learning (arXiv 2502.02538, appendix): IDQL with a flow as the model of the data's actions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax

from rlx import diffusion, halves, networks, optim, parallel, policies
from rlx.agents import idql, iql
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.types import COUNT, SHARE, Agent, Key, Params, Spec, Transition, setting


@dataclass(frozen=True)
class Config(halves.FlowConfig, iql.CriticConfig):
    """Static (compile-time) configuration."""

    value_layer_norm: bool = setting(True, "LayerNorm in the value network")
    actor_decay_steps: int = halves.decay_steps(-1)
    num_samples: int = setting(32, "candidate actions, of which the best is taken", COUNT)


class Hypers(iql.CriticHypers):
    """Hyper-parameters, traced."""

    expectile: float | jax.Array = setting(0.9, "expectile, or quantile, of the data's values that V learns", SHARE)


def flow_matching(flow: Network, params: Params, batch: Transition, key: Key) -> jax.Array:
    """The flow's loss, [] (arXiv 2502.02538, section 3)."""
    return diffusion.flow_loss(partial(flow.apply, params, batch.observation), batch.action, key)


def make(
    config: Config, spec: Spec, axes: parallel.Axes = ()
) -> Agent[iql.CriticState, HalfState, iql.Value, idql.Policy]:
    """IFQL for environments of `spec`; gradients are averaged over the mapped `axes`."""
    flow = networks.make_velocity(spec, config.actor_hidden_sizes, **config.network_options())
    nets = idql.Networks(
        critic=iql.make_critic_networks(config, spec, axes),
        init_model=flow.init,
        imitation_loss=partial(flow_matching, flow),
        sample=partial(policies.flow_samples, flow, config.flow_steps, spec.action_size),
        optimizer=lambda hypers: optim.adam,
        average=None,
        decay=optim.make_schedule("cosine", config.actor_decay_steps),
        axes=axes,
    )
    return idql.assemble(nets, Hypers, config.num_samples, explore_samples=0)
