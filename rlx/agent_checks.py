"""Checks a user's agent before anything is compiled: what its functions return is said in a line where it is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rlx.errors import RlxError
from rlx.types import Agent, Key, Read, Spec, Transition

ROWS = 8  # of the observations and minibatches that functions are traced with


def check_made(name: str, agent: Any) -> None:
    """Raises RlxError where `make` has made no agent, or one whose `reads` are none."""
    if not isinstance(agent, Agent):
        raise RlxError(f"{name}: make returns {type(agent).__name__}; return an rlx.types.Agent")
    if not isinstance(agent.reads, Mapping) or not all(isinstance(read, Read) for read in agent.reads.values()):
        raise RlxError(f"{name}: reads must be a mapping of names to rlx.types.Read; make it one")


def check_functions(name: str, agent: Agent, spec: Spec, trains: bool = True) -> None:
    """Raises RlxError where acting or an update returns what drivers cannot use.

    Updates are traced if the agent `trains`, and where a minibatch has no more than the fields of a transition.
    """
    fields = set(agent.actor_reads) <= set(Transition._fields)
    plain = trains and not (agent.reads or agent.records or agent.window or agent.on_policy) and fields

    def call(key: Key) -> tuple[Any, ...]:
        state = agent.init(key)
        policy, observation = agent.acting_params(state), jnp.zeros((ROWS, spec.observation_size))
        _check_act(name, "act", agent.act(policy, observation, key, *_begin(agent.carry or agent.noise)), agent, spec)
        _check_act(name, "act_greedy", agent.act_greedy(policy, observation, key, *_begin(agent.carry)), agent, spec)
        if plain:
            ones, action = jnp.ones(ROWS), jnp.zeros((ROWS, spec.action_size))
            batch = Transition(observation, action, ones, ones, observation)
            result = agent.update_critic(state.critic, policy, batch, key)
            _check_update(name, "update_critic", state.critic, result)
            published = agent.critic_params(result[0])
            result = agent.update_actor(state.actor, published, agent.actor_batch(batch), key)
            _check_update(name, "update_actor", state.actor, result)
        return ()

    jax.eval_shape(call, jax.random.key(0))


def _begin(carry: Callable[[], Any] | None) -> list[Any]:
    """The acting states with which ROWS episodes begin, as the last arguments of `act`: none or one."""
    if carry is None:
        return []
    return [jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * ROWS), carry())]


def _check_act(name: str, what: str, result: Any, agent: Agent, spec: Spec) -> None:
    carried = agent.carry is not None or (agent.noise is not None and what == "act")
    parts = ["action", "info", *["acting state"] * carried]
    if not isinstance(result, tuple) or len(result) != len(parts):
        raise RlxError(f"{name}: {what} must return ({', '.join(parts)})")
    if jnp.shape(result[0]) != (wanted := (ROWS, spec.action_size)):
        raise RlxError(
            f"{name}: {what}'s action is {list(jnp.shape(result[0]))} at {ROWS} observations; it must be {list(wanted)}"
        )
    if not isinstance(result[1], Mapping):
        raise RlxError(
            f"{name}: {what}'s info is of type {type(result[1]).__name__}; return a dictionary, such as {{}}"
        )


def _check_update(name: str, what: str, before: Any, result: Any) -> None:
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Mapping):
        raise RlxError(f"{name}: {what} must return (half, metrics), metrics a dictionary")
    trees: list[Any] = [jax.tree.structure(half) for half in (before, result[0])]
    if trees[0] != trees[1]:
        raise RlxError(f"{name}: {what} returns another half than it was given; return state.advance(...)")
    for path, old in jax.tree.leaves_with_path(before):
        new = dict(jax.tree.leaves_with_path(result[0]))[path]
        if jnp.shape(old) != jnp.shape(new):
            where = jax.tree_util.keystr(path).lstrip(".")
            shapes = f"{list(jnp.shape(old))} and {list(jnp.shape(new))} after it"
            raise RlxError(f"{name}: {what} changes the shape of {where}, {shapes}; keep it")
    for metric, value in result[1].items():
        if jnp.shape(value):
            raise RlxError(f"{name}: {what}'s metric {metric} is {list(jnp.shape(value))}; metrics are scalars")
