"""Replay: a ring of arrays on the device, time-major `[T, E, ...]`, in pure functions that take the state first.

Rows go in as blocks `[K, E, ...]` of K vector steps; `add` writes only the block (donate the state), `sample` folds
n-step windows into transitions. The ring holds any pytree; `Row` is what environments fill it with.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.struct import PyTreeNode

from rlx import losses
from rlx.errors import RlxError
from rlx.types import Key, Read, Transition

FIELDS = ("observation", "action", "reward", "discount", "next_observation")  # of a transition
FOLDED = ("reward", "discount", "next_observation")  # those that n-step windows change


class Row(NamedTuple):
    """One environment step, as it happened: raw observations, and the true successor also where an episode ended.

    In a ring of which only some columns are read, the others are None.
    """

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
    """The ring: every leaf of `rows` is `[T, E, ...]`. With `odds`, as `make_odds` has them, it is drawn by weight."""

    rows: Any
    cursor: Cursor
    odds: Any = None  # [T] uint32; E is 1


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
    """Whether a window of `n` consecutive vector steps is stored, [] bool."""
    return replay.cursor.size >= n


def make_odds(weights: np.ndarray) -> np.ndarray:
    """Cumulative shares of `weights` `[T]` in units of 2^-32, among which random bits find the slot to draw."""
    shares = np.cumsum(weights, dtype=np.float64)
    return np.minimum(shares / shares[-1] * 2.0**32, 2.0**32 - 1).astype(np.uint32)


def _starts(replay: Replay, key: Key, shape: tuple[int, ...], n: int) -> tuple[jax.Array, jax.Array]:
    """Window starts: slots `[*shape]`, counted from the ring's first, and environments `[*shape]`. Uniform, or by the
    ring's odds."""
    cursor = replay.cursor
    if replay.odds is not None:
        slot = jnp.searchsorted(replay.odds, jax.random.bits(key, shape, jnp.uint32), side="right")
        return jnp.minimum(slot, length(replay) - n).astype(jnp.int32), jnp.zeros(shape, jnp.int32)
    num_envs = jax.tree.leaves(replay.rows)[0].shape[1]
    starts = jnp.maximum(cursor.size - (n - 1), 1)  # the newest n - 1 rows have no full window yet
    # bits modulo a count far below 2^32: as good as uniform, and a third of randint's program
    of_time, of_env = jax.random.bits(key, (2, *shape), jnp.uint32)
    offset = (of_time % starts.astype(jnp.uint32)).astype(jnp.int32)
    env = (of_env % num_envs).astype(jnp.int32)
    oldest = cursor.head - cursor.size
    return (oldest + offset) % length(replay), env


