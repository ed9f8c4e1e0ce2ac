"""D4RL and OGBench files and plain arrays, read against the formats' rules spelt out in loops."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from rlx import data, statistics
from rlx.data import spaces
from rlx.errors import RlxError
from tests.commands import one_line
from tests.datasets import (
    LENGTHS,
    assert_same,
    bad_minari,
    compact,
    d4rl_arrays,
    ogbench_arrays,
    walk,
    without_extras,
    write_hdf5,
)

NOT_MINARI = "is not what Minari writes"


def space(kind: str = "Box", **changes: Any) -> str:
    return json.dumps({"type": kind, "dtype": "float32", "shape": [2]} | changes)


def present(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: array for name, array in arrays.items() if array is not None}


def bad_d4rl(path: Path, **changes: Any) -> Path:
    return write_hdf5(path, present(d4rl_arrays(walk(LENGTHS)) | changes))


def bad_ogbench(path: Path, **changes: Any) -> Path:
    np.savez(path, **present(ogbench_arrays(walk(LENGTHS)) | changes))
    return path.with_suffix(".npz")


@pytest.mark.parametrize(
    ("make", "changes", "words"),
    [
        (bad_minari, {"data_format": "arrow"}, "stores its data as arrow; rlx reads"),
        (bad_minari, {"total_steps": 9}, "observations of episode_3 is [3, 3], which does not fit"),
        (bad_minari, {"total_steps": 11}, "holds 10 steps where metadata.json says 11"),
        (bad_minari, {"total_episodes": 5}, "has no episode_4"),
        (bad_minari, {"total_episodes": 0}, "holds 0 episodes of 10 steps"),
        (bad_minari, {"total_steps": "many"}, NOT_MINARI),
        (bad_minari, {"observation_space": space("Dict", subspaces={})}, "the observation space is Dict"),
        (bad_minari, {"observation_space": space(dtype="uint8", shape=[8, 8, 3])}, "is Box uint8 [8, 8, 3]; rlx needs"),
        (bad_minari, {"action_space": space("Discrete", dtype="int64", n=4)}, "the action space is Discrete int64"),
        (bad_minari, {"action_space": space(low=[1, 1], high=[1, 1])}, "the action space is empty"),
        (bad_minari, {"action_space": space(low=[-1], high=[1, 1])}, NOT_MINARI),
        (bad_minari, {"rlx": {"info": {}, "extras": ["density"]}}, "infos/density of episode_0 is missing"),
        (bad_minari, {"rlx": {"info": {}, "extras": ["../actions"]}}, NOT_MINARI),
        (bad_minari, {"rlx": {"info": {"notes": 3}, "extras": []}}, NOT_MINARI),
        (bad_minari, {"rlx": {"info": {"missing": [3]}, "extras": []}}, NOT_MINARI),
        (bad_minari, {"rlx": {"info": {"random_return": "low"}, "extras": []}}, NOT_MINARI),
        (bad_minari, {"data_format": "x\n\x1b[2J" + "y" * 1000}, "stores its data as x??[2Jyyy"),
        (bad_d4rl, {"rewards": None}, "has no rewards"),
        (bad_d4rl, {"actions": np.zeros(10, np.int64)}, "one action is int64 [], as of a discrete choice"),
        (bad_d4rl, {"observations": np.zeros((10, 8, 8, 3), np.uint8)}, "one observation is uint8 [8, 8, 3]"),
        (bad_d4rl, {"terminals": np.zeros(9, bool)}, "terminals is [9], but there are 10 observations"),
        (bad_d4rl, {"rewards": np.zeros((10, 2))}, "rewards is [10, 2], but there are 10 observations"),
        (bad_d4rl, {"next_observations": np.zeros((10, 4))}, "observation and next_observation differ in shape"),
        (bad_ogbench, {"timeouts": np.zeros(14), "masks": np.ones(14)}, "has timeouts, as D4RL, and masks, as OGBench"),
        (bad_ogbench, {"rewards": np.zeros(14)}, "terminals may be ends of the task or of trajectories; add timeouts"),
        (bad_ogbench, {"actions": None}, "has no actions"),
        (bad_ogbench, {"terminals": np.zeros(14)}, "the last trajectory does not end"),
        (bad_ogbench, {"terminals": np.ones(13)}, "terminals is [13], but there are 14 observations"),
        (bad_ogbench, {"observations": np.zeros((14, 64, 64, 3), np.uint8)}, "one observation is uint8 [64, 64, 3]"),
        (bad_ogbench, {"actions": np.zeros((14, 2), np.int32)}, "one action is int32 [2], as of a discrete choice"),
        (bad_ogbench, {"rewards": np.float32(1), "masks": np.ones(14)}, "rewards is [], but there are 14 obs"),
        (bad_ogbench, {"masks": np.ones((14, 1))}, "masks is [14, 1], but there are 14 observations"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, make: Any, changes: dict[str, Any], words: str) -> None:
    path = make(tmp_path / "walk", **changes)
    with one_line(words):
        data.read(path)


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
    loaded = data.read(write_hdf5(tmp_path / "walk.hdf5", arrays))
    data.check(loaded)
    at = [row for row, *_ in expected]
    np.testing.assert_array_equal(loaded.rows.observation, arrays["observations"][at])
    np.testing.assert_array_equal(loaded.rows.action, arrays["actions"][at])
    np.testing.assert_array_equal(loaded.rows.reward, arrays["rewards"][at])
    for name, column in (("next_observation", 1), ("terminated", 2), ("truncated", 3)):
        np.testing.assert_array_equal(getattr(loaded.rows, name), [row[column] for row in expected])
    inner = loaded.rows.next_observation[~loaded.rows.terminated]
    np.testing.assert_array_equal(inner[:, 0], loaded.rows.observation[~loaded.rows.terminated, 0])  # the same episode


@pytest.mark.parametrize("missing", [[], ["timeouts"], ["timeouts", "next_observations"]])
def test_d4rl_with_successors(tmp_path: Path, missing: list[str]) -> None:
    """Nothing is lost; without `timeouts` an episode ends where its successor is not the next row."""
    loaded = data.read(bad_d4rl(tmp_path / "walk.hdf5", **dict.fromkeys(missing)))
    if len(missing) < 2:
        assert_same(loaded, without_extras(walk(LENGTHS)))
        assert ("notes" in loaded.info) == bool(missing)
    else:
        assert loaded.info["notes"][0].startswith("neither timeouts nor next_observations")
    close = walk(LENGTHS).rows.next_observation * np.float32(1 + 3e-7)  # equal but for rounding
    loaded = data.read(bad_d4rl(tmp_path / "a.hdf5", next_observations=close, timeouts=None))
    np.testing.assert_array_equal(data.episode_lengths(loaded), LENGTHS)


@pytest.mark.parametrize("successors", [True, False])
def test_d4rl_without_timeouts_is_cut_at_the_known_limit(tmp_path: Path, successors: bool) -> None:
    """A file of a known task; of an unknown one the limit is not known. Where no successor is stored, the row goes."""
    dataset = walk([2500, 300], terminated=[True, False])
    arrays = present(d4rl_arrays(dataset) | dict.fromkeys(["timeouts", "next_observations"][: 2 - successors]))
    known = data.read(write_hdf5(tmp_path / "hopper_medium_replay-v2.hdf5", arrays))
    lengths = [1000, 1000, 500, 300] if successors else [999, 999, 500, 299]
    np.testing.assert_array_equal(data.episode_lengths(known), lengths)
    assert known.rows.terminated.sum() == 1 and "after 1000 steps" in known.info["notes"][0]
    other = data.read(write_hdf5(tmp_path / "ant_maze-big.hdf5", arrays))
    np.testing.assert_array_equal(data.episode_lengths(other), [2500, 300 if successors else 299])
    assert "episode_length" not in other.info and "random_return" not in other.info


def test_d4rl_terminal_rows_that_vanish_are_counted(tmp_path: Path) -> None:
    """Those that are timeouts, too, and the last row of the file."""
    arrays = d4rl_arrays(walk([3, 3, 3, 3], terminated=[True] * 4))
    del arrays["next_observations"]
    arrays["timeouts"] = np.arange(12) % 6 == 5
    loaded = data.read(write_hdf5(tmp_path / "a.hdf5", arrays))
    assert loaded.rows.terminated.sum() == 2 and loaded.info["notes"][0].startswith("2 terminal rows were dropped")


def test_d4rl_names_and_shapes(tmp_path: Path) -> None:
    """Reference returns by the file's name; float64, and columns that are [n, 1]."""
    arrays = {name: array.astype(np.float64) for name, array in d4rl_arrays(walk(LENGTHS)).items()}
    arrays["rewards"] = arrays["rewards"][:, None]
    tasks = {"hopper_medium-v2": "hopper", "walker2d-expert-v2": "walker2d", "antmaze-large-v0": "", "ant-maze": ""}
    for name, task in (tasks | {"mine": ""}).items():
        loaded = data.read(write_hdf5(tmp_path / f"{name}.hdf5", arrays | {"metadata": np.zeros(3)}))
        assert_same(loaded, without_extras(walk(LENGTHS)))
        known: dict[str, Any] = {"name": name, "format": "d4rl"}
        known |= dict(zip(("random_return", "expert_return"), statistics.D4RL_REFERENCES.get(task, ()), strict=False))
        assert loaded.info == known | ({"episode_length": 1000} if task else {})


