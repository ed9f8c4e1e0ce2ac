"""Files that would run code, read other files, fill the memory or are damaged: refused in one line, before reading."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from rlx import data
from rlx.data import minari_format
from rlx.data.limits import GIB, Limits
from rlx.errors import RlxError
from tests import damage, processes
from tests.datasets import d4rl_arrays, ogbench_arrays, walk, write_hdf5

ROWS = 10
DATASET = walk([3, 1, 4, 2])
SMALL = Limits(memory_bytes=2**20)


def refusal(path: Path, limits: Limits = SMALL) -> str:
    """The message, which is one line, names the file, and came without much memory being taken."""
    tracemalloc.start()
    try:
        with pytest.raises(RlxError) as caught:
            data.read(path, limits)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.isprintable() and str(path).split("/data/")[0] in message and 20 < len(message) < 400
    assert ":" in message.replace(str(path), "")  # what is wrong: the remedy
    assert peak < 16 * 2**20
    return message


@pytest.mark.parametrize("name", ["set.npz", "set.npy", "set.pkl", "set.hdf5", "set"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_pickles_are_never_opened(tmp_path: Path, name: str, protocol: int) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(damage.Trap(tmp_path / "ran"), protocol))
    message = refusal(tmp_path / name)
    assert not (tmp_path / "ran").exists()
    assert ("can run code" if protocol else "is no data set") in message


def test_pickles_inside_npz_and_npy(tmp_path: Path) -> None:
    evil = np.empty(ROWS, object)
    evil[:] = [damage.Trap(tmp_path / "ran")] * ROWS
    for name in ("observations", "actions", "terminals", "rewards"):
        masks = {"masks": np.ones(ROWS)}
        np.savez(tmp_path / "set.npz", **(ogbench_arrays(DATASET) | masks | {name: evil}))
        assert f"{name} holds pickled Python objects, which can run code" in refusal(tmp_path / "set.npz")
    np.save(tmp_path / "set.npy", evil)
    assert "is a single array" in refusal(tmp_path / "set.npy")
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_reading_imports_no_module_that_a_file_names(tmp_path: Path) -> None:
    """Minari's own loader makes the environment of a file that leaves its spaces out, and so imports the module."""
    data.write(DATASET, tmp_path / "set-v0")
    (tmp_path / "evil_module.py").touch()
    spec = {"id": "Evil-v0", "entry_point": "evil_module:Env", "kwargs": {}, "additional_wrappers": []}
    metadata = tmp_path / "set-v0" / "data" / "metadata.json"
    damage.edit_json(metadata, observation_space=None, env_spec=json.dumps(spec))
    read = "import sys\nfrom rlx import data\ntry: data.read('set-v0')\nexcept Exception as error: print(error)"
    read += "\nassert 'evil_module' not in sys.modules and 'minari' not in sys.modules\nimport minari"
    read += "\ntry: minari.MinariDataset('set-v0/data')\nexcept Exception: pass"
    read += "\nassert 'evil_module' in sys.modules"
    path = os.pathsep.join([str(processes.ROOT), str(tmp_path)])
    done = processes.python("-c", read, cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert "metadata.json is not what Minari writes" in done.stdout


def links(kind: str, file: Any, other: Path) -> None:
    """Puts the array `rewards` into `file` in a way that takes it from another place."""
    if kind == "external link":
        file["rewards"] = h5py.ExternalLink(str(other), "/rewards")
    elif kind == "soft link":
        file["rewards"] = h5py.SoftLink("/observations")
    elif kind == "external storage":
        file.create_dataset("rewards", shape=(ROWS,), dtype="f4", external=[(str(other), 0, 4 * ROWS)])
    else:
        layout = h5py.VirtualLayout(shape=(ROWS,), dtype="f4")
        layout[:] = h5py.VirtualSource(str(other), "rewards", shape=(ROWS,))
        file.create_virtual_dataset("rewards", layout)


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual"])
@pytest.mark.parametrize("form", ["d4rl", "minari"])
def test_hdf5_that_reads_other_files(tmp_path: Path, kind: str, form: str) -> None:
    other = write_hdf5(tmp_path / "other.hdf5", {"rewards": DATASET.rows.reward})
    path, main = written(tmp_path, form)
    with h5py.File(main, "a") as file:
        group = file if form == "d4rl" else file["episode_0"]
        del group["rewards"]
        links(kind, group, other)
    message = refusal(path)
    assert "rewards is a link" in message if "link" in kind else "rewards keeps its numbers in other files" in message
    if form == "minari":  # a group may be a link, too
        with h5py.File(main, "a") as file:
            del file["episode_0"]
            file["episode_0"] = h5py.ExternalLink(str(main), "/episode_2")
        assert "episode_0 is a link and may lead to another file" in refusal(path)


def packed(file: h5py.File) -> None:
    """A packed piece is unpacked whole: 4 GiB for ten numbers."""
    file.create_dataset("rewards", (ROWS,), "f4", chunks=(10**9,), maxshape=(None,), compression="gzip")


def in_pieces(file: h5py.File) -> None:
    """Each piece takes kilobytes while the array is read, so that a small file could fill the memory."""
    del file["observations"]
    file.create_dataset("observations", (90_000, 3), "f4", chunks=(1, 1))


def huge(file: h5py.File) -> None:
    for name in list(file):
        del file[name]
    for name, width in (("observations", (9,)), ("actions", (1,)), ("rewards", ()), ("terminals", ())):
        file.create_dataset(name, shape=(10**10, *width), dtype="f4", chunks=(1000, *width))


@pytest.mark.parametrize(
    ("change", "limits", "words"),
    [
        (packed, SMALL, "rewards is stored in pieces of [1000000000], larger than itself"),
        (in_pieces, Limits(), "observations is stored in 270,000 pieces of [1, 1]"),
        (huge, SMALL, "declares arrays of 447.0 GiB, and 0.0 GiB are allowed here"),
        (huge, Limits(), "declares arrays of 447.0 GiB"),  # whatever this machine has
        (lambda file: file.create_dataset("rewards", data=h5py.Empty("f4")), SMALL, "rewards is empty"),
        (lambda file: file.create_dataset("rewards", data=["a"] * ROWS), SMALL, "rewards holds object instead of"),
    ],
)
def test_small_hdf5_files_that_declare_too_much(tmp_path: Path, change: Any, limits: Limits, words: str) -> None:
    path = write_hdf5(tmp_path / "set.hdf5", d4rl_arrays(DATASET))
    with h5py.File(path, "a") as file:
        del file["rewards"]
        change(file)
    assert path.stat().st_size < 100_000 and words in refusal(path, limits)


def test_minari_declares_400_gigabytes(tmp_path: Path) -> None:
    """In its metadata, or in an array; also a number of steps beyond what 64 bits count."""
    data.write(DATASET, tmp_path / "set-v0")
    file = tmp_path / "set-v0" / "data" / "metadata.json"
    honest = json.loads(file.read_text())
    for steps in (10**10, 10**30):
        file.write_text(json.dumps(honest | {"total_steps": steps}))
        assert "declares arrays of" in refusal(tmp_path / "set-v0", Limits())
    file.write_text(json.dumps(honest))
    with h5py.File(tmp_path / "set-v0" / "data" / "main_data.hdf5", "a") as main:
        del main["episode_1/actions"], main["episode_2/observations"]
        main.create_dataset("episode_1/actions", shape=(10**11, 2), dtype="f4", chunks=(1000, 2))
        main.create_dataset("episode_2/observations", shape=(10**11, 3), dtype="f4", chunks=(1000, 3))
    assert "actions of episode_1 is [100000000000, 2], which does not fit" in refusal(tmp_path / "set-v0")


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
    found = data.read(tmp_path / "set-v0")
    assert json.dumps(found.info, ensure_ascii=False).isprintable()
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
    dataset, episodes, found = walk([500] * 10), minari_format._episodes, list[int]()

    def watching(*given: Any) -> Any:
        for episode in episodes(*given):
            (file,) = tmp_path.rglob("main_data.hdf5")
            found.append(512 * file.stat().st_blocks)
            yield episode

    monkeypatch.setattr(minari_format, "_episodes", watching)
    data.write(dataset, tmp_path / "out-v0")
    final = (tmp_path / "out-v0" / "data" / "main_data.hdf5").stat().st_size
    assert len(found) == 10 and final < min(found) and data.read(tmp_path / "out-v0").size == dataset.size


NOT_WHOLE = "is not a complete npz file"


def header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def raw_header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64)


