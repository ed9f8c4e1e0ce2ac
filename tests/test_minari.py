"""Data sets in Minari's format: written and read again to the bit, read by Minari, and made by its collector."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rlx import data
from rlx.errors import RlxError
from tests.commands import one_line
from tests.datasets import LENGTHS, assert_same, bad_minari, d4rl_arrays, walk, without_extras, write_hdf5


@pytest.mark.parametrize("last", ["terminated", "truncated"])
def test_round_trip_to_the_bit(tmp_path: Path, last: str) -> None:
    known = {"format": "minari", "env": "brax:hopper", "backend": "spring", "episode_length": 1000, "notes": ["one"]}
    known |= {"random_return": -3.25, "expert_return": None, "nested": {"rate": 3e-4, "layers": [256, 256], "no": None}}
    dataset = walk(LENGTHS, terminated=[True, False, False, last == "terminated"], **known)
    data.write(dataset, tmp_path / "walk-v0")
    assert data.read(tmp_path / "walk-v0").info == dataset.info
    for place in (".", "data", "data/main_data.hdf5"):
        assert_same(data.read(str(tmp_path / "walk-v0" / place)), dataset)


def test_odd_numbers_survive_the_round_trip(tmp_path: Path) -> None:
    """NaN, infinities, the smallest numbers; successors are stored only where some are not the next observation."""
    import h5py

    dataset = walk(LENGTHS)
    rows = jax.tree.map(np.copy, dataset.rows)
    rows.observation[1] = [np.nan, np.inf, 1e-45]
    rows.next_observation[0] = rows.observation[1]
    rows.reward[2:4] = [-np.inf, -0.0]
    odd = dataset._replace(rows=rows)
    for name, columns in (("odd", 1), ("odder", 2)):
        data.write(odd, tmp_path / name)
        loaded = data.read(tmp_path / name)
        assert_same(loaded, odd)
        assert np.signbit(loaded.rows.reward[3]) and set(loaded.rows.extras) == {"log_prob"}
        with h5py.File(tmp_path / name / "data" / "main_data.hdf5") as file:
            assert len(file["episode_0/infos"]) == columns
        rows.next_observation[5] += 0.5  # inside an episode


def change_member(folder: Path, name: str, value: Any) -> None:
    """Of the file of a Minari set."""
    import h5py

    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file[name]
        file[name] = value


@pytest.mark.parametrize("shape", [(4, 1), (3, 2), (4,), (4, 2, 1), ()])
def test_arrays_of_an_episode_must_fit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Also where NumPy would stretch them."""
    data.write(walk(LENGTHS), tmp_path / "set")
    change_member(tmp_path / "set", "episode_2/actions", np.zeros(shape, np.float32))
    with pytest.raises(RlxError, match=r"actions of episode_2 is \[.*\], which does not fit"):
        data.read(tmp_path / "set")


def test_an_episode_without_an_end_was_truncated(tmp_path: Path) -> None:
    data.write(walk(LENGTHS, terminated=[True] * 4), tmp_path / "set")
    change_member(tmp_path / "set", "episode_2/terminations", [False] * 4)
    change_member(tmp_path / "set", "episode_3/truncations", [False, True])
    loaded = data.read(tmp_path / "set")
    assert np.flatnonzero(loaded.rows.truncated).tolist() == [7]
    assert np.flatnonzero(loaded.rows.terminated).tolist() == [2, 3, 9]


