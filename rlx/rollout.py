"""Collecting: K vector steps of a batch of environments under a policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx.envs.base import VectorEnv, VectorState
from rlx.replay import Row
from rlx.types import EnvState, Key

# (raw observation [E, O], key of the batch, keys of each environment's noise [E]) -> action [E, A], info; of an agent
# with an acting state, it takes that [E, ...] as well, and returns it third
Act = Callable[..., tuple[Any, ...]]


class Episodes(NamedTuple):
    """Sums over the episodes that ended; add them up, over time and devices, before dividing."""

    number: jax.Array  # []
    return_sum: jax.Array  # []
    length_sum: jax.Array  # []
    metrics: dict[str, jax.Array] = {}  # noqa: RUF012 -- of `Spec.metrics`, over all steps, and "steps", their number


Diverged = dict[str, jax.Array]  # in how many environments a quantity had diverged (see `envs.base.diverged`), [] each


def derive(key: Key, *indices: Any) -> Key:
    """A different key for every tuple of indices: `fold_in` one after the other."""
    for i in indices:
        key = jax.random.fold_in(key, i)
    return key


def noise_scales(index: jax.Array, num_envs: int, low: float, high: float) -> jax.Array:
    """Mixed exploration (PQL, arXiv 2307.12983): environment i of `num_envs` has its own sigma, evenly spaced, [E]."""
    return low + (high - low) * index / max(num_envs - 1, 1)


def add_noise(action: jax.Array, sigma: jax.Array, env_keys: Key) -> jax.Array:
    """Gaussian noise of each environment's own `sigma` [E] on `action` [E, A], clipped to [-1, 1]."""
    noise = jax.vmap(lambda key: jax.random.normal(key, action.shape[1:], action.dtype))(env_keys)
    return jnp.clip(action + sigma[:, None] * noise, -1.0, 1.0)


def held_keys(key: Key, start: jax.Array, index: jax.Array, hold: int) -> Callable[[jax.Array], Key]:
    """Keys of exploration noise that stays for `hold` steps: from the step of a block to the keys [E].

    `start` is the number of vector steps before the block. Environments change their noise at different steps.
    """
    return lambda i: jax.vmap(lambda e: derive(key, (start + i + e) // hold, e))(index)


def _where(condition: jax.Array, one: Any, other: Any) -> Any:
    """Leaves `[E, ...]` of `one` where `condition` [E], else of `other`."""
    return jax.tree.map(lambda x, y: jnp.where(condition.reshape(-1, *[1] * (x.ndim - 1)), x, y), one, other)


def collect(
    env: VectorEnv,
    act: Act,
    state: VectorState,
    pool: EnvState,
    length: int,
    env_index: jax.Array,
    env_key: Key,
    act_key: Key,
    keep: Callable[[dict[str, jax.Array], dict[str, jax.Array]], Any] | None = None,
    fresh: Any = None,
    noise_keys: Callable[[jax.Array], Key] | None = None,
) -> tuple[VectorState, Row, Episodes, Diverged]:
    """Takes `length` vector steps.

    `env_index` [E] are the environments' global numbers: their randomness depends on them and on `env_key`, not on the
    device. `keep` makes the rows' extras of `act`'s info and of what the environment shows, with "time",
    the steps since the episode began; by default both, without the time. `fresh` [E, ...] is the acting
    state that episodes begin with, of an agent that has one. `noise_keys` gives the keys of a step's noise [E], by
    default those of the environments. Returns the state, the rows `[length, E, ...]`, the sums
    over the episodes that ended and how many environments diverged, by quantity.
    """

    def step(state: VectorState, i: jax.Array) -> tuple[VectorState, tuple[Row, Episodes, Diverged]]:
        observation = state.env.observation
        keys = jax.vmap(lambda e: derive(env_key, i, e))(env_index)
        time = state.env.time
        noise = keys if noise_keys is None else noise_keys(i)
        arguments = (observation, derive(act_key, i), noise, *([] if fresh is None else [state.carry]))
        action, info, *carry = act(*arguments)
        state, result = env.step(state, action, pool, keys)
        shown = result.extras | {"time": time}
        extras = info | result.extras if keep is None else keep(info, shown)
        row = Row(
            observation, action, result.reward, result.terminated, result.truncated, result.next_observation, extras
        )
        ended = result.terminated | result.truncated
        if fresh is not None:
            state = state.replace(carry=_where(ended, fresh, carry[0]))
        ended = ended.astype(jnp.float32)
        returns, lengths = result.metrics["episode_return"], result.metrics["episode_length"]
        reported = {name: result.metrics[name] for name in env.spec.metrics}
        sums = {name: jnp.where(jnp.isfinite(x), x, 0.0).sum() for name, x in reported.items()}
        sums |= {"steps": jnp.float32(ended.size)} if reported else {}
        episodes = Episodes(ended.sum(), (ended * returns).sum(), (ended * lengths).sum(), sums)
        bad = {
            "reset observation": result.metrics["bad_reset"],
            "action": ~jnp.isfinite(action).all(axis=-1),
            "observation": result.metrics["bad_observation"],
            "reward": result.metrics["bad_reward"],
        }
        return state, (row, episodes, bad)

    state, (rows, episodes, bad) = jax.lax.scan(step, state, jnp.arange(length))
    diverged = jax.tree.map(lambda x: x.any(axis=0).sum(dtype=jnp.float32), bad)
    return state, rows, jax.tree.map(jnp.sum, episodes), diverged
