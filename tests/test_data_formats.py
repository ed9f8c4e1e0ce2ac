"""Reading and writing: small files written by each format's own rules, read against those rules spelt out in loops."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import data, statistics
from rlx.data import Dataset, spaces
from rlx.errors import RlxError
from tests.datasets import compact, d4rl_arrays, ogbench_arrays, walk, write_hdf5

LENGTHS = [3, 1, 4, 2]


def same(found: Dataset, expected: Dataset) -> None:
    """Every number of both, to the bit."""
    jax.tree.map(np.testing.assert_array_equal, found[:3], expected[:3])
    data.check(found)


def without_extras(dataset: Dataset) -> Dataset:
    return dataset._replace(rows=dataset.rows._replace(extras={}))


# Minari


@pytest.mark.parametrize("last", ["terminated", "truncated"])
def test_round_trip_to_the_bit(tmp_path: Path, last: str) -> None:
    dataset = walk(
        LENGTHS,
        terminated=[True, False, False, last == "terminated"],
        format="minari",
        env="brax:hopper",
        backend="spring",
        episode_length=1000,
        random_return=-3.25,
        expert_return=None,
        notes=["one"],
        nested={"learning_rate": 3e-4, "layers": [256, 256], "none": None},
    )
    data.write(dataset, tmp_path / "walk-v0")
    found = data.read(tmp_path / "walk-v0")
    same(found, dataset)
    assert found.info == dataset.info
    for place in (tmp_path / "walk-v0" / "data", tmp_path / "walk-v0" / "data" / "main_data.hdf5"):
        same(data.read(str(place)), dataset)


def test_odd_numbers_survive_the_round_trip(tmp_path: Path) -> None:
    """NaN, infinities, the smallest numbers, and successors that are not the next row's observation."""
    dataset = walk(LENGTHS)
    rows = jax.tree.map(np.copy, dataset.rows)
    rows.observation[1] = [np.nan, np.inf, 1e-45]
    rows.next_observation[0] = rows.observation[1]
    rows.reward[2:4] = [-np.inf, -0.0]
    rows.next_observation[5] += 0.5  # inside an episode
    odd = dataset._replace(rows=rows)
    data.write(odd, tmp_path / "odd")
    found = data.read(tmp_path / "odd")
    same(found, odd)
    assert np.signbit(found.rows.reward[3])
    assert set(found.rows.extras) == {"log_prob"}


def test_successors_are_stored_once_where_they_are_the_next_observation(tmp_path: Path) -> None:
    import h5py

    dataset = walk(LENGTHS)
    dataset.rows.observation[1, 0] = dataset.rows.next_observation[0, 0] = np.nan
    data.write(dataset, tmp_path / "set")
    with h5py.File(tmp_path / "set" / "data" / "main_data.hdf5") as file:
        assert list(file["episode_0/infos"]) == ["log_prob"]


