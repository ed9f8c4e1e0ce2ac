"""Data files that would run code, read other files or fill the memory: refused in one line, before reading."""

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from rlx import data
from rlx.data.limits import GIB, Limits
from tests import damage, processes
from tests.datasets import LENGTHS, ROWS, SMALL, d4rl_arrays, ogbench_arrays, refusal, walk, write_hdf5, written

DATASET = walk(LENGTHS)


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