def test_actions_beyond_one(tmp_path: Path) -> None:
    arrays = d4rl_arrays(walk(LENGTHS))
    arrays["actions"][0, 0], arrays["actions"][3, 1] = 1.0004, -1.0002
    loaded = data.read(write_hdf5(tmp_path / "near.hdf5", arrays))
    assert (loaded.rows.action[0, 0], loaded.rows.action[3, 1]) == (1, -1)
    assert loaded.info["notes"] == ["2 numbers of actions were clipped to [-1, 1], the furthest 1.000400"]
    arrays["actions"][0, 0] = 3
    with pytest.raises(RlxError, match=r"far.hdf5: actions reach 3; rlx needs them in \[-1, 1\]: rescale them"):
        data.read(write_hdf5(tmp_path / "far.hdf5", arrays))


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
    loaded = data.read(tmp_path / "maze.npz")
    assert np.isnan(loaded.rows.reward).all() and data.nonfinite(loaded) == {}
    assert loaded.info == {"name": "maze", "format": "ogbench", "missing": ["rewards", "masks"]}
    with pytest.raises(RlxError, match="maze has no rewards and masks"):
        data.to_replay(loaded)
    supplied = data.with_rewards(loaded, dataset.rows.reward, np.ones(dataset.size))
    assert_same(supplied, without_extras(dataset))
    assert "returns: unknown" in "\n".join(data.describe(loaded))


