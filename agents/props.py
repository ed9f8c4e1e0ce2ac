"""PROPS (Corrado and Hanna, arXiv 2311.08290): PPO on blocks that are on-policy together, by adaptive sampling.

A second policy collects. After each update of the policy it starts from a copy of it and lowers the probabilities of
what replay holds, so that actions that are rarer there than under the policy come next.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx import parallel, policies
from rlx.agents import ppo
from rlx.halves import HalfState
from rlx.optim import Learner
from rlx.types import COUNT, POSITIVE, SHARE, Agent, Key, Metrics, Params, Spec, State, Transition, setting


@dataclass(frozen=True)
class Config(ppo.Config):
    """Static (compile-time) configuration."""

    iteration_updates: int = setting(
        0, "updates of an iteration (0: those that it makes)", (0, 2**31 - 1), plan="iteration_updates"
    )
    policy_every: int = setting(4, "iterations of which one trains the policy; all train the one that collects", COUNT)


class Hypers(ppo.Hypers):
    """Hyper-parameters, traced."""

    behaviour_share: float | jax.Array = setting(
        0.5, "share of updates, the last ones, of the policy that collects where an iteration trains both", SHARE
    )
    behaviour_lr: float | jax.Array = setting(1e-3, "learning rate of the policy that collects (Adam)", POSITIVE)
    behaviour_clip: float | jax.Array = setting(0.3, "its importance ratios fall to 1 - this, at most", POSITIVE)
    behaviour_kl_weight: float | jax.Array = setting(0.1, "weight of its KL from the policy (lambda)", POSITIVE)
    max_behaviour_kl: float | jax.Array = setting(
        0.03, "KL from the policy beyond which the policy that collects takes no step", POSITIVE
    )


class ActorState(ppo.ActorState):
    """The actor half."""

    behaviour: Learner  # collects; while the policy learns, the policy as it was at the iteration's start


class Policy(NamedTuple):
    """What acting and recording read."""

    params: Params
    behaviour_params: Params
    value_params: Params
    hypers: Any
    step: jax.Array  # [] int32, updates that the actor half has made


def record(nets: ppo.Networks, policy: Any, rows: Any, info: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """PPO's columns of a block [K, E, ...], and its age as the updates made before it."""
    columns = ppo.record(nets, policy, rows, info)
    return columns | {"updates_before": jnp.broadcast_to(policy.step, rows.reward.shape)}


def select(condition: jax.Array, one: Any, other: Any) -> Any:
    """The first of two trees where a condition [] holds, else the second."""
    return jax.tree.map(partial(jnp.where, condition), one, other)


def sampling_surrogate(ratio: jax.Array, hypers: Hypers) -> jax.Array:
    """PPO's objective at advantages of -1, and the KL from the policy, estimated by row, `[B]` (eqs. 5 and 6)."""
    cost = jnp.maximum(ratio, 1 - hypers.behaviour_clip)
    return -cost - hypers.behaviour_kl_weight * (ratio - 1 - jnp.log(ratio))


def update_actor(
    nets: ppo.Networks,
    config: Config,
    state: ActorState,
    critic_params: Params,
    batch: Transition,
    key: Key,
) -> tuple[ActorState, Metrics]:
    """First the policy learns, by ratios to a copy of itself; then the behaviour, a new copy, by ratios to the policy.

    In an iteration that does not train the policy the behaviour learns from the start. So neither depends on which
    policy collected a row (algorithms 1 and 2). The oldest block, which the next one replaces, does not count for the
    behaviour.
    """
    hypers, updates = state.hypers, max(config.iteration_updates, 1)
    iteration, place = state.step // updates, state.step % updates
    first = jnp.ceil(updates * (1 - hypers.behaviour_share)).astype(jnp.int32)
    every = config.policy_every if config.iteration_updates else 1  # outside of a run, each update is an iteration
    first = jnp.where((iteration + 1) % every == 0, first, 0)
    sampling, begins, ends = place >= first, place == 0, place == first - 1
    behaviour = state.behaviour.replace(params=select(begins, state.learner.params, state.behaviour.params))
    learner, still = select(sampling, (behaviour, state.learner), (state.learner, behaviour))

    def reference(
        policy: policies.ScoredPolicy, state: ActorState, batch: Transition, key: Key
    ) -> tuple[jax.Array, jax.Array]:
        made = batch.extras["updates_before"]
        return policy.score(still.params, batch, key)[0], jnp.where(sampling & (made == made.min()), 0.0, 1.0)

    def surrogate(ratio: jax.Array, advantage: jax.Array, hypers: Hypers) -> jax.Array:
        learning = ppo.clipped_surrogate(ratio, advantage, hypers)
        return jnp.where(sampling, sampling_surrogate(ratio, hypers), learning)

    plain = {"actor_lr": hypers.behaviour_lr, "entropy_cost": 0.0, "desired_kl": 0.0}
    own = {name: jnp.where(sampling, value, getattr(hypers, name)) for name, value in plain.items()}
    rate = jnp.where(sampling, 1.0, state.rate)
    half, metrics = ppo.update_actor(
        nets._replace(reference=reference, surrogate=surrogate),
        state.replace(learner=learner, rate=rate, hypers=hypers.replace(**own)),
        critic_params,
        batch,
        key,
    )
    moved = select(sampling & (metrics["kl"] > hypers.max_behaviour_kl), learner, half.learner)
    learner, behaviour = select(sampling, (still, moved), (moved, still))
    behaviour = behaviour.replace(params=select(ends, learner.params, behaviour.params))
    state = state.advance(learner=learner, behaviour=behaviour)
    return state.replace(rate=jnp.where(sampling, state.rate, half.rate)), metrics


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent[HalfState, ActorState, Params, Policy]:
    """PROPS for environments of `spec`; gradients and advantages' moments are averaged over the mapped `axes`."""
    actor, nets = ppo.make_networks(config, spec, axes)
    base: Any = ppo.assemble(spec, actor, nets, Hypers)

    def init(key: Key, hypers: Any = None) -> State[HalfState, ActorState]:
        state: Any = base.init(key, hypers)
        half = state.actor
        copy = jax.tree.map(jnp.copy, half.learner)
        return state.replace(actor=ActorState.create(half.hypers, half.learner, rate=half.rate, behaviour=copy))

    def publish(actor: ActorState, value_params: Params) -> Policy:
        return Policy(actor.learner.params, actor.behaviour.params, value_params, actor.hypers, actor.step)

    collecting = policies.of_params({"act": nets.policy.act, "log_prob": nets.policy.log_prob}, "behaviour_params")
    changed: Any = {"init": init, "policy_params": publish, "records": partial(record, nets), **collecting}
    return base._replace(
        update_actor=partial(update_actor, nets, config),
        actor_reads=("updates_before", *base.actor_reads),
        **changed,
    )
