"""Mildly constrained evaluation policy (Xu et al., arXiv 2306.03680): TD3+BC with a second actor, which is evaluated.

The critics learn the values of the target policy, which stays near the data. The evaluation policy climbs the same
critics with less cloning; no target ever reads it, so its mistakes do not feed back into the values.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax

from rlx import halves, parallel, policies
from rlx.agents import td3, td3_bc
from rlx.halves import HalfState
from rlx.optim import Learner
from rlx.types import Agent, Key, Metrics, Params, Spec, Transition, setting

Config = td3.Config


class Hypers(td3_bc.Hypers):
    """Hyper-parameters, traced."""

    evaluation_q_weight: float | jax.Array = setting(10.0, "`q_weight` of the evaluation policy's loss")


class ActorState(HalfState):
    """The actor half: the learner is the target policy's."""

    evaluation: Learner


class Policy(NamedTuple):
    """What acting and the critic half read."""

    params: Params
    target_params: Params
    evaluation_params: Params


def update_actor(
    nets: td3.Networks, state: ActorState, critic_params: Params, batch: Transition, key: Key
) -> tuple[ActorState, Metrics]:
    """Each policy down TD3+BC's loss, the evaluation policy with another weight (arXiv 2306.03680, section 4)."""
    new: Any
    new, metrics = td3.update_actor(nets, state, critic_params, batch, key)
    milder = state.hypers.replace(q_weight=state.hypers.evaluation_q_weight)
    half = HalfState(state.evaluation, state.step, milder)
    evaluation, others = td3.update_actor(nets, half, critic_params, batch, key)
    metrics |= {f"evaluation_{name}": value for name, value in others.items()}
    return new.replace(evaluation=evaluation.learner), metrics


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[HalfState, ActorState, Params, Policy]:
    """MCEP for environments of `spec`; gradients are averaged over the mapped `axes`."""
    nets = td3_bc.make_networks(config, spec, axes)
    agent: Any = td3.assemble(nets, Hypers, actor_reads=("observation", "action"))

    def init_actor(key: Key, hypers: Hypers) -> ActorState:
        first, second = (nets.actor.init(each) for each in jax.random.split(key))
        return ActorState.create(hypers, Learner.create(first, target=True), evaluation=Learner.create(second))

    def policy_params(actor: ActorState, critic_params: Params) -> Policy:
        return Policy(actor.learner.params, actor.learner.target_params, actor.evaluation.params)

    def act_greedy(policy: Policy, observation: jax.Array, key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
        return policies.deterministic(nets.actor, policy.evaluation_params, observation, key)

    changed: Agent[HalfState, ActorState, Params, Policy] = agent._replace(
        init=halves.make_init(Hypers, halves.init_half(nets.critic, target=True), init_actor),
        policy_params=policy_params,
        act_greedy=act_greedy,
        update_actor=partial(update_actor, nets),
    )
    return changed