@pytest.mark.parametrize("form", ["plain", "compact"])
def test_ogbench_with_a_task(tmp_path: Path, form: str) -> None:
    """The trajectories never terminate; the task is solved in two rows."""
    dataset = walk(LENGTHS, terminated=[False] * 4)
    masks = (~np.isin(np.arange(14), [1, 6])).astype(np.float32)
    arrays = ogbench_arrays(dataset) | {"rewards": masks - 1, "masks": masks}
    np.savez_compressed(tmp_path / "maze.npz", **(compact(arrays) if form == "compact" else arrays))
    loaded = data.read(tmp_path / "maze.npz")
    data.check(loaded)
    np.testing.assert_array_equal(loaded.rows.next_observation, dataset.rows.next_observation)
    assert loaded.rows.terminated.tolist() == [False, True, False, False, True, *5 * [False]]
    assert loaded.rows.reward.tolist() == [0, -1, 0, 0, -1, 0, 0, 0, 0, 0]
    assert loaded.rows.truncated.tolist() == [False, False, True, True, False, False, False, True, False, True]
    assert "missing" not in loaded.info


@pytest.mark.parametrize("form", ["d4rl", "rlx"])
def test_arrays_are_read_by_their_names(tmp_path: Path, form: str) -> None:
    """In an npz file and in memory, NumPy's or JAX's; other arrays are ignored."""
    dataset = without_extras(walk(LENGTHS))
    fields = {name: leaf for name, leaf in dataset.rows._asdict().items() if name != "extras"}
    arrays = d4rl_arrays(dataset) if form == "d4rl" else fields
    np.savez(tmp_path / "walk.npz", **arrays, metadata=np.zeros(3))
    on_device = {name: jnp.asarray(leaf) for name, leaf in arrays.items()}
    for source in (dataset, tmp_path / "walk.npz", str(tmp_path / "walk.npz"), arrays, on_device):
        assert_same(data.as_dataset(source), dataset)
    data.write(data.from_arrays(arrays), str(tmp_path / "written"))
    assert_same(data.read(tmp_path / "written"), dataset)
    assert data.as_dataset(arrays).info == {"name": "the data set", "format": form}
    assert data.read(bad_d4rl(tmp_path / "one.npz")).info["format"] == "d4rl"  # by content, not by name
    shutil.move(bad_ogbench(tmp_path / "two"), tmp_path / "two.hdf5")
    assert data.read(tmp_path / "two.hdf5").info["format"] == "ogbench"