def npz(path: Path, **members: bytes) -> Path:
    """An npz of these members, and of honest arrays for what is not among them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in ogbench_arrays(DATASET).items():
            plain = io.BytesIO()
            np.save(plain, array)
            archive.writestr(f"{name}.npy", members.get(name, plain.getvalue()))
    return path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header("(100000000000, 3)"), "observations declares 1,200,000,000,000 bytes, its archive 128 packed"),
        (header("(14, 3)"), "observations declares 168 bytes, its archive 128 packed"),
        (header("(-1, 3)"), "is not a complete npz file (an array of shape (-1, 3))"),
        (header("(10**3,)"), "is not a complete npz file"),
        (header("(2,)", "'|O'") + bytes(16), "observations holds pickled Python objects"),
        (header("(2,)", "'<U4'") + bytes(32), "observations holds <U4 instead of numbers"),
        (header("(2,)", "__import__('os').mkdir('ran')"), "is not a complete npz file"),
        (b"\x93NUMPY\x09\x00" + bytes(100), "is not a complete npz file (arrays of version (9, 0))"),
        (b"", "is not a complete npz file"),
        *((raw_header(text), NOT_WHOLE) for text in (b"{'descr': (((", b"'" * 3, b"\xff", b"(" * 9000, b"1")),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**26) + bytes(2**26), f"{NOT_WHOLE} (a header of 67,108,864"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + bytes(100), NOT_WHOLE),
    ],
)
def test_npz_whose_headers_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refusal(npz(tmp_path / "set.npz", observations=content))
    assert not (tmp_path / "ran").exists()


def test_npz_that_is_a_bomb_or_whose_archive_lies(tmp_path: Path) -> None:
    """64 MiB of zeros in 64 KiB, allowed 1 MiB; and an archive whose own table says more than deflate can hold."""
    path = npz(tmp_path / "set.npz", observations=header("(16777216,)") + bytes(2**26))
    assert path.stat().st_size < 2**17
    assert "declares arrays of 0.1 GiB, and 0.0 GiB are allowed here" in refusal(path)
    path = npz(tmp_path / "set.npz", observations=header("(100000000,)") + bytes(4 * 10**6))
    honest, lie = (struct.pack("<I", size + 128) for size in (4 * 10**6, 4 * 10**8))
    path.write_bytes(path.read_bytes().replace(honest, lie))
    message = refusal(path, Limits(memory_bytes=GIB))
    assert "observations declares 400,000,000 bytes, its archive 400,000,128 packed into" in message


def test_files_over_the_cap(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "set.hdf5", d4rl_arrays(DATASET))
    assert "GiB; at most 0.0 are read: split it" in refusal(path, Limits(file_bytes=1000))
    with open(tmp_path / "sparse.npz", "wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(65 * GIB)
    assert "has 65.0 GiB; at most 64.0 are read" in refusal(tmp_path / "sparse.npz", Limits())


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


def written(tmp_path: Path, form: str) -> tuple[Path, Path]:
    """A data set's path and the file of it that gets damaged."""
    if form == "minari":
        data.write(DATASET, tmp_path / "set-v0")
        return tmp_path / "set-v0", tmp_path / "set-v0" / "data" / "main_data.hdf5"
    if form == "d4rl":
        path = write_hdf5(tmp_path / "set.hdf5", d4rl_arrays(DATASET))
    else:
        path = tmp_path / "set.npz"
        np.savez_compressed(path, **ogbench_arrays(DATASET))
    return path, path


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
