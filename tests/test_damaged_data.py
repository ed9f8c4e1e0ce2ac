"""Data files that are damaged, half written, of an old format or no data set at all: read or refused in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from rlx import data
from rlx.data import minari_format
from rlx.errors import RlxError
from tests import processes
from tests.datasets import LENGTHS, SMALL, d4rl_arrays, refusal, walk, write_hdf5, written

DATASET = walk(LENGTHS)


def test_a_file_that_is_being_written(tmp_path: Path) -> None:
    """It is not called damaged."""
    path = write_hdf5(tmp_path / "set.hdf5", d4rl_arrays(DATASET))
    writer = f"import h5py, sys; f = h5py.File({str(path)!r}, 'a'); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", writer], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        assert "another program is writing it" in refusal(path)
        process.communicate()
    data.read(path)


@pytest.mark.parametrize("place", ["data", "."])
def test_a_folder_of_an_old_minari(tmp_path: Path, place: str) -> None:
    """Before 0.5 there was no metadata.json; the folder and the file say the same, and not each to give the other."""
    folder = tmp_path / "door-v0"
    (folder / place).mkdir(parents=True)
    with h5py.File(folder / place / "main_data.hdf5", "w") as file:
        file.create_group("episode_0")
    for path in (folder, folder / place / "main_data.hdf5"):
        assert "Minari before 0.5 wrote it" in refusal(path)


DEEP: Any = []
for _ in range(500):
    DEEP = [DEEP]
BEHAVIOUR = {"name": "expert", "step": 3, "return": 1.0, "greedy_return": 2.0}


ODD: dict[str, list[Any]] = {
    "behaviours": [3, {}, [3], [{}], [BEHAVIOUR | {"return": "many"}], [{"name": "expert"}]],
    "episode_length": [0, -1, 1.5, "9", 10**400, True],
    "odd": [DEEP, 10**400, {"a": [10**30]}],
    **{f"{whose}_return": ["1", [], True, 10**400, 1e300] for whose in ("random", "expert", "behaviour")},
    **{name: [3, [], {}] for name in ("name", "env", "backend", "agent", "kind", "format")},
    **{name: ["text", [3], {}] for name in ("notes", "missing")},
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ODD.items() for value in values])
def test_odd_info_is_refused_where_it_is_read(tmp_path: Path, name: str, value: Any) -> None:
    """And not when a run has ended that learnt from it."""
    with pytest.raises(RlxError, match=f"{name} of the data set is not"):
        data.check_info(tmp_path, {name: value})
    good = {"name": None, "behaviours": [BEHAVIOUR], "notes": ["x"], "random_return": 1, "odd": {"a": [1.5, None]}}
    assert data.check_info(tmp_path, good) == good


def test_odd_metadata(tmp_path: Path) -> None:
    """Texts reach the terminal without escape codes, huge numbers and deep nesting are refused."""
    data.write(DATASET, tmp_path / "set-v0")
    file = tmp_path / "set-v0" / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    escape = "\x1b[2J\x07"
    info = {"name": f"a{escape}", "notes": [f"b{escape}"], escape: escape, "env": f"c{escape}"}
    file.write_text(json.dumps(metadata | {"rlx": {"info": info, "extras": []}}))
    loaded = data.read(tmp_path / "set-v0")
    assert json.dumps(loaded.info, ensure_ascii=False).isprintable()
    for change in (
        {"total_steps": 10**400, "total_episodes": 1},
        {"rlx": {"info": {"random_return": 10**400}, "extras": []}},
        {"observation_space": json.dumps({"type": "Box", "dtype": "float32", "shape": [10**400]})},
        {"rlx": {"info": {"x": DEEP}, "extras": []}},
        {"action_space": "[" * 100_000},
    ):
        file.write_text(json.dumps(metadata | change))
        refusal(tmp_path / "set-v0")


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from rlx.commands import main
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
sys.exit(main.main(["data", "convert", sys.argv[1], sys.argv[2]]))
"""


