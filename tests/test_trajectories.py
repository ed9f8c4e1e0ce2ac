"""What episodes tell of rows: returns to go, and weights by which whole episodes are drawn more often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import data, replay
from tests.commands import one_line


def episodes(rewards: list[list[float]], first: list[float] | None = None, terminated: bool = True) -> data.Dataset:
    """One episode for each list of rewards; its observations are all `first`, or zero."""
    lengths = [len(each) for each in rewards]
    ended = np.concatenate([np.arange(n) == n - 1 for n in lengths])
    observation = np.repeat(first or [0.0] * len(lengths), lengths)[:, None]
    return data.make_dataset(
        {"name": "made"},
        observation=observation,
        action=np.zeros_like(observation),
        reward=np.concatenate(rewards),
        terminated=ended & terminated,
        truncated=ended & (not terminated),
        next_observation=observation,
    )


def test_returns_to_go() -> None:
    """To each episode's end: a task that ended gives nothing more, one that was cut its last reward for ever."""
    rewards = [[0.0, 1.0, 3.0], [1.0, 1.0]]
    ended, cut = episodes(rewards), episodes(rewards, terminated=False)
    np.testing.assert_allclose(data.returns_to_go(ended, 0.5, reward_shift=1.0), [3.0, 4.0, 4.0, 3.0, 2.0])
    np.testing.assert_allclose(data.returns_to_go(cut, 0.5), [2.0, 4.0, 6.0, 2.0, 2.0])
    np.testing.assert_allclose(data.returns_to_go(cut, 1.0), [4.0, 4.0, 3.0, 2.0, 1.0])


def test_weights_of_returns_and_of_advantages() -> None:
    """The softmax over rows of scaled returns; what the first observation lets expect does not count as advantage."""
    made = episodes([[1.0], [2.0, 0.0], [1.0, 3.0]])
    found = data.trajectory_weights(made, "return", 0.5)
    expected = np.exp(2 * np.array([0, 1 / 3, 1 / 3, 1, 1]))
    np.testing.assert_allclose(found, expected / expected.sum())

    returns = np.array([0.0, 10.0, 21.0, 30.0])  # 10 times the first observation, and once 1 more
    made = episodes([[x] for x in returns], first=[0.0, 1.0, 2.0, 3.0])
    line = np.polynomial.Polynomial.fit([0, 1, 2, 3], returns, 1)(np.arange(4.0))
    expected = np.exp((returns - line) / np.ptp(returns - line) / 0.1)
    np.testing.assert_allclose(data.trajectory_weights(made, "advantage", 0.1), expected / expected.sum(), rtol=1e-6)
    with one_line("made", "leave out --trajectory-weights"):
        data.trajectory_weights(episodes([[1.0], [1.0]]), "return", 0.1)


@pytest.mark.parametrize("n", [1, 2])
def test_rows_are_drawn_as_often_as_their_weights_say(n: int) -> None:
    """Of a weight of 0 never; windows start where they have all their rows."""
    ring = data.to_replay(episodes([[0.0], [1.0, 1.0], [2.0], [3.0]]))
    weights = np.array([0.1, 0.0, 0.3, 0.2, 0.4])
    ring = jax.tree.map(jnp.asarray, ring.replace(odds=replay.make_odds(5 * weights)))
    fields = ("observation", "reward", "discount")
    batch = jax.jit(lambda key: replay.sample(ring, key, (100, 1000), n, 0.9, {"time": replay.Read("reward")}, fields))(
        jax.random.key(0)
    )
    drawn = np.asarray(batch.extras["time"]).ravel()
    shares = [(drawn == reward).mean() for reward in range(4)]
    ends = [0.2, 0.4] if n == 1 else [0.6, 0.0]
    np.testing.assert_allclose(shares, [0.1, 0.3, *ends], atol=0.006)


def test_parts_of_joined_sets() -> None:
    first, second = episodes([[1.0], [2.0, 3.0]]), episodes([[4.0, 5.0]])
    for part, whole in zip(data.split(data.concatenate([first, second]), [3, 2]), (first, second), strict=True):
        data.check(part)
        assert data.digest(part) == data.digest(whole)
