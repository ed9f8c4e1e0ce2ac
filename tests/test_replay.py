"""Replay: the ring against a Python list, n-step windows against a Python loop, and what inserting costs."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import replay
from rlx.errors import RlxError
from rlx.replay import Replay, Row
from rlx.types import RULES, Read
from tests.loss_tools import same

GAMMA = 0.9
TIME, ENVS, BLOCK = 12, 3, 2  # of the rings that windows are drawn from
add = jax.jit(replay.add)


def fill(ring: Replay, steps: Any, block: int) -> Replay:
    """Adds `steps` `[N, E, ...]` in blocks."""
    for start in range(0, jax.tree.leaves(steps)[0].shape[0], block):
        ring = add(ring, jax.tree.map(lambda x, s=start: x[s : s + block], steps))
    return ring


def in_order(ring: Replay) -> Any:
    """The rows from the oldest to the newest, `[size, E, ...]`."""
    head, size = int(ring.cursor.head), int(ring.cursor.size)
    return jax.tree.map(lambda x: np.roll(x, -head, axis=0)[x.shape[0] - size :], ring.rows)


@pytest.mark.parametrize(
    ("length", "envs", "block", "blocks"), [(1, 1, 1, 3), (5, 2, 1, 13), (6, 1, 3, 5), (8, 3, 4, 7), (8, 3, 8, 3)]
)
def test_ring_equals_a_list(length: int, envs: int, block: int, blocks: int) -> None:
    rng = np.random.default_rng(0)
    ring, kept = replay.init(jax.ShapeDtypeStruct((2,), jnp.float32), length, envs, block), np.zeros((0, envs, 2))
    for _ in range(blocks):
        rows = rng.normal(size=(block, envs, 2)).astype(np.float32)
        ring, kept = add(ring, rows), np.concatenate([kept, rows])[-length:]
        assert ring.cursor.size == len(kept)
        same(in_order(ring), kept)


def test_any_pytree() -> None:
    """Nested, of several types; floating vectors take the type asked for, flags, counts and scalars keep theirs."""
    example = {
        "image": jnp.zeros((2, 2), jnp.uint8),
        "inner": (jnp.zeros(3), jnp.zeros((), jnp.int32)),
        "reward": jnp.zeros(()),
    }
    ring = replay.init(example, length=4, num_envs=2, dtype=jnp.bfloat16)
    assert jax.tree.map(lambda x: x.shape[2:], ring.rows) == {"image": (2, 2), "inner": ((3,), ()), "reward": ()}
    types = jax.tree.map(lambda x: str(x.dtype), ring.rows)
    assert types == {"image": "uint8", "inner": ("bfloat16", "int32"), "reward": "float32"}

    rng = np.random.default_rng(2)
    steps = jax.tree.map(lambda x: jnp.asarray(100 * rng.random((4, 2, *x.shape)), x.dtype), example)
    stored = jax.tree.map(lambda x, ring: x.astype(ring.dtype), steps, ring.rows)
    same(in_order(fill(ring, steps, block=1)), stored)


# Windows. A row's observation is its (vector step, environment), so every sample tells where it was drawn.


def history(rng: np.random.Generator, steps: int, share_ended: float) -> Row:
    """`steps` vector steps in which every third end is a termination."""
    time, env = np.meshgrid(np.arange(steps), np.arange(ENVS), indexing="ij")
    place = np.stack([time, env], axis=-1).astype(np.float32)
    ended, kind = rng.random((steps, ENVS)) < share_ended, rng.random((steps, ENVS)) < 1 / 3
    return Row(
        observation=place,
        action=rng.normal(size=(steps, ENVS, 1)).astype(np.float32),
        reward=rng.normal(size=(steps, ENVS)).astype(np.float32),
        terminated=ended & kind,
        truncated=ended & ~kind,
        next_observation=place + 1000,
        extras={"log_prob": rng.normal(size=(steps, ENVS)).astype(np.float32), "time": _since(ended)},
    )


def _since(ended: np.ndarray) -> np.ndarray:
    """Steps since the episode began."""
    time = np.zeros(ended.shape, np.int32)
    for t in range(1, len(ended)):
        time[t] = np.where(ended[t - 1], 0, time[t - 1] + 1)
    return time


EMPTY = replay.init(jax.tree.map(lambda x: x[0, 0], history(np.random.default_rng(0), 1, 0)), TIME, ENVS, BLOCK)
EVERY_RULE = {rule: Read("log_prob", rule) for rule in RULES} | {"later": Read("time", "future")}


@partial(jax.jit, static_argnames=("shape", "n", "window", "extras"))
def draw(ring: Replay, key: Any, shape: Any, n: int, gamma: Any, window: int = 0, extras: bool = False) -> Any:
    return replay.sample(ring, key, shape, n, gamma, EVERY_RULE if extras else None, window=window)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_windows_equal_a_python_loop(n: int) -> None:
    """Rewards, discounts, successors and extras of all rules, across ends, resets and the ring's seam. Starts reach
    from the oldest row to the newest whole window."""
    rng = np.random.default_rng(n)
    for case in range(12):
        steps = int(rng.integers(4, 20)) * BLOCK
        rows = history(rng, steps, share_ended=rng.choice([0, 0.1, 0.3, 0.8]))
        ring, rules = fill(EMPTY, rows, BLOCK), n in (1, 3)
        sampled = draw(ring, jax.random.key(case), (40, 15), n, jnp.float32(GAMMA), extras=rules)
        result = jax.tree.map(lambda x: np.asarray(x).reshape(600, *x.shape[2:]), sampled)
        time, env = result.observation.astype(int).T
        assert (time.min(), time.max()) == (max(0, steps - TIME), steps - n - rules)  # the next row is read, too
        assert set(env) == set(range(ENVS))
        extras, ended, column = result.extras, rows.terminated | rows.truncated, rows.extras["log_prob"]
        first = extras["first" if rules else "log_prob"]
        same((result.action, first), (rows.action[time, env], column[time, env]))
        for i, (t, e) in enumerate(zip(time, env, strict=True)):
            m = next((k for k in range(n) if ended[t + k, e]), n - 1)
            last, powers = t + m, GAMMA ** np.arange(m + 1)
            assert result.reward[i] == pytest.approx(powers @ rows.reward[t : last + 1, e], rel=1e-5, abs=1e-5)
            assert result.discount[i] == pytest.approx(GAMMA**m * (1 - rows.terminated[last, e]))
            same(result.next_observation[i], rows.next_observation[last, e])
            if not rules:
                continue
            assert extras["sum"][i] == pytest.approx(powers @ column[t : last + 1, e], rel=1e-5, abs=1e-5)
            assert extras["last"][i] == column[last, e]
            assert extras["next"][i] == column[last if ended[last, e] else last + 1, e]
            end = next((k for k in range(last, steps) if ended[k, e]), steps - 1)
            step = int(extras["later"][i] - rows.extras["time"][last, e])
            assert step == 0 if end == last else 1 <= step <= end - last
            assert extras["future"][i] == column[last + step, e]


def test_future_rows_are_uniform_over_the_rest_of_the_episode() -> None:
    rows = history(np.random.default_rng(0), TIME, 0)
    result = draw(fill(EMPTY, rows, BLOCK), jax.random.key(0), (20_000,), 1, jnp.float32(GAMMA), extras=True)
    first = np.asarray(result.observation[:, 0]) == 2
    steps = np.bincount(np.asarray(result.extras["later"])[first].astype(int) - 2, minlength=TIME - 2)
    assert steps[0] == 0 and len(steps) == TIME - 2
    np.testing.assert_allclose(steps[1:], first.sum() / (TIME - 3), rtol=0.25)


def test_windows_of_rows_stop_at_an_episodes_end() -> None:
    """L consecutive rows of one environment, and a mask of those up to the first end."""
    rng, size = np.random.default_rng(7), 5
    for case in range(8):
        steps = int(rng.integers(3, 20)) * BLOCK
        rows = history(rng, steps, share_ended=rng.choice([0, 0.1, 0.5]))
        result = draw(fill(EMPTY, rows, BLOCK), jax.random.key(case), (200,), 1, jnp.float32(GAMMA), window=size)
        time, env = np.moveaxis(np.asarray(result.observation).astype(int), -1, 0)
        same(time - time[:, :1], np.broadcast_to(np.arange(size), time.shape))
        assert (env == env[:, :1]).all() and time.max() < steps
        same(result.reward, rows.reward[time, env])
        same(result.discount, 1.0 - rows.terminated[time, env])
        ended = (rows.terminated | rows.truncated)[time, env]
        same(result.extras["mask"], [[not row[:k].any() for k in range(size)] for row in ended])


@pytest.mark.parametrize("steps", [10, 30])
def test_sampling_is_uniform(steps: int) -> None:
    """Every pair of valid start and environment is as likely: chi-square of 40 000 draws, also over the write head."""
    n, count = 4, 40_000  # leaves nine starts of a full ring: not coprime to three environments, so dependence shows
    ring = fill(EMPTY, history(np.random.default_rng(3), steps, 0.2), BLOCK)
    result = draw(ring, jax.random.key(4), (count,), n, jnp.float32(GAMMA))
    cells = (min(steps, TIME) - n + 1) * ENVS
    time, env = np.asarray(result.observation).astype(int).T
    seen = np.bincount((time - max(0, steps - TIME)) * ENVS + env, minlength=cells)
    assert len(seen) == cells
    chi_square = ((seen - count / cells) ** 2 / (count / cells)).sum()
    assert abs(chi_square - (cells - 1)) < 4 * np.sqrt(2 * (cells - 1))


def test_bfloat16_windows() -> None:
    """What goes in as bfloat16 comes out as float32, rounded once; rewards and flags are exact."""
    rng = np.random.default_rng(5)
    rows = history(rng, TIME, 0.2)._replace(observation=rng.normal(size=(TIME, ENVS, 2)).astype(np.float32))
    row = jax.tree.map(lambda x: x[0, 0], rows)
    wide, narrow = (fill(replay.init(row, TIME, ENVS, BLOCK, t), rows, BLOCK) for t in (jnp.float32, jnp.bfloat16))
    assert narrow.rows.observation.dtype == narrow.rows.next_observation.dtype == jnp.bfloat16
    exact, rounded = (draw(ring, jax.random.key(0), (64,), 2, jnp.float32(GAMMA)) for ring in (wide, narrow))
    same((rounded.reward, rounded.discount), (exact.reward, exact.discount))
    assert rounded.observation.dtype == rounded.next_observation.dtype == jnp.float32
    same(rounded.observation, exact.observation.astype(jnp.bfloat16).astype(jnp.float32))
    assert (rounded.observation != exact.observation).any()


def test_can_sample() -> None:
    ring = EMPTY
    for size in (0, 2, 4, 6):
        assert [bool(replay.can_sample(ring, n)) for n in (1, 4, 5)] == [size >= 1, size >= 4, size >= 5]
        ring = fill(ring, history(np.random.default_rng(0), BLOCK, 0), BLOCK)


def test_vmap_leaves_the_cursor_alone() -> None:
    """Seeds share one cursor, so the compiled write is one slice; were it mapped, it would be a loop of scatters."""
    blocks = jax.tree.map(lambda x: jnp.zeros((2, BLOCK, *x.shape[1:])), EMPTY.rows.reward)
    rings = jax.tree.map(lambda x: jnp.stack([x, x]), EMPTY.replace(rows=EMPTY.rows.reward))

    def compiled(cursor: int | None) -> str:
        axes: Any = Replay(0, cursor)
        ring = rings if cursor == 0 else rings.replace(cursor=EMPTY.cursor)
        mapped = jax.vmap(replay.add, in_axes=(axes, 0), out_axes=axes)
        return jax.jit(mapped, donate_argnums=0).lower(ring, blocks).compile().as_text() or ""

    shared = compiled(None)
    assert "dynamic-update-slice(" in shared
    assert not {"scatter(", "while("} & set(re.findall(r"\w+\(", shared))
    assert {"scatter(", "while("} & set(re.findall(r"\w+\(", compiled(0)))


def test_adding_costs_the_block_and_not_the_ring() -> None:
    """With donation the ring is written in place: nothing of its size is allocated, also for many seeds."""
    seeds, row = 2, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), EMPTY.rows)
    ring = jax.eval_shape(partial(replay.init, row, length=100_000, num_envs=8))
    rings = ring.replace(rows=jax.tree.map(lambda x: jax.ShapeDtypeStruct((seeds, *x.shape), x.dtype), ring.rows))
    block = jax.tree.map(lambda x: jax.ShapeDtypeStruct((seeds, 4, *x.shape[1:]), x.dtype), ring.rows)
    axes: Any = Replay(0, None)
    mapped = jax.vmap(replay.add, in_axes=(axes, 0), out_axes=axes)
    used: Any = jax.jit(mapped, donate_argnums=0).lower(rings, block).compile().memory_analysis()
    ring_bytes, block_bytes = (sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(t)) for t in (rings.rows, block))
    assert used.alias_size_in_bytes >= ring_bytes > 1000 * block_bytes
    assert used.temp_size_in_bytes <= 2 * block_bytes


def ring_of(length: int, block: int = 1) -> Replay:
    return replay.init(jax.ShapeDtypeStruct((2,), jnp.float32), length, ENVS, block)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ring_of(10, 3), "replay length 10 must be a multiple of the block of 3 vector steps"),
        (lambda: ring_of(2, 4), "replay length 2 must be a multiple of the block of 4 vector steps"),
        (lambda: ring_of(0), "replay length 0 must be"),
        (lambda: add(ring_of(12), jnp.zeros((5, 3, 2))), "a block of 5 vector steps does not divide the replay's 12"),
        # rows smaller than a slot would leave zeros, or older rows, beside them, which would be sampled
        (lambda: add(ring_of(12), jnp.zeros((1, 2, 2))), "rows of shape (1, 2, 2) do not fit the replay: give (1, 3"),
        (lambda: add(ring_of(12), jnp.zeros((1, 3, 1))), "rows of shape (1, 3, 1) do not fit the replay: give (1, 3"),
        (lambda: draw(EMPTY, jax.random.key(0), (4,), 0, GAMMA), "windows of 0 steps: choose 1 to the replay's 12"),
        # longer than the ring, a window would read its own start again
        (lambda: draw(EMPTY, jax.random.key(0), (4,), 13, GAMMA), "windows of 13 steps: choose 1 to the replay's 12"),
    ],
)
def test_sizes_that_cannot_be(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(RlxError, match=re.escape(message)):
        make()
