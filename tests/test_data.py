"""Data sets in memory: episodes and flags, what changes them, windows drawn from them, and what is said of them."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import data, replay
from rlx.data import Dataset
from rlx.errors import RlxError
from tests.commands import Refused, Say, one_line
from tests.datasets import walk

same = partial(jax.tree.map, np.testing.assert_array_equal)


def with_rows(dataset: Dataset, **changes: Any) -> Dataset:
    return dataset._replace(rows=dataset.rows._replace(**changes))


def test_episodes_and_times_follow_from_the_flags() -> None:
    """The last row ends an episode, and termination wins."""
    dataset = walk([3, 1, 2])
    assert dataset.episode.tolist() == [0, 0, 0, 1, 2, 2]
    assert dataset.time.tolist() == [0, 1, 2, 0, 0, 1]
    assert dataset.discount.tolist() == [1, 1, 0, 1, 1, 0]
    assert dataset.size == 6
    assert {leaf.dtype for leaf in jax.tree.leaves(dataset.rows)} == {np.dtype(np.float32), np.dtype(bool)}
    rows = walk([2, 3]).rows._replace(terminated=np.array([0, 1, 0, 0, 0]), truncated=np.array([0, 1, 0, 0, 0]))
    dataset = data.make_dataset({}, **rows._asdict())
    assert dataset.rows.terminated.tolist() == [False, True, False, False, False]
    assert dataset.rows.truncated.tolist() == [False, False, False, False, True]
    with one_line("holds no transitions"):
        data.make_dataset({}, **jax.tree.map(lambda x: x[:0], rows)._asdict())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reward": np.zeros(3)}, "reward is [3], which should have 5 rows"),
        ({"action": np.zeros(5)}, "action is [5], which should have 5 rows of 2 axes"),
        ({"extras": {"log_prob": np.zeros(4)}}, "extras/log_prob is [4]"),
        ({"next_observation": np.zeros((5, 2))}, "observation and next_observation differ in shape"),
        ({"truncated": np.zeros(5, bool)}, "the last row ends no episode"),
        ({"terminated": np.ones(5, bool)}, "terminated and truncated at once"),
        ({"truncated": np.array([1, 0, 0, 0, 1], bool)}, "episode does not fit the flags from row 1 on"),
    ],
)
def test_check_names_what_is_wrong(changes: dict[str, Any], words: str) -> None:
    dataset = walk([2, 3])
    data.check(dataset)
    with one_line(words, "walk"):
        data.check(with_rows(dataset, **changes))


def test_returns_lengths_and_range() -> None:
    dataset = with_rows(walk([2, 3, 1]), reward=np.array([1, 2, 3, 4, 5, -6], np.float32))
    assert data.episode_returns(dataset).tolist() == [3, 12, -6]
    assert data.episode_lengths(dataset).tolist() == [2, 3, 1]
    assert data.return_range(dataset) == 18
    with pytest.raises(RlxError, match="span 0, so rewards cannot be scaled"):
        data.return_range(walk([4]))


def test_concatenate() -> None:
    one = walk([2, 3], env="brax:hopper", kind="medium", notes=["a"])
    other = with_rows(walk([4], seed=1, env="brax:hopper", kind="expert", notes=["b"]), extras={})
    both = data.concatenate([one, other])
    data.check(both)
    assert both.episode.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    same(jax.tree.map(lambda x: x[5:], both.rows), other.rows)
    same(jax.tree.map(lambda x: x[:5], both.rows), one.rows._replace(extras={}))
    assert both.info == {"env": "brax:hopper", "name": "walk", "notes": ["a", "b"]}
    one, other = (
        each._replace(info=each.info | {"behaviours": [{"name": name}], "behaviour_return": value})
        for each, name, value in ((one, "medium", -9.0), (other, "expert", 0.0))
    )
    both = data.concatenate([one, other])
    assert both.info["behaviours"] == [{"name": "medium"}, {"name": "expert"}] and both.info["behaviour_return"] == -5.0
    wide = data.make_dataset({"name": "wide"}, **one.rows._replace(action=np.zeros((5, 4)))._asdict())
    with pytest.raises(RlxError, match="walk and wide differ in the size of one action, 2 and 4"):
        data.concatenate([one, wide])


def test_clip_actions_counts() -> None:
    action = np.array([[1, -1], [0.5, 0.99999999], [-0.2, 0.999]], np.float32)
    dataset, changed = data.clip_actions(with_rows(walk([3]), action=action))
    assert changed == 3  # 0.99999999 is 1 in float32
    limit = np.float32(1 - 1e-5)
    assert dataset.rows.action.tolist() == np.array([[limit, -limit], [0.5, limit], [-0.2, 0.999]], np.float32).tolist()
    assert data.clip_actions(dataset)[1] == 0


@pytest.mark.parametrize("what", ["observation", "action", "reward", "dynamics"])
def test_corruption_of_a_share_of_rows(what: str, tmp_path: Path) -> None:
    """Exactly 30 % of one column, within bounds; nothing else changes, and it can be written."""
    dataset, name = walk([60, 40]), {"dynamics": "next_observation"}.get(what, what)
    corrupt = data.corrupt(dataset, what, 0.3, 0.5, seed=3)
    before, after = (np.asarray(getattr(each.rows, name)).reshape(100, -1) for each in (dataset, corrupt))
    moved = after - before
    assert (moved != 0).any(axis=1).sum() == 30
    if what == "reward":
        chosen = after[moved != 0]
        assert abs(chosen).max() <= 15 and chosen.min() < -7 and chosen.max() > 7
    else:
        bound = 0.5 * before.std(axis=0)
        assert (abs(moved) <= 1.001 * bound).all() and (abs(moved).max(axis=0) > 0.7 * bound).all()
    same(dataset.rows._replace(**{name: None}, extras={}), corrupt.rows._replace(**{name: None}, extras={}))
    assert ("log_prob" in corrupt.rows.extras) == (what != "action")
    data.write(corrupt, tmp_path / "corrupt")
    assert data.digest(data.read(tmp_path / "corrupt")) == data.digest(corrupt)


def test_corrupting_says_what_it_wrote_and_what_cannot_be(tmp_path: Path, say: Say, refused: Refused) -> None:
    data.write(walk([60, 40]), tmp_path / "whole-v0")
    words = ["data", "corrupt", tmp_path / "whole-v0"]
    said = say(*words, "spoilt-v0", "--what", "action")
    assert said.code == 0 and said.out.startswith("spoilt-v0 (spoilt-v0): 100 transitions")
    assert refused(*words, "no", "--what", "actoin") == "corruption actoin: unknown; did you mean action?"
    for flag, value, line in (
        ("--seed", -1, "corruption seed -1: must be at least 0 and under 2^32"),
        ("--rate", "nan", "corruption rate nan: must be between 0 and 1"),
        ("--scale", "inf", "corruption scale inf: must be over 0 and under 10^6"),
    ):
        assert refused(*words, "no", "--what", "reward", flag, value) == line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terminals": np.full(4, np.nan)}, "the data set: terminals is nan in row 0; flags are 0 or 1"),
        ({"timeouts": np.array([0, 0, 2, 1])}, "the data set: timeouts is 2 in row 2; flags are 0 or 1"),
        ({"timeouts": None, "masks": np.full(4, 0.5)}, "the data set: masks is 0.5 in row 0; flags are 0 or 1"),
        ({"observations": np.zeros((4, 0))}, "one observation is float64 [0]; rlx reads flat vectors of floats: give"),
    ],
)
def test_arrays_that_mean_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    arrays: dict[str, Any] = {"observations": np.zeros((4, 2)), "actions": np.zeros((4, 1)), "rewards": np.zeros(4)}
    arrays |= {"terminals": np.zeros(4, bool), "timeouts": np.array([0.0, 0, 0, 1])}
    assert data.from_arrays(arrays).size == 3, "flags may be of any numeric type"
    with one_line(message):
        data.from_arrays({name: value for name, value in (arrays | changes).items() if value is not None})


def test_functions_name_what_they_cannot_take() -> None:
    uneven = walk([6, 3])
    made = uneven.rows._asdict() | {"truncated": np.full(9, 3)}
    for use, message in (
        (lambda: data.read(3), "path: is of type int; give the path of a data set"),
        (lambda: data.concatenate([]), "there is no data set to join"),
        (
            lambda: data.trajectory_weights(uneven, "retrun", 0.1),
            "trajectory weights retrun: unknown; did you mean ret",
        ),
        (lambda: data.trajectory_weights(uneven, "return", 0.0), "trajectory temperature 0: must be over 0"),
        (lambda: data.make_dataset({"name": "odd"}, **made), "odd: truncated is 3 in row 0; flags are 0 or 1"),
    ):
        with one_line(message):
            use()


def test_nonfinite_rows_are_found_and_cut_out() -> None:
    """A bad observation spoils the row before too, as its successor; a bad last row leaves a truncated episode."""
    dataset = walk([6, 3])
    rows = jax.tree.map(np.copy, dataset.rows)
    rows.observation[2, 0] = rows.next_observation[1, 0] = np.nan
    rows.reward[4] = np.inf
    rows.action[8, 1] = -np.inf
    spoilt = dataset._replace(rows=rows)
    actual = {name: at.tolist() for name, at in data.nonfinite(spoilt).items()}
    assert actual == {"observation": [2], "next_observation": [1], "reward": [4], "action": [8]}

    kept = data.drop_nonfinite(spoilt)
    data.check(kept)
    assert data.nonfinite(kept) == {}
    assert kept.rows.observation[:, :2].tolist() == [[0, 0], [0, 3], [0, 5], [1, 0], [1, 1]]
    assert kept.rows.next_observation[:, :2].tolist() == [[0, 1], [0, 4], [0, 6], [1, 1], [1, 2]]
    assert kept.rows.truncated.tolist() == [True, True, False, False, True]
    assert kept.rows.terminated.tolist() == [False, False, True, False, False]
    assert kept.episode.tolist() == [0, 1, 2, 3, 3] and kept.time.tolist() == [0, 0, 0, 0, 1]
    assert data.drop_nonfinite(dataset) is dataset


def test_rewards_of_another_task() -> None:
    dataset = walk([4, 2], terminated=[False, False], missing=["rewards", "masks"])
    for refuse in (data.to_replay, data.return_range, data.episode_returns):
        with pytest.raises(RlxError, match="walk has no rewards and masks, without which nothing can be learnt"):
            refuse(dataset)
    task = data.with_rewards(dataset, np.arange(6), [1, 0, 1, 1, 1, 0])
    assert task.rows.reward.tolist() == [0, 1, 2, 3, 4, 5]
    assert task.rows.terminated.tolist() == [False, True, False, False, False, True]
    assert task.rows.truncated.tolist() == [False, False, False, True, False, False]
    assert task.episode.tolist() == [0, 0, 1, 1, 2, 2] and "missing" not in task.info
    with pytest.raises(RlxError, match=r"masks are \[5\], but there are 6 transitions"):
        data.with_rewards(dataset, np.arange(6), np.ones(5))


draw = jax.jit(replay.sample, static_argnames=("shape", "n"))


@pytest.mark.parametrize("n", [1, 3])
def test_successors_never_cross_an_episode(n: int) -> None:
    rng = np.random.default_rng(n)
    lengths = [1, 1, 2, 7, 1, 30, 3, 1]
    dataset = walk(lengths, terminated=rng.random(len(lengths)) < 0.5)
    ring = data.to_replay(dataset, reward_shift=-1.0)
    assert {type(leaf) for leaf in jax.tree.leaves(ring)} == {np.ndarray}
    actual = jax.tree.map(np.asarray, draw(ring, jax.random.key(n), (4000,), n, jnp.float32(0.9)))

    episode, time = actual.observation[:, :2].astype(int).T
    starts = np.cumsum([0, *lengths])
    row = starts[episode] + time
    assert set(row) == set(range(dataset.size - (n - 1)))  # the last rows begin no whole window
    steps = np.minimum(n, np.take(lengths, episode) - time)
    np.testing.assert_array_equal(actual.next_observation[:, 0], episode)
    np.testing.assert_array_equal(actual.next_observation[:, 1], time + steps)
    np.testing.assert_array_equal(actual.action, dataset.rows.action[row])
    np.testing.assert_array_equal(actual.extras["log_prob"], dataset.rows.extras["log_prob"][row])
    ended = dataset.rows.terminated[row + steps - 1]
    np.testing.assert_allclose(actual.discount, np.float32(0.9) ** (steps - 1) * ~ended, rtol=1e-6)
    shifted = dataset.rows.reward - 1
    reward = [sum(0.9**k * shifted[at + k] for k in range(m)) for at, m in zip(row, steps, strict=True)]
    np.testing.assert_allclose(actual.reward, reward, rtol=1e-5, atol=1e-5)


def test_describe() -> None:
    behaviours = [{"name": "random", "share": 0.95, "return": -1234.56}, {"name": "expert", "share": 0.05}]
    known: dict[str, Any] = {"random_return": -10.0, "expert_return": 90.0, "notes": ["mapped"]}
    dataset = walk([2, 3, 5], env="brax:hopper", behaviours=behaviours, **known)
    rows = jax.tree.map(np.copy, dataset.rows)
    rows.reward[:] = [10, 0, 0, 20, 0, 30, 0, 0, 0, 0]
    rows.observation[:, 0] = 7
    rows.action[0] = [1, -1]
    rows.next_observation[4, 2] = np.nan
    lines = data.describe(dataset._replace(rows=rows))
    text = "\n".join(lines)
    assert all(len(line) < 200 for line in lines)
    for words in (
        "walk (in memory): 10 transitions, 3 numbers an observation, 2 an action",
        "env brax:hopper",
        "behaviours name random, share 0.95, return -1234.6; name expert, share 0.05",
        "episodes: 3, 2 terminated and 1 truncated; length min 2, quartiles 2.5 3 4, max 5, mean 3.33333",
        "returns: min 10, quartiles 15 20 25, max 30, mean 20",
        "of 20 numbers 2 at exactly +-1, 0 outside",
        "odd: next_observation has NaN or infinity in 1 rows, first in row 4",
        "odd: observation dimensions [0] never change",
        "quality: 30.0 mean normalised return (the data's 20.0; random -10.0 is 0, expert 90.0 is 100)",
        "note: mapped",
        "also stored: log_prob",
    ):
        assert words in text
    worse = "\n".join(data.describe(walk([4, 4], random_return=20.0, expert_return=10.0)))
    assert "quality: unknown, since the expert's 10.0 is not over random's 20.0; mean " in worse
    clean = "\n".join(data.describe(walk([4, 4], missing=["rewards"])))
    assert "odd values: none" in clean and "returns: unknown" in clean and "quality: unknown" in clean


def test_coverage_by_hand() -> None:
    """Two bins: the largest observation falls into the last one, and actions are measured against [-1, 1]."""
    observation, action = np.zeros((5, 3)), np.full((5, 2), 0.5)
    observation[:, 0] = [0, 1, 2, 3, 4]

    def found(second: Any) -> float:
        action[:, 1] = second
        rows = walk([5]).rows._replace(observation=observation, action=action)
        return data.coverage(data.make_dataset({}, **rows._asdict()), bins=2)

    assert [found(0.5), found([0.1, 0.4, 0.2, 0.4, 0.9]), found([0.1, -0.1, 0.2, 0.4, 0.9])] == [2 / 5, 2 / 5, 3 / 5]


def test_coverage_counts_distinct_bins() -> None:
    """Against a set of tuples; a copy of every row halves it, and the whole covers its own half to the count."""
    dataset, bins = walk([40, 40]), 3

    def code(column: np.ndarray, low: float, high: float) -> list[int]:
        return np.minimum(np.floor((column - low) / (high - low) * bins), bins - 1).astype(int).tolist()

    observed = [code(x, x.min(), x.max()) for x in dataset.rows.observation.T.astype(np.float64)]
    acted = [code(x, -1, 1) for x in dataset.rows.action.T.astype(np.float64)]
    slow = len(set(zip(*observed, *acted, strict=True)))
    assert data.coverage(dataset, bins=bins) == slow / 80 and slow < 80
    assert data.coverage(data.concatenate([dataset, dataset]), bins=bins) == slow / 160
    assert data.coverage(dataset, reference=dataset, bins=bins) == 1
    some = np.random.default_rng(5).permutation(80)[:8]
    few = data.make_dataset({}, **jax.tree.map(lambda x: x[some], dataset.rows)._asdict())
    assert data.coverage(few, reference=dataset, bins=bins) < data.coverage(dataset, reference=dataset, bins=bins)


@pytest.mark.filterwarnings("error")
def test_odd_values_do_not_stop_the_description() -> None:
    """And what a file says of itself cannot drive the terminal."""
    dataset = walk([3, 2], random_return=1.0, expert_return=1.0, name="a\x1b[2J\nb", notes=["c\rd"])
    rows = jax.tree.map(np.copy, dataset.rows)
    rows.observation[:, 2] = rows.reward[0] = np.nan
    rows.observation[1, 0], rows.observation[2, 1], rows.action[0, 0] = np.inf, -np.inf, np.nan
    lines = data.describe(dataset._replace(rows=rows))
    assert dataset.name == "a?[2J?b" and all(line.isprintable() for line in lines)
    text = "\n".join(lines)
    assert "odd: observation has NaN or infinity in 5 rows, first in row 0" in text and "quality: unknown" in text