@pytest.mark.parametrize("form", ["d4rl", "d4rl in hdf5", "without successors", "ogbench", "rlx"])
def test_densities_of_any_form_go_with_their_rows(tmp_path: Path, form: str) -> None:
    """The first number of an action stands for its density, so that each row tells which is its own."""
    dataset = walk(LENGTHS, terminated=[False] * 4)
    fields = {name: leaf for name, leaf in dataset.rows._asdict().items() if name != "extras"}
    arrays = ogbench_arrays(dataset) if form == "ogbench" else fields if form == "rlx" else d4rl_arrays(dataset)
    if form == "ogbench":
        arrays |= {"rewards": arrays["terminals"], "masks": np.ones(len(arrays["terminals"]))}
    if form == "without successors":
        del arrays["next_observations"]
    arrays["log_prob"] = arrays["action" if form == "rlx" else "actions"][:, 0]
    if form == "d4rl in hdf5":
        source = write_hdf5(tmp_path / "walk.hdf5", arrays | {"log_prob": arrays["log_prob"][:, None]})
    else:
        source = tmp_path / "walk.npz"
        np.savez(source, **arrays)
    rows = data.read(source).rows
    np.testing.assert_array_equal(rows.extras["log_prob"], rows.action[:, 0])
    with one_line("log_prob is [2]"):
        data.from_arrays(arrays | {"log_prob": np.zeros(2)})


FLAT = {name: np.zeros((3, 1)) for name in ("observations", "actions", "rewards", "terminals", "timeouts")}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "of type NoneType, which holds no transitions"),
        ([1, 2], "of type list, which holds no transitions; give a Dataset, a path, or a dict of arrays"),
        ({}, "has no observations, actions, terminals; give observations, actions, rewards, terminals and timeouts"),
        (FLAT | {"observations": np.zeros((3, 4), int)}, "is int64 [4]; rlx reads flat vectors of floats: cast them"),
        (
            FLAT | {"observations": np.zeros(3)},
            "is float64 []; rlx reads flat vectors of floats: give them as [n, size]",
        ),
        (FLAT | {"actions": np.zeros((3, 2, 1))}, "is float64 [2, 1]; rlx needs vectors of floats in [-1, 1]: flatten"),
        (
            {name: FLAT[name] for name in FLAT if name != "rewards"},
            "has no rewards; give observations, actions, rewards",
        ),
        ({"observation": np.zeros((3, 2)), "action": np.zeros((3, 1))}, "has no reward, terminated"),
        ({"observations": np.array([{}]), "timeouts": np.zeros(1)}, "observations holds pickled Python objects"),
        ({"observations": np.array(["a"]), "timeouts": np.zeros(1)}, "observations holds <U1 instead of numbers"),
    ],
)
def test_what_is_no_data_set_is_refused(source: Any, words: str) -> None:
    with one_line(words):
        data.as_dataset(source)