def test_plain_minari_loads_what_rlx_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import minari

    dataset = walk(LENGTHS, random_return=0.0, expert_return=10.0)
    data.write(dataset, tmp_path / "walk-medium-v3")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    loaded = minari.load_dataset("walk-medium-v3")
    assert (loaded.id, loaded.spec.version, loaded.total_steps, loaded.total_episodes) == ("walk-medium-v3", 3, 10, 4)
    assert minari.get_normalized_score(loaded, np.array([5.0])) == 0.5
    for episode, read in enumerate(loaded.iterate_episodes()):
        rows = jax.tree.map(lambda x, e=episode: x[dataset.episode == e], dataset.rows)
        columns = (read.observations[:-1], read.actions, read.rewards, read.terminations, read.truncations)
        jax.tree.map(np.testing.assert_array_equal, columns, tuple(rows[:5]))
        np.testing.assert_array_equal(read.observations[1:], rows.next_observation)
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
    loaded = data.read(tmp_path / "line" / "own-v1")
    data.check(loaded)
    assert data.episode_lengths(loaded).tolist() == [2, 4, 3, 4, 2]
    ended = loaded.time == data.episode_lengths(loaded)[loaded.episode] - 1
    action = np.concatenate([e.actions for e in episodes])
    for name, expected in {
        "terminated": ended & np.isin(loaded.episode, [0, 2]),
        "truncated": ended & np.isin(loaded.episode, [1, 3, 4]),
        "observation": np.concatenate([e.observations[:-1] for e in episodes]).astype(np.float32),
        "next_observation": np.concatenate([e.observations[1:] for e in episodes]).astype(np.float32),
        "reward": np.concatenate([e.rewards for e in episodes]).astype(np.float32),
        "action": np.stack([action[:, 0] / bound, 2 * action[:, 1] - 1], axis=1),
    }.items():
        np.testing.assert_allclose(getattr(loaded.rows, name), expected, atol=1e-6 * (name == "action"), rtol=0)
    assert np.abs(loaded.rows.action).max() <= 1
    (note,) = loaded.info.pop("notes")
    assert note == f"actions were mapped to [-1, 1] from [{-bound}, 0.0] .. [{bound}, 1.0]"
    assert loaded.info == {"name": "line/own-v1", "format": "minari"}


def test_what_minari_itself_tells_of_a_set(tmp_path: Path) -> None:
    spec = json.dumps({"id": "Hopper-v5", "entry_point": "no.such.module:Env", "max_episode_steps": 1000})
    bad_minari(tmp_path / "set-v0", rlx=None, env_spec=spec, ref_min_score=1.0, ref_max_score=9.0)
    loaded = data.read(tmp_path / "set-v0")
    assert_same(loaded, without_extras(walk(LENGTHS)))
    known = {"env_id": "Hopper-v5", "episode_length": 1000, "random_return": 1.0, "expert_return": 9.0}
    assert loaded.info == {"name": "set-v0", "format": "minari"} | known


def test_nothing_is_written_over_and_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").mkdir()
    with one_line("is of type dict; give a Dataset: rlx.data.from_arrays makes one"):
        data.write(d4rl_arrays(walk(LENGTHS)), tmp_path / "new")
    with pytest.raises(RlxError, match="old exists and is not written over"):
        data.write(walk(LENGTHS), tmp_path / "old")
    with pytest.raises(RlxError, match=r"extras \['a/b'\] cannot be written"):
        dataset = walk(LENGTHS)
        data.write(dataset._replace(rows=dataset.rows._replace(extras={"a/b": dataset.rows.reward})), tmp_path / "new")
    with pytest.raises(RlxError, match="JSON values only"):
        data.write(walk(LENGTHS, odd={1, 2}), tmp_path / "new")
    with pytest.raises(RlxError, match="has no rewards"):
        data.write(walk(LENGTHS, missing=["rewards"]), tmp_path / "new")

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    from minari.dataset._storages.hdf5_storage import HDF5Storage

    monkeypatch.setattr(HDF5Storage, "update_episodes", full)
    with pytest.raises(RlxError, match=r"new cannot be written \(No space left on device\)"):
        data.write(walk(LENGTHS), tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_convert_and_info(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path / "hopper_medium-v2.hdf5", d4rl_arrays(walk(LENGTHS)))
    data.convert(source, tmp_path / "hopper-medium-v2")
    loaded = data.read(tmp_path / "hopper-medium-v2")
    assert_same(loaded, without_extras(walk(LENGTHS)))
    assert loaded.info == data.read(source).info | {"format": "minari"}
    lines = data.info(tmp_path / "hopper-medium-v2")
    assert lines[0].startswith("hopper_medium-v2 (minari): 10 transitions") and any("random -20.3" in x for x in lines)