@pytest.mark.parametrize("shape", [(4, 1), (3, 2), (4,), (4, 2, 1), ()])
def test_arrays_of_an_episode_must_fit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Also where NumPy would stretch them."""
    import h5py

    data.write(walk(LENGTHS), tmp_path / "set")
    with h5py.File(tmp_path / "set" / "data" / "main_data.hdf5", "a") as file:
        del file["episode_2/actions"]
        file["episode_2/actions"] = np.zeros(shape, np.float32)
    with pytest.raises(RlxError, match=r"actions of episode_2 is \[.*\], which does not fit"):
        data.read(tmp_path / "set")


def test_an_episode_without_an_end_was_truncated(tmp_path: Path) -> None:
    import h5py

    dataset = walk(LENGTHS, terminated=[True] * 4)
    data.write(dataset, tmp_path / "set")
    with h5py.File(tmp_path / "set" / "data" / "main_data.hdf5", "a") as file:
        file["episode_2/terminations"][-1] = False
        file["episode_3/truncations"][-1] = True
    found = data.read(tmp_path / "set")
    assert np.flatnonzero(found.rows.truncated).tolist() == [7]
    assert np.flatnonzero(found.rows.terminated).tolist() == [2, 3, 9]


def test_plain_minari_loads_what_rlx_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import minari

    dataset = walk(LENGTHS, random_return=0.0, expert_return=10.0)
    data.write(dataset, tmp_path / "walk-medium-v3")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    loaded = minari.load_dataset("walk-medium-v3")
    assert loaded.id == "walk-medium-v3" and loaded.spec.version == 3
    assert (loaded.total_steps, loaded.total_episodes) == (10, 4)
    assert minari.get_normalized_score(loaded, np.array([5.0])) == 0.5
    for episode, read in enumerate(loaded.iterate_episodes()):
        rows = jax.tree.map(lambda x, e=episode: x[dataset.episode == e], dataset.rows)
        np.testing.assert_array_equal(read.observations[:-1], rows.observation)
        np.testing.assert_array_equal(read.observations[1:], rows.next_observation)
        np.testing.assert_array_equal(read.actions, rows.action)
        np.testing.assert_array_equal(read.rewards, rows.reward)
        np.testing.assert_array_equal(read.terminations, rows.terminated)
        np.testing.assert_array_equal(read.truncations, rows.truncated)
        np.testing.assert_array_equal(read.infos["log_prob"], rows.extras["log_prob"])
    assert list(minari.list_local_datasets()) == ["walk-medium-v3"]
    data.write(dataset, tmp_path / "a name of mine")
    assert minari.MinariDataset(tmp_path / "a name of mine" / "data").spec.dataset_id == "a-name-of-mine-v0"


def collect_with_minari(place: Path, bound: float, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Five Pendulum-like episodes by Minari's own collector: two end, two hit the limit, one is cut by a reset."""
    import gymnasium
    import minari

    class Line(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        goal = 0
        action_space = gymnasium.spaces.Box(np.array([-bound, 0.0]), np.array([bound, 1.0]), dtype=np.float64)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.at = np.array([self.np_random.normal(), 0.0])
            return self.at.copy(), {}

        def step(self, action: Any) -> Any:
            self.at += [action[0], 1.0]
            return self.at.copy(), float(self.at.sum()), bool(self.at[1] == self.goal), False, {}

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(place))
    inner = Line()
    env = minari.DataCollector(gymnasium.wrappers.TimeLimit(inner, 4))
    env.action_space.seed(0)
    for seed, (goal, steps) in enumerate([(2, 2), (9, 4), (3, 3), (9, 4), (9, 2)]):
        inner.goal = goal
        env.reset(seed=seed)
        for _ in range(steps):
            env.step(env.action_space.sample())
    made = env.create_dataset("line/own-v1", eval_env=None, algorithm_name="random", ref_min_score=None)
    return list(made.iterate_episodes())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bound", [1.0, 2.0])
def test_minari_by_its_own_collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: float) -> None:
    episodes = collect_with_minari(tmp_path, bound, monkeypatch)
    found = data.read(tmp_path / "line" / "own-v1")
    data.check(found)
    assert data.episode_lengths(found).tolist() == [2, 4, 3, 4, 2]
    ended = found.time == data.episode_lengths(found)[found.episode] - 1
    np.testing.assert_array_equal(found.rows.terminated, ended & np.isin(found.episode, [0, 2]))
    np.testing.assert_array_equal(found.rows.truncated, ended & np.isin(found.episode, [1, 3, 4]))

    def all_of(parts: list[Any]) -> np.ndarray:
        return np.concatenate(parts).astype(np.float32)

    np.testing.assert_array_equal(found.rows.observation, all_of([e.observations[:-1] for e in episodes]))
    np.testing.assert_array_equal(found.rows.next_observation, all_of([e.observations[1:] for e in episodes]))
    np.testing.assert_array_equal(found.rows.reward, all_of([e.rewards for e in episodes]))
    action = np.concatenate([e.actions for e in episodes])
    expected = np.stack([action[:, 0] / bound, 2 * action[:, 1] - 1], axis=1)
    np.testing.assert_allclose(found.rows.action, expected, atol=1e-6)
    assert np.abs(found.rows.action).max() <= 1
    (note,) = found.info.pop("notes")
    assert note == f"actions were mapped to [-1, 1] from [{-bound}, 0.0] .. [{bound}, 1.0]"
    assert found.info == {"name": "line/own-v1", "format": "minari"}