def _permuted(replay: Replay, key: Key, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Every row once, in random order: slots and environments `[*shape]`. Raises RlxError if these are not as many."""
    num_envs = jax.tree.leaves(replay.rows)[0].shape[1]
    if math.prod(shape) != length(replay) * num_envs:
        raise RlxError(f"minibatches {list(shape)}: must hold each of {length(replay)} x {num_envs} rows once")
    order = jax.random.permutation(key, length(replay) * num_envs).reshape(shape)
    return order // num_envs, order % num_envs


def _float32(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, tree)


def _folds(fields: Collection[str], reads: Mapping[str, Read]) -> bool:
    """Whether a minibatch depends on more rows of a window than its first."""
    return any(name in fields for name in FOLDED) or any(read.rule != "first" for read in reads.values())


def columns(fields: Collection[str], reads: Mapping[str, Read], n: int = 1, window: int = 0) -> set[str]:
    """The columns of rows that `sample` reads for such a minibatch."""
    names = {"terminated" if name == "discount" else name for name in fields} | {r.column for r in reads.values()}
    rules = {read.rule for read in reads.values()}
    if window or "next" in rules or (n > 1 and _folds(fields, reads)):
        names |= {"terminated", "truncated"}
    return names | ({"time"} if "future" in rules else set())


def reach(reads: Mapping[str, Read], n: int = 1, window: int = 0) -> int:
    """How many consecutive vector steps `sample` reads from a window's start on."""
    return max(n, window) + any(read.rule == "next" for read in reads.values())


def sample(
    replay: Replay,
    key: Key,
    shape: tuple[int, ...],
    n: int,
    gamma: jax.Array,
    reads: Mapping[str, Read] | None = None,
    fields: Collection[str] = FIELDS,
    window: int = 0,
    replace: bool = True,
) -> Transition:
    """Transitions `[*shape, ...]` of windows of up to `n` steps, drawn uniformly with replacement.

    Without `replace`, `shape` holds every row of a full ring once, in random order.

    A window stops at a termination or truncation and never crosses a reset: `reward` is the discounted sum of the
    m <= n rewards really taken, `discount` is `gamma^(m-1) * (1 - terminated)`, `next_observation` the m-th successor.
    Fields that are not in `fields` are None. Extras are as `reads` has them, by default the first row's of each column.

    With `window` L, leaves are sequences of L consecutive 1-step transitions, `[*shape, L, ...]`, and
    `extras["mask"]` `[*shape, L]` tells which belong to the first one's episode.

    A ring that does not hold the rows yet (see `reach` and `can_sample`) gives rows that mean nothing. Raises RlxError
    for an `n` or `window` that the ring can never hold, or none.
    """
    rows: Row = replay.rows
    slots = length(replay)
    if reads is None:
        reads = {name: Read(name) for name in rows.extras}
    if not (1 <= n and reach(reads, n, window) <= slots):
        raise RlxError(f"windows of {max(n, window)} steps: choose 1 to the replay's {slots} slots")
    slot, env = _starts(replay, key, shape, reach(reads, n, window)) if replace else _permuted(replay, key, shape)
    extras: dict[str, Any] = {}
    if window:
        slot, env = (slot[..., None] + jnp.arange(window)) % slots, env[..., None]
        ended = rows.terminated[slot, env] | rows.truncated[slot, env]
        extras["mask"] = jnp.cumsum(ended, axis=-1) - ended == 0
    last, reward, discount, steps = slot, None, None, jnp.zeros(slot.shape, jnp.int32)
    if n == 1:
        reward = rows.reward[slot, env] if "reward" in fields else None
        if "discount" in fields:
            discount = 1.0 - rows.terminated[slot, env].astype(jnp.float32 if reward is None else reward.dtype)
    elif _folds(fields, reads):
        around = (slot.reshape(-1) + jnp.arange(n)[:, None]) % slots  # [n, B]
        flat = (around, env.reshape(-1))
        ends = rows.terminated[flat], rows.truncated[flat]
        rewards = rows.reward[flat] if "reward" in fields else jnp.zeros(around.shape)
        reward, discount, steps = losses.n_step(rewards, *ends, gamma)
        reward, discount, steps = reward.reshape(shape), discount.reshape(shape), steps.reshape(shape)
        last = (slot + steps) % slots
    table = rows._asdict() | rows.extras
    for name, (column, rule, _) in reads.items():
        if rule == "sum":
            extras[name] = _discounted_sum(table[column], slot, env, steps, n, gamma)
        else:
            extras[name] = _float32(table[column][_row(replay, rule, slot, last, env, key), env])
    return Transition(
        _float32(rows.observation[slot, env]) if "observation" in fields else None,  # type: ignore[arg-type]
        _float32(rows.action[slot, env]) if "action" in fields else None,  # type: ignore[arg-type]
        reward if "reward" in fields else None,  # type: ignore[arg-type]
        discount if "discount" in fields else None,  # type: ignore[arg-type]
        _float32(rows.next_observation[last, env]) if "next_observation" in fields else None,  # type: ignore[arg-type]
        extras,
    )


def _row(replay: Replay, rule: str, first: jax.Array, last: jax.Array, env: jax.Array, key: Key) -> jax.Array:
    """The slot that a rule names, of windows from `first` to `last`."""
    rows, slots = replay.rows, length(replay)
    if rule == "first":
        return first
    if rule == "next":
        ended = rows.terminated[last, env] | rows.truncated[last, env]
        return jnp.where(ended, last, (last + 1) % slots)
    if rule == "future":
        later = _later(replay, last, env)
        bits = jax.random.bits(jax.random.fold_in(key, 1), last.shape, jnp.uint32)
        step = 1 + (bits % jnp.maximum(later, 1).astype(jnp.uint32)).astype(jnp.int32)
        return (last + jnp.minimum(step, later)) % slots
    return last


def _later(replay: Replay, slot: jax.Array, env: jax.Array) -> jax.Array:
    """How many later rows of its episode the ring holds, of each row; by bisection, since time counts on in it."""
    time, slots = replay.rows.extras["time"], length(replay)

    def halve(_: Any, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high + 1) // 2
        inside = time[(slot + middle) % slots, env] == time[slot, env] + middle
        return jnp.where(inside, middle, low), jnp.where(inside, high, middle - 1)

    bounds = (jnp.zeros_like(slot), (replay.cursor.head - 1 - slot) % slots)
    return jax.lax.fori_loop(0, slots.bit_length(), halve, bounds)[0]


def _discounted_sum(
    column: jax.Array, slot: jax.Array, env: jax.Array, steps: jax.Array, n: int, gamma: jax.Array
) -> jax.Array:
    """The sum of gamma^k times the column over the rows taken, the first and `steps` more."""
    total: Any = 0.0
    for k in range(n):
        value = column[(slot + k) % column.shape[0], env].astype(jnp.promote_types(column.dtype, jnp.float32))
        taken = (k <= steps).reshape(*steps.shape, *[1] * (value.ndim - steps.ndim))
        total += jnp.where(taken, gamma**k * value, 0.0)
    result: jax.Array = total
    return result
