"""Normalised rewards: discounted returns against loops in NumPy, and runs that do not notice the rewards' unit."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx
from rlx import normalize
from rlx.envs.wrappers import reward_scale
from rlx.errors import RlxError
from tests.commands import TINY
from tests.walk import Walk

GAMMA = 0.9


def fresh(envs: int) -> tuple[normalize.Statistics, normalize.Returns]:
    statistics = normalize.init(2).replace(returns=normalize.init_returns())
    return statistics, normalize.Returns(jnp.zeros(envs), jnp.full(envs, GAMMA))


def loops(reward: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """The discounted return after each step, `[T, E]`."""
    returns, running = np.zeros(reward.shape), np.zeros(reward.shape[1])
    for t in range(len(reward)):
        for e in range(reward.shape[1]):
            running[e] = GAMMA * running[e] + reward[t, e]
            returns[t, e] = running[e]
            if ended[t, e]:
                running[e] = 0
    return returns


@pytest.mark.parametrize("jit", [False, True])
def test_statistics_of_discounted_returns(jit: bool) -> None:
    """In blocks; the last reward of an episode belongs to its own return, and a rare one counts however large."""
    rng = np.random.default_rng(0)
    reward, ended = rng.normal(size=(12, 3)).astype(np.float32), rng.random((12, 3)) < 0.2
    reward[7, 1] = 500.0
    add = jax.jit(normalize.add_rewards) if jit else normalize.add_rewards
    statistics, returns = fresh(3)
    for k in range(0, 12, 4):
        statistics, returns = add(statistics, returns, reward[k : k + 4], ended[k : k + 4])
    expected = loops(reward, ended)
    assert statistics.returns is not None
    np.testing.assert_allclose(statistics.returns.mean, expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(statistics.returns.variance, expected.var(), rtol=1e-5)
    np.testing.assert_allclose(returns.discounted, np.where(ended[-1], 0, expected[-1]), rtol=1e-5)
    np.testing.assert_allclose(normalize.scale_reward(statistics, jnp.ones(2)), 1 / expected.std(), rtol=1e-5)


def test_two_shards_have_the_statistics_of_one_batch() -> None:
    rng = np.random.default_rng(1)
    reward, ended = rng.normal(size=(5, 4)).astype(np.float32), rng.random((5, 4)) < 0.2
    together, _ = normalize.add_rewards(*fresh(4), reward, ended)
    statistics, returns = fresh(2)
    halves = (reward.reshape(5, 2, 2), ended.reshape(5, 2, 2))
    add = partial(normalize.add_rewards, statistics, returns, axis_name="shard")
    shards, _ = jax.vmap(add, in_axes=1, axis_name="shard")(*halves)
    assert shards.returns is not None and together.returns is not None
    for variance in shards.returns.variance:
        np.testing.assert_allclose(variance, together.returns.variance, rtol=1e-5)


def test_the_largest_return_is_limited() -> None:
    """A return of 10 may be 0.5 at most: rewards are divided by 20; where the deviation is enough, by that."""
    statistics, returns = fresh(2)
    reward = jnp.array([[-10.0, -5.0], [5.0, 5.0]])
    statistics, _ = normalize.add_rewards(statistics, returns, reward, jnp.ones((2, 2), bool))
    assert statistics.returns is not None and statistics.returns.largest == 10
    deviation = np.std(np.asarray(reward))
    for limit, scale in ((0.0, deviation), (0.5, 20.0), (5.0, deviation)):
        actual = [
            normalize.scale_reward(statistics, jnp.ones(1), limit),
            jax.jit(normalize.scale_reward, static_argnums=2)(statistics, jnp.ones(1), limit),
        ]
        np.testing.assert_allclose(actual, np.full((2, 1), 1 / scale), rtol=1e-5)

    def largest(reward: jax.Array) -> Any:
        shard, _ = normalize.add_rewards(*fresh(1), reward, jnp.ones((2, 1), bool), "shard")
        assert shard.returns is not None
        return shard.returns.largest

    np.testing.assert_array_equal(jax.vmap(largest, 1, axis_name="shard")(reward[:, :, None]), [10, 10])


def test_before_the_first_sample_and_without_variance_rewards_stay_finite() -> None:
    statistics, returns = fresh(2)
    np.testing.assert_array_equal(normalize.scale_reward(statistics, jnp.full(3, 2.0)), 2.0)
    still, _ = normalize.add_rewards(statistics, returns, jnp.zeros((4, 2)), jnp.zeros((4, 2), bool))
    np.testing.assert_array_equal(normalize.scale_reward(still, jnp.zeros(3)), 0.0)


SMALL = TINY | {"total_env_steps": 128, "n_step": 2, "ratio": "2:1", "actor_hidden_sizes": [8]}


class Unit(float):
    """A factor that is read when the program runs, so that runs in several units share one program."""

    now = 1.0

    def __mul__(self, reward: Any) -> Any:
        return reward * jax.pure_callback(lambda: np.float32(Unit.now), jax.ShapeDtypeStruct((), jnp.float32))


@pytest.mark.usefixtures("reuse_programs")
@pytest.mark.parametrize("driver", ["fused", pytest.param("pipelined", marks=pytest.mark.slow)])
def test_learning_does_not_depend_on_the_unit_of_rewards(
    driver: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Rewards times 64 lead to the same agent, to rounding, and to values times 64."""
    env, results = reward_scale(Walk(), Unit(1)), []
    for unit in (1.0, 64.0):
        monkeypatch.setattr(Unit, "now", unit)
        results.append(rlx.fit("sac", env, driver=driver, normalize_rewards=True, **SMALL))
    one, other = results
    for x, y in zip(jax.tree.leaves(one.state), jax.tree.leaves(other.state), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    returns = [result.metrics[-1]["train/episode_return"][0] for result in results]
    assert returns[1] == pytest.approx(64 * returns[0], rel=1e-4) != 0
    at = np.ones((3, 2)), np.zeros((3, 1))
    values = one.q_value(*at)
    np.testing.assert_allclose(other.q_value(*at), 64 * values, rtol=1e-4)
    np.testing.assert_array_equal(rlx.load(one.save(tmp_path / "run"), env).q_value(*at), values)


def test_a_run_goes_on_with_the_scale_that_its_critics_have_learnt() -> None:
    """And with none where either run does not normalise."""
    short = SMALL | {"total_env_steps": 72}
    normalized = rlx.fit("sac", Walk(), normalize_rewards=True, **SMALL)
    assert normalized.statistics.returns is not None
    seen = normalized.statistics.returns.count
    further = rlx.fit("sac", Walk(), normalize_rewards=True, init_from=normalized, **short)
    assert further.statistics.returns is not None and further.statistics.returns.count > seen
    plain = rlx.fit("sac", Walk(), init_from=normalized, **short)
    assert plain.statistics.returns is None
    again = rlx.fit("sac", Walk(), normalize_rewards=True, init_from=plain, **short)
    assert again.statistics.returns is not None and again.statistics.returns.count < seen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalize_rewards": True, "offline_steps": 10}, "normalize.rewards"),
        ({"noise_hold": 4}, "no noise to hold"),
        ({"max_return": 5.0}, "add normalize_rewards"),
    ],
)
def test_settings_without_effect_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RlxError, match=message):
        rlx.fit("sac", Walk(), **SMALL | changes)