def change_metadata(folder: Path, **changes: Any) -> None:
    file = folder / "data" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_what_minari_itself_tells_of_a_set(tmp_path: Path) -> None:
    data.write(walk(LENGTHS), tmp_path / "set-v0")
    file = tmp_path / "set-v0" / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    del metadata["rlx"]
    spec = {"id": "Hopper-v5", "entry_point": "no.such.module:Env", "max_episode_steps": 1000}
    file.write_text(json.dumps(metadata | {"env_spec": json.dumps(spec), "ref_min_score": 1.0, "ref_max_score": 9.0}))
    found = data.read(tmp_path / "set-v0")
    same(found, without_extras(walk(LENGTHS)))
    assert found.info == {
        "name": "set-v0",
        "format": "minari",
        "env_id": "Hopper-v5",
        "episode_length": 1000,
        "random_return": 1.0,
        "expert_return": 9.0,
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data_format": "arrow"}, "stores its data as arrow; rlx reads Minari's hdf5"),
        ({"total_steps": 9}, "observations of episode_3 is [3, 3], which does not fit the rest"),
        ({"total_steps": 11}, "holds 10 steps where metadata.json says 11"),
        ({"total_episodes": 5}, "has no episode_4"),
        ({"total_episodes": 0}, "holds 0 episodes of 10 steps"),
        ({"total_steps": "many"}, "is not what Minari writes"),
        ({"observation_space": '{"type": "Dict", "subspaces": {}}'}, "the observation space is Dict; rlx needs flat"),
        (
            {"observation_space": '{"type": "Box", "dtype": "uint8", "shape": [8, 8, 3]}'},
            "the observation space is Box uint8 [8, 8, 3]; rlx needs flat vectors of floats",
        ),
        ({"action_space": '{"type": "Discrete", "dtype": "int64", "n": 4}'}, "the action space is Discrete int64;"),
        (
            {"action_space": '{"type": "Box", "dtype": "float32", "shape": [2], "low": [1, 1], "high": [1, 1]}'},
            "the action space is empty",
        ),
        (
            {"action_space": '{"type": "Box", "dtype": "float32", "shape": [2], "low": [-1], "high": [1, 1]}'},
            "is not what Minari writes",
        ),
        ({"rlx": {"info": {}, "extras": ["density"]}}, "infos/density of episode_0 is missing"),
        ({"rlx": {"info": {}, "extras": ["../actions"]}}, "is not what Minari writes"),
        ({"rlx": {"info": {"notes": 3}, "extras": []}}, "is not what Minari writes"),
        ({"rlx": {"info": {"missing": [3]}, "extras": []}}, "is not what Minari writes"),
        ({"rlx": {"info": {"random_return": "low"}, "extras": []}}, "is not what Minari writes"),
        ({"data_format": "x\n\x1b[2J" + "y" * 1000}, "stores its data as x??[2Jyyy"),
    ],
)
def test_minari_metadata_that_does_not_fit(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    data.write(walk(LENGTHS), tmp_path / "set-v0")
    change_metadata(tmp_path / "set-v0", **changes)
    with pytest.raises(RlxError) as caught:
        data.read(tmp_path / "set-v0")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_is_written_over_and_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(RlxError, match="there exists and is not written over"):
        data.write(walk(LENGTHS), tmp_path / "there")
    with pytest.raises(RlxError, match=r"extras \['a/b'\] cannot be written"):
        dataset = walk(LENGTHS)
        data.write(dataset._replace(rows=dataset.rows._replace(extras={"a/b": dataset.rows.reward})), tmp_path / "new")
    with pytest.raises(RlxError, match="JSON values only"):
        data.write(walk(LENGTHS, odd={1, 2}), tmp_path / "new")
    with pytest.raises(RlxError, match="has no rewards"):
        data.write(walk(LENGTHS, missing=["rewards"]), tmp_path / "new")

    def full(*given: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    from minari.dataset._storages.hdf5_storage import HDF5Storage

    monkeypatch.setattr(HDF5Storage, "update_episodes", full)
    with pytest.raises(RlxError, match=r"new cannot be written \(No space left on device\)"):
        data.write(walk(LENGTHS), tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


# D4RL


def slow_d4rl(arrays: dict[str, np.ndarray]) -> list[tuple[Any, ...]]:
    """D4RL's rows without stored successors, one by one: row, successor, terminated, whether the next is dropped."""
    rows = []
    for i in range(len(arrays["rewards"]) - 1):
        if arrays["timeouts"][i]:
            continue
        terminal = bool(arrays["terminals"][i])
        following = arrays["observations"][i if terminal else i + 1]
        cut = i + 2 == len(arrays["rewards"]) or bool(arrays["timeouts"][i + 1])
        rows.append((i, following, terminal, cut and not terminal))
    return rows


LARGEST = float(np.finfo(np.float32).max)


def test_actions_are_mapped_by_dimension_and_played_back() -> None:
    """One mapping for the reader and the player: a bound on one side alone, or float32's largest, is none."""
    low = np.array([-0.5, -np.inf, -LARGEST, 0.0, -2.0])
    high = np.array([0.5, 1.0, LARGEST, np.inf, 4.0])
    native = np.array([[0.4, 0.3, -0.25, 0.5, 4.0]])
    unit, notes = spaces.to_unit(Path("set"), native, low, high)
    np.testing.assert_allclose(unit, [[0.8, 0.3, -0.25, 0.5, 1.0]], rtol=1e-6)
    centre, half = spaces.affine(low, high)
    np.testing.assert_allclose(centre + half * unit, native, rtol=1e-6)
    assert len(notes) == 1
    with pytest.raises(RlxError, match="empty"):
        spaces.to_unit(Path("set"), native, low, np.array([-0.5, 1, 1, 1, 1]))


@pytest.mark.parametrize("lengths", [LENGTHS, [1, 1, 1], [5], [4, 1], [2, 2]])
@pytest.mark.parametrize("first_terminates", [True, False])
def test_d4rl_without_successors(tmp_path: Path, lengths: list[int], first_terminates: bool) -> None:
    kinds = [i % 2 == (0 if first_terminates else 1) for i in range(len(lengths))]
    arrays = d4rl_arrays(walk(lengths, terminated=kinds))
    del arrays["next_observations"]
    expected = slow_d4rl(arrays)
    if not expected:
        pytest.skip("nothing is left of it")
    found = data.read(write_hdf5(tmp_path / "walk.hdf5", arrays))
    data.check(found)
    at = [row for row, *_ in expected]
    np.testing.assert_array_equal(found.rows.observation, arrays["observations"][at])
    np.testing.assert_array_equal(found.rows.action, arrays["actions"][at])
    np.testing.assert_array_equal(found.rows.reward, arrays["rewards"][at])
    for name, column in (("next_observation", 1), ("terminated", 2), ("truncated", 3)):
        np.testing.assert_array_equal(getattr(found.rows, name), [row[column] for row in expected])
    inner = found.rows.next_observation[~found.rows.terminated]
    np.testing.assert_array_equal(inner[:, 0], found.rows.observation[~found.rows.terminated, 0])  # the same episode


@pytest.mark.parametrize("timeouts", [True, False])
def test_d4rl_with_successors(tmp_path: Path, timeouts: bool) -> None:
    """Nothing is lost; without `timeouts` an episode ends where its successor is not the next row."""
    dataset = walk([*LENGTHS, 3])
    arrays = d4rl_arrays(dataset)
    if not timeouts:
        del arrays["timeouts"]
    found = data.read(write_hdf5(tmp_path / "walk.hdf5", arrays))
    same(found, without_extras(dataset))
    assert ("notes" in found.info) == (not timeouts)


def test_d4rl_with_neither_says_so(tmp_path: Path) -> None:
    arrays = {name: array for name, array in d4rl_arrays(walk([3, 3], terminated=[True, True])).items()}
    del arrays["next_observations"], arrays["timeouts"]
    found = data.read(write_hdf5(tmp_path / "walk.hdf5", arrays))
    assert found.size == 5 and found.info["notes"][0].startswith("neither timeouts nor next_observations")


@pytest.mark.parametrize("successors", [True, False])
def test_d4rl_without_timeouts_is_cut_at_the_known_limit(tmp_path: Path, successors: bool) -> None:
    """A file of a known task; of an unknown one the limit is not known. Where no successor is stored, the row goes."""
    dataset = walk([2500, 300], terminated=[True, False])
    arrays = {name: array for name, array in d4rl_arrays(dataset).items() if successors or name != "next_observations"}
    del arrays["timeouts"]
    known = data.read(write_hdf5(tmp_path / "hopper_medium_replay-v2.hdf5", arrays))
    lengths = [1000, 1000, 500, 300] if successors else [999, 999, 500, 299]
    np.testing.assert_array_equal(data.episode_lengths(known), lengths)
    assert known.rows.terminated.sum() == 1 and "after 1000 steps" in known.info["notes"][0]
    other = data.read(write_hdf5(tmp_path / "ant_maze-big.hdf5", arrays))
    np.testing.assert_array_equal(data.episode_lengths(other), [2500, 300 if successors else 299])
    assert "episode_length" not in other.info and "random_return" not in other.info


def test_d4rl_successors_that_differ_by_rounding_alone_end_nothing(tmp_path: Path) -> None:
    dataset = walk([4, 3])
    arrays = d4rl_arrays(dataset) | {"next_observations": dataset.rows.next_observation * np.float32(1 + 3e-7)}
    del arrays["timeouts"]
    np.testing.assert_array_equal(data.episode_lengths(data.read(write_hdf5(tmp_path / "a.hdf5", arrays))), [4, 3])


def test_d4rl_terminal_rows_that_vanish_are_counted(tmp_path: Path) -> None:
    """Those that are timeouts, too, and the last row of the file."""
    arrays = d4rl_arrays(walk([3, 3, 3, 3], terminated=[True] * 4))
    del arrays["next_observations"]
    arrays["timeouts"] = np.arange(12) % 6 == 5
    found = data.read(write_hdf5(tmp_path / "a.hdf5", arrays))
    assert found.rows.terminated.sum() == 2 and found.info["notes"][0].startswith("2 terminal rows were dropped")


def test_d4rl_names_and_shapes(tmp_path: Path) -> None:
    """Reference returns by the file's name; float64, and columns that are [n, 1]."""
    arrays = d4rl_arrays(walk(LENGTHS))
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
    arrays["rewards"] = arrays["rewards"][:, None]
    for name in ("hopper_medium-v2", "walker2d-expert-v2", "antmaze-large-v0", "ant-maze", "mine"):
        found = data.read(write_hdf5(tmp_path / f"{name}.hdf5", arrays | {"metadata": np.zeros(3)}))
        same(found, without_extras(walk(LENGTHS)))
        references = (
            statistics.D4RL_REFERENCES.get(name.replace("-", "_").split("_")[0]) if "maze" not in name else None
        )
        known = {} if references is None else {"random_return": references[0], "expert_return": references[1]}
        assert found.info == {"name": name, "format": "d4rl"} | ({"episode_length": 1000} | known if known else {})


def test_actions_beyond_one(tmp_path: Path) -> None:
    arrays = d4rl_arrays(walk(LENGTHS))
    arrays["actions"][0, 0], arrays["actions"][3, 1] = 1.0004, -1.0002
    found = data.read(write_hdf5(tmp_path / "near.hdf5", arrays))
    assert (found.rows.action[0, 0], found.rows.action[3, 1]) == (1, -1)
    assert found.info["notes"] == ["2 numbers of actions were clipped to [-1, 1], the furthest 1.000400"]
    arrays["actions"][0, 0] = 3
    with pytest.raises(RlxError, match=r"far.hdf5: actions reach 3; rlx needs them in \[-1, 1\]: rescale them"):
        data.read(write_hdf5(tmp_path / "far.hdf5", arrays))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rewards": None}, "has no rewards, which a D4RL file has"),
        ({"actions": np.zeros(10, np.int64)}, "one action is int64 [], as of a discrete choice"),
        ({"observations": np.zeros((10, 8, 8, 3), np.uint8)}, "one observation is uint8 [8, 8, 3]; rlx reads flat"),
        ({"terminals": np.zeros(9, bool)}, "terminals is [9], but there are 10 observations"),
        ({"rewards": np.zeros((10, 2))}, "rewards is [10, 2], but there are 10 observations"),
        ({"next_observations": np.zeros((10, 4))}, "observation and next_observation differ in shape"),
    ],
)
def test_d4rl_files_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    arrays = {name: array for name, array in (d4rl_arrays(walk(LENGTHS)) | changes).items() if array is not None}
    with pytest.raises(RlxError) as caught:
        data.read(write_hdf5(tmp_path / "walk.hdf5", arrays))
    assert words in str(caught.value) and "\n" not in str(caught.value)


# OGBench


def tasked(dataset: Dataset) -> tuple[Dataset, dict[str, np.ndarray]]:
    """Trajectories that never terminate, and the rewards and masks of a task that is solved now and then."""
    arrays = ogbench_arrays(dataset)
    masks = np.ones(len(arrays["terminals"]), np.float32)
    masks[[1, 6]] = 0
    return dataset, arrays | {"rewards": masks - 1, "masks": masks}


@pytest.mark.parametrize("form", ["plain", "compact", "rows"])
def test_ogbench_without_a_task(tmp_path: Path, form: str) -> None:
    dataset = walk(LENGTHS, terminated=[False] * 4)
    arrays = ogbench_arrays(dataset)
    if form == "compact":
        arrays = compact(arrays)
    if form == "rows":
        names = {"observations": "observation", "actions": "action", "next_observations": "next_observation"}
        arrays = {name: getattr(dataset.rows, ours) for name, ours in names.items()}
        arrays["terminals"] = dataset.rows.truncated.astype(np.float32)
    np.savez(tmp_path / "maze.npz", **arrays)
    found = data.read(tmp_path / "maze.npz")
    assert np.isnan(found.rows.reward).all() and data.nonfinite(found) == {}
    assert found.info == {"name": "maze", "format": "ogbench", "missing": ["rewards", "masks"]}
    with pytest.raises(RlxError, match="maze has no rewards and masks"):
        data.to_replay(found)
    supplied = data.with_rewards(found, dataset.rows.reward, np.ones(dataset.size))
    same(supplied, without_extras(dataset))
    assert "returns: unknown" in "\n".join(data.describe(found))


@pytest.mark.parametrize("form", ["plain", "compact"])
def test_ogbench_with_a_task(tmp_path: Path, form: str) -> None:
    dataset, arrays = tasked(walk(LENGTHS, terminated=[False] * 4))
    np.savez_compressed(tmp_path / "maze.npz", **(compact(arrays) if form == "compact" else arrays))
    found = data.read(tmp_path / "maze.npz")
    data.check(found)
    np.testing.assert_array_equal(found.rows.next_observation, dataset.rows.next_observation)
    assert found.rows.terminated.tolist() == [False, True, False, False, True, *5 * [False]]
    assert found.rows.reward.tolist() == [0, -1, 0, 0, -1, 0, 0, 0, 0, 0]
    assert found.rows.truncated.tolist() == [False, False, True, True, False, False, False, True, False, True]
    assert "missing" not in found.info


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"timeouts": np.zeros(14), "masks": np.ones(14)}, "has timeouts, as D4RL, and masks, as OGBench"),
        ({"rewards": np.zeros(14)}, "terminals may be ends of the task or of trajectories; add timeouts"),
        ({"actions": None}, "has no actions, which an OGBench file has"),
        ({"terminals": np.zeros(14)}, "the last trajectory does not end, so the file was cut off"),
        ({"terminals": np.ones(13)}, "terminals is [13], but there are 14 observations"),
        ({"observations": np.zeros((14, 64, 64, 3), np.uint8)}, "one observation is uint8 [64, 64, 3]"),
        ({"actions": np.zeros((14, 2), np.int32)}, "one action is int32 [2], as of a discrete choice"),
        ({"rewards": np.float32(1), "masks": np.ones(14)}, "rewards is [], but there are 14 observations"),
        ({"masks": np.ones((14, 1))}, "masks is [14, 1], but there are 14 observations"),
    ],
)
def test_ogbench_files_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    arrays = {name: array for name, array in (ogbench_arrays(walk(LENGTHS)) | changes).items() if array is not None}
    np.savez(tmp_path / "maze.npz", **arrays)
    with pytest.raises(RlxError) as caught:
        data.read(tmp_path / "maze.npz")
    assert words in str(caught.value) and "\n" not in str(caught.value)


