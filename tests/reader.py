"""A tiny agent that uses every open seam, and checks what it is given: whatever is wrong shows in its metrics.

The environment is the walk, which also shows a cost (the reward again) and where it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.struct import PyTreeNode

from rlx import data, parallel
from rlx.data import Dataset
from rlx.types import Agent, EnvState, Key, Metrics, Read, Spec, State, Step, Transition, as_arrays, setting
from tests.walk import Walk

LIMIT = 6


class Costly(Walk):
    """The walk with extras: a cost equal to the reward, and the place that was left."""

    @property
    def spec(self) -> Spec:
        extras = {"cost": jax.ShapeDtypeStruct((), jnp.float32), "place": jax.ShapeDtypeStruct((2,), jnp.float32)}
        return super().spec._replace(extras=extras)

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        after, step = super().step(state, action, key)
        return after, step._replace(extras={"cost": step.reward, "place": state.observation})


def dataset(rows: int = 60, seed: int = 0) -> Dataset:
    """A data set with the same extras."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(rows + 1, 2))
    action, reward = rng.uniform(-1, 1, size=(rows, 1)), rng.normal(size=rows)
    return data.make_dataset(
        {"name": "costly"},
        observation=states[:-1],
        action=action,
        reward=reward,
        terminated=np.arange(rows) % 12 == 11,
        truncated=np.arange(rows) % 12 == 5,
        next_observation=states[1:],
        extras={"cost": reward, "place": states[:-1], "twice": 2 * action[:, 0]},
    )


READS = {
    "twice": Read("twice"),  # of act's info
    "costs": Read("cost", "sum"),  # of the environment
    "left": Read("place", "first", normalize=True),
    "arrived": Read("next_observation", "last", normalize=True),
    "following": Read("observation", "next", normalize=True),
    "cut": Read("truncated", "last"),
    "goal": Read("time", "future"),
    "time": Read("time", "last"),
    "source": Read("source"),
}


@dataclass(frozen=True)
class Config:
    """Static (compile-time) configuration."""

    window: int = setting(0, "rows of a window")
    records: bool = setting(False, "record a column of its own")
    carries: bool = setting(False, "count the steps of an episode in the acting state")
    actor_fields: tuple[str, ...] = setting(("observation", "action", "reward", "discount"), "what the actor reads")


class Hypers(PyTreeNode):
    """Hyper-parameters, traced."""

    gamma: float | jax.Array = setting(0.9, "discount")
    reward_scale: float | jax.Array = setting(1.0, "unused")


class Half(PyTreeNode):
    """A number that every minibatch moves."""

    total: jax.Array
    step: jax.Array
    hypers: Hypers


PRESETS: dict[str, dict[str, Any]] = {}


def wrong(batch: Transition, gamma: Any) -> dict[str, jax.Array]:
    """How often each extra is not what the fields of the same batch say it is."""
    extras, gone = batch.extras, {}

    def differs(x: jax.Array, y: jax.Array) -> jax.Array:
        unequal = jnp.abs(x - y) > 1e-5
        return unequal if unequal.ndim == batch.reward.ndim else unequal.any(axis=-1)

    ended = extras["cut"] | (batch.discount == 0)
    gone["twice"] = differs(extras["twice"], 2 * batch.action[..., 0])
    gone["cost"] = differs(extras["costs"], batch.reward)
    gone["left"] = differs(extras["left"], batch.observation)
    if batch.next_observation is not None:
        gone["arrived"] = differs(extras["arrived"], batch.next_observation)
        gone["following"] = differs(extras["following"], batch.next_observation) & ~ended
    later = extras["goal"] - extras["time"]
    gone["goal"] = (later < 0) | (ended & (later != 0)) | (extras["goal"] >= 12)
    if "thrice" in extras:
        gone["thrice"] = differs(extras["thrice"], 3 * batch.action[..., 0])
    if "count" in extras:
        gone["count"] = extras["count"] != extras["begun"]
    return {name: x.sum().astype(jnp.float32) for name, x in gone.items()}


def make(config: Config, spec: Spec, axes: parallel.Axes = ()) -> Agent:
    """The agent."""
    reads = dict(READS)
    if config.carries:
        reads |= {"count": Read("count"), "begun": Read("time")}
    if config.actor_fields == ("observation",):
        reads = {}

    def init(key: Key, hypers: Hypers | None = None) -> State:
        del key
        half = Half(jnp.zeros(()), jnp.zeros((), jnp.int32), as_arrays(hypers or Hypers()))
        return jax.tree.map(jnp.copy, State(critic=half, actor=half))

    def act(policy: Any, observation: jax.Array, key: Key, *carry: Any) -> Any:
        action = jnp.clip(-0.5 * observation[..., :1] + 0.01 * policy, -1, 1)
        info = {"twice": 2 * action[..., 0]}
        if carry:
            return action, info | {"count": carry[0]["count"]}, {"count": carry[0]["count"] + 1}
        return action, info

    def update(half: Half, other: Any, batch: Transition, key: Key) -> tuple[Half, Metrics]:
        del other, key
        metrics = {"mean": batch.observation.mean()}
        if reads:
            mask = batch.extras.get("mask", jnp.ones_like(batch.extras["costs"], bool))
            metrics = wrong(batch, half.hypers.gamma)
            metrics["mean"] = jnp.mean(batch.extras["costs"] * mask) + jnp.mean(1.0 * batch.extras["goal"])
            metrics["source"] = jnp.mean(1.0 * batch.extras["source"])
            metrics["masked"] = jnp.mean(1.0 * mask)
        metrics = parallel.mean(metrics, axes)
        total = 0.9 * half.total + metrics["mean"]
        return half.replace(total=total, step=half.step + 1), metrics

    def prefixed(name: str) -> Any:
        def named(*arguments: Any) -> tuple[Half, Metrics]:
            half, metrics = update(*arguments)
            return half, {f"{name}_{key}": x for key, x in metrics.items()}

        return named

    def records(policy: Any, rows: Any, info: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {"thrice": 3 * rows.action[..., 0]}

    actor_reads = (*config.actor_fields, *reads, *(["thrice"] if config.records else []))
    return Agent(
        init=init,
        critic_params=lambda critic: critic.total,
        policy_params=lambda actor, critic_params: actor.total,
        act=act,
        act_greedy=act,
        update_critic=prefixed("critic"),
        update_actor=prefixed("actor"),
        actor_reads=actor_reads,
        reads=reads,
        records=records if config.records else None,
        carry=(lambda: {"count": jnp.zeros((), jnp.int32)}) if config.carries else None,
        window=config.window,
        adopts={"total": lambda state, other: state.replace(critic=state.critic.replace(total=other.critic.total))},
    )
