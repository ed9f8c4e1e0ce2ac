"""Collecting and judging: who explores how much, what randomness hangs on, and whole episodes from fixed starts."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs import vectorise
from rlx.evaluate import Evaluation, evaluate
from rlx.rollout import Diverged, Episodes, add_noise, collect, derive, held_keys, noise_scales
from rlx.train import report
from rlx.types import EnvState, Key, Step
from tests.loss_tools import same
from tests.walk import DECAY, EDGE, PUSH, Walk


def test_noise_scales() -> None:
    """Evenly spaced over all environments, wherever they run."""
    index = jnp.arange(8)
    np.testing.assert_allclose(noise_scales(index, 8, 0.05, 0.75), np.linspace(0.05, 0.75, 8), rtol=1e-6)
    np.testing.assert_allclose(noise_scales(index[4:], 8, 0.05, 0.75), np.linspace(0.05, 0.75, 8)[4:], rtol=1e-6)
    np.testing.assert_allclose(noise_scales(jnp.arange(1), 1, 0.05, 0.75), [0.05])


def test_noise() -> None:
    """Gaussian of each environment's own width and key, clipped to the actions there are."""
    sigma, count = jnp.array([0.0, 0.1, 0.4]), 4000
    keys = jax.vmap(lambda i: jax.random.split(jax.random.key(i), count))(jnp.arange(3))  # [3, count]
    noisy = np.asarray(jax.jit(jax.vmap(partial(add_noise, jnp.zeros((3, 2)), sigma), 1))(keys))  # [count, 3, 2]
    same(noisy[:, 0], np.zeros((count, 2)))
    np.testing.assert_allclose(noisy[:, 1].std(axis=0), 0.1, rtol=0.05)
    assert noisy.max() == 1 and noisy.min() == -1
    inside = np.abs(noisy[:, 2]) < 1
    np.testing.assert_allclose(1 - inside.mean(), 0.0124, atol=0.006)  # 2.5 sigma and more
    correlation = np.corrcoef(noisy[:, 1:].reshape(count, 4).T)
    assert np.abs(correlation - np.eye(4)).max() < 0.1


ENV, POOL, STEPS = Walk(), 16, 12