# Any of them


def named(dataset: Dataset) -> dict[str, dict[str, np.ndarray]]:
    """The rows under D4RL's names, and under rlx's own."""
    own = {name: leaf for name, leaf in dataset.rows._asdict().items() if name != "extras"}
    return {"d4rl": d4rl_arrays(dataset), "rlx": own}


@pytest.mark.parametrize("form", ["d4rl", "rlx"])
def test_arrays_are_read_by_their_names(tmp_path: Path, form: str) -> None:
    """In an npz file and in memory, NumPy's or JAX's; other arrays are ignored."""
    dataset = without_extras(walk(LENGTHS))
    arrays = named(dataset)[form]
    np.savez(tmp_path / "walk.npz", **arrays, metadata=np.zeros(3))
    on_device = {name: jnp.asarray(leaf) for name, leaf in arrays.items()}
    for given in (dataset, tmp_path / "walk.npz", str(tmp_path / "walk.npz"), arrays, on_device):
        same(data.as_dataset(given), dataset)
    assert data.as_dataset(arrays).info == {"name": "the data set", "format": form}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "of type NoneType, which holds no transitions"),
        ([1, 2], "of type list, which holds no transitions; give a Dataset, a path, or a dict of arrays"),
        ({}, "has no observations, actions, terminals"),
        ({"observation": np.zeros((3, 2)), "action": np.zeros((3, 1))}, "has no reward, terminated"),
        ({"observations": np.array([{}]), "timeouts": np.zeros(1)}, "observations holds pickled Python objects"),
        ({"observations": np.array(["a"]), "timeouts": np.zeros(1)}, "observations holds <U1 instead of numbers"),
    ],
)
def test_what_is_no_data_set_is_refused(given: Any, words: str) -> None:
    with pytest.raises(RlxError) as caught:
        data.as_dataset(given)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_convert_and_info(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path / "hopper_medium-v2.hdf5", d4rl_arrays(walk(LENGTHS)))
    data.convert(source, tmp_path / "hopper-medium-v2")
    found = data.read(tmp_path / "hopper-medium-v2")
    same(found, without_extras(walk(LENGTHS)))
    assert found.info == data.read(source).info | {"format": "minari"}
    lines = data.info(tmp_path / "hopper-medium-v2")
    assert lines[0].startswith("hopper_medium-v2 (minari): 10 transitions") and any("random -20.3" in x for x in lines)


def test_the_format_is_told_by_content(tmp_path: Path) -> None:
    dataset = walk(LENGTHS)
    source = write_hdf5(tmp_path / "one.npz", d4rl_arrays(dataset))
    assert data.read(source).info["format"] == "d4rl"
    np.savez(tmp_path / "two.npz", **ogbench_arrays(dataset))
    shutil.move(tmp_path / "two.npz", tmp_path / "two.hdf5")
    assert data.read(tmp_path / "two.hdf5").info["format"] == "ogbench"
