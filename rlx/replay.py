"""Replay: a ring of arrays on the device, time-major `[T, E, ...]`, in pure functions that take the state first.

Rows go in as blocks `[K, E, ...]` of K vector steps; `add` writes only the block (donate the state), `sample` folds
n-step windows into transitions. The ring holds any pytree; `Row` is what environments fill it with.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode

from rlx import losses
from rlx.errors import RlxError
from rlx.types import Key, Transition


class Row(NamedTuple):
    """One environment step, as it happened: raw observations, and the true successor also where an episode ended."""

    observation: jax.Array  # [O]
    action: jax.Array  # [A]
    reward: jax.Array  # []
    terminated: jax.Array  # [] bool
    truncated: jax.Array  # [] bool
    next_observation: jax.Array  # [O]
    extras: dict[str, jax.Array] = {}  # noqa: RUF012 -- NamedTuple defaults are shared and never written


class Cursor(PyTreeNode):
    """Where the ring stands. It is the same for all seeds and shards, so it stays unmapped under vmap."""

    head: jax.Array  # [] int32, the slot that the next block starts at
    size: jax.Array  # [] int32, filled slots


class Replay(PyTreeNode):
    """The ring: every leaf of `rows` is `[T, E, ...]`."""

    rows: Any
    cursor: Cursor


def init(example: Any, length: int, num_envs: int, block: int = 1, dtype: Any = jnp.float32) -> Replay:
    """An empty ring of `length` slots for `num_envs` environments.

    `example` is one row, of arrays or shapes. Floating leaves that are vectors are stored as `dtype` (float32 or
    bfloat16); scalars such as the reward keep theirs. Raises RlxError if `length` is no multiple of `block`.
    """
    if length < block or length % block:
        raise RlxError(f"replay length {length} must be a multiple of the block of {block} vector steps")

    def zeros(leaf: Any) -> jax.Array:
        vector = len(leaf.shape) > 0 and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.zeros((length, num_envs, *leaf.shape), dtype if vector else leaf.dtype)

    cursor = Cursor(head=jnp.zeros((), jnp.int32), size=jnp.zeros((), jnp.int32))
    return Replay(rows=jax.tree.map(zeros, example), cursor=cursor)


def length(replay: Replay) -> int:
    """The number of slots, T."""
    return jax.tree.leaves(replay.rows)[0].shape[0]


def add(replay: Replay, rows: Any) -> Replay:
    """Writes a block `[K, E, ...]` over the oldest slots. K must divide the ring's length, so a block never wraps.

    Raises RlxError for a block that does not fit: of a smaller one, the rest of each slot would be kept and sampled.
    """
    block = jax.tree.leaves(rows)[0].shape[0]
    slots = length(replay)
    if slots % block:
        raise RlxError(f"a block of {block} vector steps does not divide the replay's {slots} slots")
    head, size = replay.cursor.head, replay.cursor.size

    def write(ring: jax.Array, new: jax.Array) -> jax.Array:
        if new.shape != (block, *ring.shape[1:]):
            raise RlxError(f"rows of shape {new.shape} do not fit the replay: give {(block, *ring.shape[1:])}")
        return jax.lax.dynamic_update_slice_in_dim(ring, new.astype(ring.dtype), head, axis=0)

    cursor = Cursor(head=(head + block) % slots, size=jnp.minimum(size + block, slots))
    return Replay(rows=jax.tree.map(write, replay.rows, rows), cursor=cursor)


def can_sample(replay: Replay, n: int = 1) -> jax.Array:
    """Whether a window of `n` consecutive vector steps is there, [] bool."""
    return replay.cursor.size >= n


def _draw(replay: Replay, key: Key, shape: tuple[int, ...], n: int) -> tuple[jax.Array, jax.Array]:
    """Uniform window starts: slots `[*shape]`, counted from the ring's first, and environments `[*shape]`."""
    cursor = replay.cursor
    num_envs = jax.tree.leaves(replay.rows)[0].shape[1]
    starts = jnp.maximum(cursor.size - (n - 1), 1)  # the newest n - 1 rows have no whole window yet
    # bits modulo a count far below 2^32: as good as uniform, and a third of randint's program
    of_time, of_env = jax.random.bits(key, (2, *shape), jnp.uint32)
    offset = (of_time % starts.astype(jnp.uint32)).astype(jnp.int32)
    env = (of_env % num_envs).astype(jnp.int32)
    oldest = cursor.head - cursor.size
    return (oldest + offset) % length(replay), env


def _float32(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, tree)


def sample_rows(replay: Replay, key: Key, shape: tuple[int, ...]) -> Any:
    """Rows drawn uniformly with replacement, `[*shape, ...]`, of whatever pytree the ring holds."""
    slot, env = _draw(replay, key, shape, 1)
    return _float32(jax.tree.map(lambda ring: ring[slot, env], replay.rows))


def sample(replay: Replay, key: Key, shape: tuple[int, ...], n: int, gamma: jax.Array) -> Transition:
    """Transitions `[*shape, ...]` of windows of up to `n` steps, drawn uniformly with replacement.

    A window stops at a termination or truncation and never crosses a reset: `reward` is the discounted sum of the
    m <= n rewards really taken, `discount` is `gamma^(m-1) * (1 - terminated)`, `next_observation` the m-th successor.
    A ring that does not hold `n` vector steps yet (see `can_sample`) gives rows that mean nothing. Raises RlxError for
    an `n` that the ring can never hold, or none.
    """
    rows: Row = replay.rows
    if not 1 <= n <= length(replay):
        raise RlxError(f"windows of {n} steps: choose 1 to the replay's {length(replay)} slots")
    slot, env = _draw(replay, key, shape, n)
    if n == 1:
        last, reward = slot, rows.reward[slot, env]
        discount = 1.0 - rows.terminated[slot, env].astype(reward.dtype)
    else:
        window = (slot.reshape(-1) + jnp.arange(n)[:, None]) % length(replay)  # [n, B]
        flat = (window, env.reshape(-1))
        reward, discount, steps = losses.n_step(rows.reward[flat], rows.terminated[flat], rows.truncated[flat], gamma)
        reward, discount = reward.reshape(shape), discount.reshape(shape)
        last = (slot + steps.reshape(shape)) % length(replay)
    first = jax.tree.map(lambda ring: ring[slot, env], (rows.observation, rows.action, rows.extras))
    observation, action, extras = _float32(first)
    next_observation = _float32(rows.next_observation[last, env])
    return Transition(observation, action, reward, discount, next_observation, extras)
