"""rlx environments through Gymnasium: its own checker, its wrappers and vectors, seeds, and the ends of episodes."""

import os
import warnings

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from rlx import envs
from rlx.errors import RlxError
from rlx.types import EnvState, Key, Step
from tests.walk import DECAY, PUSH, Walk

WALK = Walk(noise=0.0)


def walk(env: gymnasium.Env, actions: int = 5, **options: int) -> list[np.ndarray]:
    """The observations of an episode with actions of 0.5."""
    first, info = env.reset(**options)
    assert info == {}
    return [first, *(env.step(np.full(1, 0.5, np.float32))[0] for _ in range(actions))]


def test_gymnasiums_own_checker_passes() -> None:
    """It looks at spaces, types and seeds, and warns only of boxes without bounds and that nothing is registered."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(envs.to_gymnasium(envs.make("gymnax:Pendulum-v1")))
    expected = ("infinity", "probably not", "alternative render modes")
    assert [str(w.message) for w in caught if not any(text in str(w.message) for text in expected)] == []


def test_steps_are_the_environments() -> None:
    """Actions outside are clipped; observations are the caller's own; a step before the first reset is refused."""
    env = envs.to_gymnasium(WALK)
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(np.zeros(1))
    first, _ = env.reset(seed=3)
    seen, reward, terminated, truncated, info = env.step(np.asarray([0.5], np.float32))
    np.testing.assert_allclose(seen, DECAY * first + PUSH * 0.5, rtol=1e-6)
    assert reward == pytest.approx(float(first[0]) - 0.25)
    assert (type(reward), terminated, truncated, info) == (float, bool(abs(seen[0]) > 1), False, {})
    assert seen.dtype == np.float32 and env.observation_space.contains(seen)
    before = seen.copy()
    seen[:] = 7.0
    np.testing.assert_allclose(env.step(np.asarray([7.0]))[0], DECAY * before + PUSH, rtol=1e-6)


def test_episodes_end_and_nothing_resets_by_itself() -> None:
    env = envs.to_gymnasium(Walk(limit=3, noise=0.0))
    env.reset(seed=0)
    ends, still = [], np.zeros(1, np.float32)
    for _ in range(3):
        last, _, terminated, truncated, _ = env.step(still)
        ends.append((terminated, truncated))
    assert ends == [(False, False), (False, False), (False, True)]
    np.testing.assert_allclose(env.step(still)[0], DECAY * last, rtol=1e-6)

    env.reset(seed=0)
    for _ in range(30):
        if (ended := env.step(np.ones(1, np.float32)))[2]:
            break
    assert ended[2:4] == (True, False) and ended[0][0] > 1


def test_seeds_make_starts_and_noise() -> None:
    """Noise is new in every step; the first seed is the maker's."""
    noisy = Walk(noise=0.2, limit=50)
    one, other = envs.to_gymnasium(noisy), envs.to_gymnasium(noisy)
    np.testing.assert_array_equal(walk(one, seed=5), walk(other, seed=5))
    np.testing.assert_array_equal(walk(one), walk(other))  # the episodes that follow
    again = np.asarray(walk(one, seed=5))
    assert not np.array_equal(again, walk(one)) and not np.array_equal(again, walk(one, seed=6))
    noise = again[1:] - DECAY * again[:-1] - PUSH * 0.5
    assert len(np.unique(noise.round(5))) == noise.size
    first, second = walk(envs.to_gymnasium(WALK, seed=1)), walk(envs.to_gymnasium(WALK, seed=2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, walk(envs.to_gymnasium(WALK), seed=1))
    # without any, a vector of equal copies would collect the same episode again and again
    env = envs.to_gymnasium(WALK)
    starts = [*(envs.to_gymnasium(WALK) for _ in range(3)), env, env, env]
    assert len({tuple(each.reset()[0]) for each in starts}) == 6


def test_a_forked_process_is_refused_before_it_hangs() -> None:
    """In the child of a fork every way in says how to start processes instead; the parent goes on."""
    env = envs.to_gymnasium(WALK)
    env.reset(seed=0)
    read, write = os.pipe()
    if (child := os.fork()) == 0:  # no JAX from here on: it is what hangs
        words = []
        for way in (lambda: envs.to_gymnasium(WALK), env.reset, lambda: envs.make("gymnax:Pendulum-v1")):
            try:
                way()
            except RlxError as error:
                words.append(str(error))
        os.write(write, "\n".join(words).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as messages:
        assert messages.read().count('context="spawn"') == 3
    env.reset()


def test_through_wrappers() -> None:
    limited: gymnasium.Env = gymnasium.wrappers.TimeLimit(envs.to_gymnasium(WALK), 2)
    env: gymnasium.Env = gymnasium.wrappers.RecordEpisodeStatistics(limited)
    first, _ = env.reset(seed=4)
    env.step(np.zeros(1, np.float32))
    *_, truncated, info = env.step(np.zeros(1, np.float32))
    assert truncated and info["episode"]["l"] == 2
    assert info["episode"]["r"] == pytest.approx(float(first[0]) * (1 + DECAY))


def test_in_a_vector() -> None:
    """Each copy as it is alone, and copies share one program."""
    counted: list[int] = []

    class Counted(Walk):
        def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
            counted.append(1)
            return super().step(state, action, key)

    env = Counted(noise=0.2, limit=50)
    many: gymnasium.vector.VectorEnv = gymnasium.vector.SyncVectorEnv([lambda: envs.to_gymnasium(env)] * 3)
    first, _ = many.reset(seed=[7, 8, 9])
    seen, *_ = many.step(np.full((3, 1), 0.5, np.float32))
    assert len(counted) == 1
    for i in range(3):
        alone = walk(envs.to_gymnasium(env), 1, seed=7 + i)
        np.testing.assert_array_equal([first[i], seen[i]], alone)
    many.close()