def act(observation: jax.Array, key: Key, env_keys: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
    del key  # of the whole batch: what hangs on it would change with the sharding
    action = add_noise(-0.5 * observation[:, :1], jnp.full(len(observation), 0.3), env_keys)
    return action, {"doubled": 2 * action[:, 0]}


def collected(index: np.ndarray) -> tuple[Any, Any, Episodes, Diverged]:
    """Twelve steps of the environments with these global numbers."""
    env, key = vectorise(ENV, len(index), POOL), jax.random.key(5)

    @jax.jit
    def run(index: jax.Array) -> Any:
        pool = env.make_pool(derive(key, 0))
        start = env.init(pool, jax.vmap(lambda e: derive(key, 1, e))(index))
        shard = index[0]  # this differs from shard to shard, as the keys of their batches do
        return collect(env, act, start, pool, STEPS, index, derive(key, 2), derive(key, 3, shard))

    return jax.device_get(run(index))


WHOLE = collected(np.arange(8))


def test_held_noise_changes_every_few_steps_of_each_environment() -> None:
    """Across blocks, too; not in all environments at the same step."""
    index, hold, key = jnp.arange(3), 4, jax.random.key(5)
    blocks = [held_keys(key, jnp.int32(start), index, hold) for start in (0, 6)]
    keys = np.stack([jax.random.key_data(block(i)) for block in blocks for i in range(6)])  # [12, 3, ...]
    changes = (keys[1:] != keys[:-1]).any(axis=-1)  # [11, 3]
    for e in range(3):
        assert [t + 1 for t in np.flatnonzero(changes[:, e])] == [t for t in range(1, 12) if (t + e) % hold == 0]
    assert len(np.unique(keys.reshape(-1, keys.shape[-1]), axis=0)) == 3 + 4 + 4


def test_environments_do_not_know_their_shard() -> None:
    """A batch of 8 equals two shards of 4: starts, noise, dynamics and resets hang on the global number."""
    for half in (slice(0, 4), slice(4, 8)):
        state, rows, *_ = collected(np.arange(8)[half])
        whole_state, whole_rows, *_ = WHOLE
        jax.tree.map(lambda x, y, h=half: np.testing.assert_allclose(x, y[h], rtol=1e-5), state, whole_state)
        jax.tree.map(lambda x, y, h=half: np.testing.assert_allclose(x, y[:, h], rtol=1e-5), rows, whole_rows)
    rows = whole_rows  # and no two environments draw the same
    inside = rows.action[np.abs(rows.action) < 1]  # others were clipped to the same number
    assert len(np.unique(inside)) == inside.size > 80
    noise = rows.next_observation - DECAY * rows.observation - PUSH * rows.action
    assert len(np.unique(noise.round(6))) == noise.size


def test_rows_are_the_steps_as_they_happened() -> None:
    """The true successor in every row; the next row starts from it, or from the pool where the episode ended."""
    _, rows, *_ = WHOLE
    assert rows.observation.shape == (STEPS, 8, 2)
    np.testing.assert_allclose(rows.reward, rows.observation[..., 0] - rows.action[..., 0] ** 2, rtol=1e-5, atol=1e-6)
    same(rows.extras["doubled"], 2 * rows.action[..., 0])
    same(rows.terminated, np.abs(rows.next_observation[..., 0]) > EDGE)
    ended = rows.terminated | rows.truncated
    assert rows.terminated.any() and rows.truncated.any() and not (rows.terminated & rows.truncated).any()
    continues = (rows.next_observation[:-1] == rows.observation[1:]).all(axis=-1)
    same(continues, ~ended[:-1])
    assert (np.abs(rows.observation[1:][ended[:-1]]) <= 1).all()


def test_sums_over_the_episodes_that_ended() -> None:
    _, rows, episodes, _ = WHOLE
    returns, lengths = [], []
    for env in range(8):
        episode: list[float] = []
        for t in range(STEPS):
            episode.append(rows.reward[t, env])
            if rows.terminated[t, env] or rows.truncated[t, env]:
                returns.append(sum(episode))
                lengths.append(len(episode))
                assert rows.terminated[t, env] or len(episode) == ENV.limit
                episode = []
    np.testing.assert_allclose(episodes[:3], [len(returns), sum(returns), sum(lengths)], rtol=1e-5)


# Judging. Without noise, an episode follows from its start.

CALM, EPISODES, RECORDED = Walk(limit=8, noise=0.0), 6, 4


def judged(gain: float, key: int, env: Walk = CALM) -> Evaluation:
    """Episodes under `action = gain`, all but the first two recorded."""

    def policy(observation: jax.Array, key: Key) -> jax.Array:
        return jnp.full((len(observation), 1), gain)

    return jax.device_get(jax.jit(lambda key: evaluate(env, policy, EPISODES, key, RECORDED))(jax.random.key(key)))


class Fragile(Walk):
    """A walk that breaks, where it starts with a positive second number, at its fourth step; the rest go on."""

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        after, step = super().step(state, action, key)
        breaks = (state.inner[1] > 0) & (state.time >= 3)
        x = jnp.where(breaks, jnp.inf, step.observation)
        return after.replace(observation=x), step._replace(observation=x, next_observation=x)


def test_an_episode_that_diverges_is_truncated_in_an_evaluation() -> None:
    """Its return is that of the steps before, and all other episodes are as they were."""
    calm, fragile = judged(0.0, 3), judged(0.0, 3, Fragile(limit=8, noise=0.0))
    broken = fragile.nonfinite
    assert 0 < broken.sum() < EPISODES and not calm.nonfinite.any()
    same(fragile.returns[~broken], calm.returns[~broken])
    for i in np.flatnonzero(broken & (np.arange(EPISODES) < RECORDED)):
        np.testing.assert_allclose(fragile.returns[i], calm.recording["reward"][:3, i].sum(), rtol=1e-5)
    assert np.isfinite(fragile.returns).all() and (fragile.lengths[broken] == np.minimum(calm.lengths[broken], 4)).all()
    summary = report.evaluation_summary(jax.tree.map(lambda x: x[None], fragile))
    assert summary["eval/nonfinite_episodes"] == broken.sum()
    assert "diverged" in str(report.nonfinite_episodes(fragile)) and report.nonfinite_episodes(calm) is None


UPHILL = judged(0.9, key=0)


def by_hand(x: np.ndarray, gain: float) -> tuple[float, int]:
    """Return and length of the episode that starts at `x`."""
    total, length = 0.0, 0
    while length < CALM.limit and abs(x[0]) <= EDGE:
        total += x[0] - gain**2
        x = DECAY * x + PUSH * gain
        length += 1
    return total, length


def test_returns_and_lengths() -> None:
    starts = UPHILL.recording["view"][0]
    expected = [by_hand(x.astype(np.float64), 0.9) for x in starts]
    np.testing.assert_allclose(UPHILL.returns[:RECORDED], [r for r, _ in expected], rtol=1e-4)
    same(UPHILL.lengths[:RECORDED], [n for _, n in expected])
    assert len(set(UPHILL.lengths)) > 1 and UPHILL.returns.shape == UPHILL.lengths.shape == (EPISODES,)
    same(judged(0.0, key=0).lengths, np.full(EPISODES, CALM.limit))  # nothing ends before the limit or goes on after


def test_recording() -> None:
    """What was seen, done and earned, and zeros after the end; starts hang on the key alone."""
    film = UPHILL.recording
    assert film["view"].shape == (CALM.limit, RECORDED, 2) and film["action"].shape == (CALM.limit, RECORDED, 1)
    going = np.arange(CALM.limit)[:, None] < UPHILL.lengths[:RECORDED]
    assert not going.all()
    same(film["action"][..., 0], np.where(going, np.float32(0.9), 0))
    assert not film["view"][~going].any() and not film["reward"][~going].any()
    moved = DECAY * film["view"][:-1] + PUSH * 0.9
    np.testing.assert_allclose(film["view"][1:], going[1:, :, None] * moved, rtol=1e-5)
    np.testing.assert_allclose(film["reward"].sum(axis=0), UPHILL.returns[:RECORDED], rtol=1e-5)
    starts = [judged(*given).recording["view"][0] for given in ((0.9, 0), (0.0, 0), (0.9, 1))]
    same(starts[0], starts[1])
    assert len(np.unique(starts[0])) == starts[0].size and not (starts[0] == starts[2]).any()


def test_an_evaluation_carries_the_acting_state_on() -> None:
    """Every action is a tenth of the number of steps before it."""

    def policy(observation: jax.Array, key: Key, carry: jax.Array) -> tuple[jax.Array, jax.Array]:
        return carry[:, None] / 10, carry + 1

    evaluated = jax.jit(lambda key: evaluate(CALM, policy, EPISODES, key, RECORDED, jnp.zeros(EPISODES)))
    episodes, time = evaluated(jax.random.key(0)), np.arange(CALM.limit)[:, None]
    expected = np.where(time < episodes.lengths[:RECORDED], time / 10, 0)
    np.testing.assert_allclose(episodes.recording["action"][..., 0], expected, rtol=1e-6)


def test_stops_when_every_episode_has_ended() -> None:
    seen = []

    def policy(observation: jax.Array, key: Key) -> jax.Array:
        jax.debug.callback(lambda: seen.append(1))
        return jnp.ones((len(observation), 1))

    result = jax.jit(lambda key: evaluate(Walk(limit=100, noise=0.0), policy, EPISODES, key))(jax.random.key(0))
    jax.effects_barrier()
    assert len(seen) == result.lengths.max() < 20