@pytest.mark.slow
def test_convert_onto_a_full_disk(tmp_path: Path) -> None:
    """One line, exit status 2 and nothing left: HDF5 itself would end the process with a segmentation fault."""
    source = write_hdf5(tmp_path / "set.hdf5", d4rl_arrays(walk([500] * 10)))
    done = processes.python("-c", FULL, source, tmp_path / "out-v0")
    assert done.returncode == 2, done
    assert "out-v0 cannot be written (File too large)" in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["set.hdf5"]


def test_nobody_else_can_take_the_room_while_a_set_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has all of its blocks from the start, and gives back those that it does not need."""
    dataset, episodes, blocks = walk([500] * 10), minari_format._episodes, list[int]()

    def watching(*arguments: Any) -> Any:
        for episode in episodes(*arguments):
            (file,) = tmp_path.rglob("main_data.hdf5")
            blocks.append(512 * file.stat().st_blocks)
            yield episode

    monkeypatch.setattr(minari_format, "_episodes", watching)
    data.write(dataset, tmp_path / "out-v0")
    final = (tmp_path / "out-v0" / "data" / "main_data.hdf5").stat().st_size
    assert len(blocks) == 10 and final < min(blocks) and data.read(tmp_path / "out-v0").size == dataset.size


def test_what_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("observations: none")
    assert "notes.txt is no data set: give a Minari folder" in refusal(tmp_path / "notes.txt")
    (tmp_path / "none.hdf5").touch()
    assert "is empty" in refusal(tmp_path / "none.hdf5")
    (tmp_path / "set.tar.gz").write_bytes(b"\x1f\x8b\x08" + bytes(20))
    assert "packed by gzip: unpack it first" in refusal(tmp_path / "set.tar.gz")
    assert "does not exist" in refusal(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert "is no file" in refusal(tmp_path / "pipe")
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "folder holds no data set: give a Minari folder" in refusal(folder)
    write_hdf5(folder / "hopper.hdf5", {"x": np.zeros(1)})
    assert "holds no data set: give one of its files, hopper.hdf5" in refusal(folder)
    assert "has no observations, actions, rewards, terminals" in refusal(folder / "hopper.hdf5")
    data.write(DATASET, tmp_path / "set-v0")
    (tmp_path / "set-v0" / "data" / "main_data.hdf5").unlink()
    assert "main_data.hdf5 is no file" in refusal(tmp_path / "set-v0")


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"data_format": "hdf5"}', "\x00\xff", "NaN"])
def test_metadata_that_is_damaged(tmp_path: Path, text: str) -> None:
    data.write(DATASET, tmp_path / "set-v0")
    (tmp_path / "set-v0" / "data" / "metadata.json").write_text(text, encoding="latin-1")
    assert "metadata.json" in refusal(tmp_path / "set-v0")


def cut(raw: bytes, rng: np.random.Generator) -> bytes:
    return raw[: int(rng.integers(9, len(raw)))]


def flip(raw: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes at random, the first eight spared: they tell the format."""
    damaged = bytearray(raw)
    for at in rng.integers(8, len(raw), size=20):
        damaged[at] = int(rng.integers(256))
    return bytes(damaged)


@pytest.mark.parametrize("form", ["minari", "d4rl", "ogbench"])
@pytest.mark.parametrize("damage", [cut, flip])
def test_damage_is_read_or_refused_and_nothing_else(tmp_path: Path, form: str, damage: Any) -> None:
    path, file = written(tmp_path, form)
    raw, rng, refused = file.read_bytes(), np.random.default_rng(0), 0
    for _ in range(40):
        file.write_bytes(damage(raw, rng))
        try:
            data.check(data.read(path, SMALL))
        except RlxError as error:
            refused += 1
            assert str(error).isprintable() and str(path) in str(error) and len(str(error)) < 400
    assert refused >= (40 if damage is cut else 5)
