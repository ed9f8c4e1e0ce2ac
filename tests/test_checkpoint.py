"""Checkpoints: whatever happens to whichever file, nothing damaged is used, and saving goes on."""

import errno
import importlib.util
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax.struct import PyTreeNode

from rlx.errors import RlxError, install
from rlx.runs import checkpoint, leaf_files
from rlx.runs.checkpoint import Damaged
from tests import damage, processes
from tests.commands import one_line


class Part(PyTreeNode):
    weights: Any
    count: Any


def tree(value: float) -> dict[str, Any]:
    """A small state: several types, no rows, nothing at all."""
    return {
        "part": Part(np.full((3, 2), value, np.float32), np.asarray(value, np.int32)),
        "flags": np.array([True, False]),
        "halves": np.asarray(jnp.arange(4, dtype=jnp.bfloat16)),
        "empty": (),
    }


LEAVES = ["['flags']", "['halves']", "['part'].count", "['part'].weights"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with steps 10 and 20."""
    folder = tmp_path_factory.mktemp("saved") / "steps"
    for step in (10, 20):
        checkpoint.save(folder, step, tree(step), {"iteration": step})
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to hurt."""
    return shutil.copytree(saved, tmp_path / "steps")


def assert_trees_equal(one: Any, other: Any) -> None:
    first, second = checkpoint.flatten(one), checkpoint.flatten(other)
    assert first.keys() == second.keys()
    for name, leaf in first.items():
        assert leaf.dtype == second[name].dtype, name
        np.testing.assert_array_equal(leaf, second[name], err_msg=name)


def test_what_is_saved_comes_back(saved: Path) -> None:
    assert checkpoint.steps(saved) == [10, 20]
    assert_trees_equal(checkpoint.restore(saved, tree(0)), tree(20))
    assert_trees_equal(checkpoint.restore(saved, tree(0), 10), tree(10))
    known = checkpoint.manifest(saved, 20)
    assert sorted(known["leaves"]) == LEAVES and known["about"] == {"iteration": 20}
    assert known["leaves"]["['halves']"] | {"sha256": ""} == {"shape": [4], "dtype": "bfloat16", "sha256": ""}


def test_a_digest_is_that_of_the_content(saved: Path, tmp_path: Path) -> None:
    """Of all of it and of nothing else: not of the step, the folder or what is noted beside it."""
    first = checkpoint.save(tmp_path, 30, tree(20))
    assert first == checkpoint.manifest(saved, 20)["digest"] != checkpoint.manifest(saved, 10)["digest"]
    changed = tree(20)
    changed["part"].weights[2, 1] = np.nextafter(np.float32(20), np.float32(21))
    assert checkpoint.save(tmp_path, 31, changed) != first


def test_every_damage_to_every_file(saved: Path, tmp_path: Path) -> None:
    """Is found and set aside, the step before is used, and the next save works."""
    count = 0
    for name, hurt in damage.damages(saved / "20", random.Random(0)):
        copy, said = shutil.copytree(saved, tmp_path / "copy"), list[str]()
        hurt(copy / "20" / name)
        assert checkpoint.newest(copy, said.append) == 10, name
        renamed = "damaged-20" if (copy / "damaged-20").is_dir() else "unfinished-20"
        assert (renamed == "unfinished-20") == (not (copy / renamed / "manifest.json").exists()), name
        assert len(said) == 1 and "20" in said[0] and f"; set aside as {renamed}" in said[0], said
        assert (copy / renamed).is_dir() and checkpoint.steps(copy) == [10]
        if count % 12 == 0:  # a save takes far longer than all the rest
            checkpoint.save(copy, 20, tree(20))
            assert_trees_equal(checkpoint.restore(copy, tree(0)), tree(20))
        shutil.rmtree(copy)
        count += 1
    assert count > 50


def test_damage_is_named(folder: Path) -> None:
    """By the file; `restore` of a named step sets nothing aside."""
    largest = max((folder / "20" / "default" / "d").iterdir(), key=lambda path: path.stat().st_size)
    damage.flip(largest, 100)
    with one_line(f"{largest}: is damaged; choose another --step"):
        checkpoint.restore(folder, tree(0))
    largest.unlink()
    with pytest.raises(Damaged, match=": is missing"):
        checkpoint.verify(folder, 20)
    assert checkpoint.steps(folder) == [10, 20]


def test_damaged_twice(folder: Path) -> None:
    """Each is kept under a name of its own; and where nothing good is left, there is nothing."""
    for number in range(2):
        (folder / "20" / "manifest.json").write_text("{")
        assert checkpoint.newest(folder, lambda text: None) == 10
        assert (folder / ("damaged-20" + "-1" * number)).is_dir()
        checkpoint.save(folder, 20, tree(20))
    for step in (10, 20):
        (folder / str(step) / "manifest.json").unlink()
    assert checkpoint.newest(folder, lambda text: None) is None


def test_steps_that_were_never_finished(folder: Path) -> None:
    """They do not count, nor keep saves from working; those of later steps wait for their own, damaged ones stay."""
    (folder / "20" / "manifest.json").write_text("{")
    for name in ("25", "40", "50.orbax-checkpoint-tmp-7"):
        (folder / name).mkdir()
    (folder / "60").write_text("a file")
    assert checkpoint.steps(folder) == [10, 20]
    said: list[str] = []
    assert checkpoint.newest(folder, said.append) == 10
    assert len(said) == 4 and sum("has no manifest.json; set aside as unfinished-" in text for text in said) == 3

    def aside() -> list[str]:
        return sorted(path.name for path in folder.iterdir() if not path.name.isdecimal() and "tmp" not in path.name)

    assert aside() == ["damaged-20", "unfinished-25", "unfinished-40", "unfinished-60"]
    checkpoint.save(folder, 30, tree(30))
    assert_trees_equal(checkpoint.restore(folder, tree(0)), tree(30))
    assert aside() == ["damaged-20", "unfinished-40", "unfinished-60"]
    checkpoint.save(folder, 60, tree(60))
    assert aside() == ["damaged-20"]


def test_reading_changes_nothing(folder: Path) -> None:
    """Of a run that is being trained: neither a step that is half written nor one without a manifest is touched."""
    for name in ("writing-30/default", "30.orbax-checkpoint-tmp-7", "40"):
        (folder / name).mkdir(parents=True)
    (folder / "20" / "manifest.json").write_text("{")
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    assert checkpoint.newest_intact(folder) == 10 and checkpoint.steps(folder) == [10, 20]
    assert_trees_equal(checkpoint.restore(folder, tree(0), 10), tree(10))
    with pytest.raises(checkpoint.Missing):
        checkpoint.verify(folder, 40)
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before
    checkpoint.save(folder, 50, tree(50))  # the training process clears up
    assert {path.name for path in folder.iterdir()} == {"10", "20", "50"}


def test_a_save_follows_no_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "default").mkdir(parents=True)
    (folder / "writing-30").symlink_to(tmp_path / "mine")
    checkpoint.save(folder, 30, tree(30))
    assert checkpoint.newest_intact(folder) == 30 and not any((tmp_path / "mine" / "default").iterdir())


def test_pruning(folder: Path) -> None:
    checkpoint.save(folder, 30, tree(30))
    checkpoint.remove_after(folder, 20)
    assert checkpoint.steps(folder) == [10, 20]
    for most in (1, 5):
        checkpoint.prune(folder, most)
        assert checkpoint.steps(folder) == [20]


HERE = tree(0)
OTHERS = {
    "['halves'] is bfloat16 (4,) in the checkpoint but float32 (4,) here": HERE | {"halves": np.zeros(4, np.float32)},
    "['part'].weights is float32 (3, 2) in the checkpoint but float32 (3, 3) here": HERE
    | {"part": Part(np.zeros((3, 3), np.float32), np.asarray(0, np.int32))},
    "['new'] is missing in the checkpoint but float64 (1,) here": HERE | {"new": np.zeros(1)},
    "['flags'] is bool (2,) in the checkpoint but unknown here": {name: HERE[name] for name in HERE if name != "flags"},
}


@pytest.mark.parametrize("words", OTHERS)
def test_what_does_not_fit_is_refused_by_name(words: str, saved: Path) -> None:
    with one_line(f"{saved}/20: {words}", "the run has another agent or networks"):
        checkpoint.restore(saved, OTHERS[words])


def test_another_format(folder: Path) -> None:
    """Is no damage: the message names the version that wrote it, and nothing is set aside."""
    damage.write_manifest(folder / "20", format=7, rlx="9.1")
    for call in (lambda: checkpoint.restore(folder, tree(0)), lambda: checkpoint.newest(folder, print)):
        with one_line(f"{folder}/20: was written by rlx 9.1 in another format"):
            call()
    assert checkpoint.steps(folder) == [10, 20]


def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path) -> None:
    """In place of any file, and however well the manifest speaks of it."""
    mark = tmp_path / "unpickled"
    files = [path for path in (folder / "20").rglob("*") if path.is_file() and path.name != "manifest.json"]
    for path in files:
        path.write_bytes(pickle.dumps(damage.Trap(mark)))
    digests = {str(path.relative_to(folder / "20")): leaf_files.digest_file(path) for path in files}
    damage.write_manifest(folder / "20", files=digests)
    with pytest.raises(RlxError, match=r"/20: cannot be read \("):
        checkpoint.restore(folder, tree(0))
    assert not mark.exists()
    pickle.loads(pickle.dumps(damage.Trap(mark)))
    assert mark.exists()  # it would have shown


@pytest.mark.parametrize("name", ["../10/manifest.json", "/etc/hostname"])
def test_a_manifest_that_leads_elsewhere(name: str, folder: Path) -> None:
    """Digests of files outside are never asked for."""
    damage.write_manifest(folder / "20", files=damage.read_manifest(folder / "20")["files"] | {name: "0" * 64})
    with pytest.raises(Damaged, match=": is missing"):
        checkpoint.verify(folder, 20)


def test_a_full_disk_while_orbax_writes(saved: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for it: one line, and what was there is untouched."""
    folder = shutil.copytree(saved, tmp_path / "steps")
    program = """
import resource, signal, sys, numpy as np
from rlx.runs import checkpoint
checkpoint.save(sys.argv[1], 30, {"small": np.zeros(3)})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
try: checkpoint.save(sys.argv[1], 40, {"big": np.frombuffer(np.random.default_rng(0).bytes(2**21), np.uint8)})
except checkpoint.RlxError as error: print(error)
"""
    done = processes.python("-c", program, folder)
    assert done.stdout.startswith(f"{folder}/40: could not be written ("), done.stderr[-2000:]
    assert done.stdout.endswith("older ones are intact; make room, then go on with `rlx train --resume`\n")
    assert done.stdout.count("\n") == 1 and done.stderr == ""
    assert {path.name for path in folder.iterdir()} == {"10", "20", "30"}  # the draft would take up room
    assert checkpoint.newest(folder, print) == 30
    checkpoint.save(folder, 40, tree(40))
    assert_trees_equal(checkpoint.restore(folder, tree(0)), tree(40))


def test_a_full_disk_at_the_manifest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last file of all: the step does not count, and the next save, once there is room, works."""

    def full(*args: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, one_line(f"{folder}/30: could not be written (no space left", "make room"):
        patch.setattr(checkpoint, "write_manifest", full)
        checkpoint.save(folder, 30, tree(30))
    assert checkpoint.steps(folder) == [10, 20]
    checkpoint.save(folder, 30, tree(30))
    assert_trees_equal(checkpoint.restore(folder, tree(0)), tree(30))


def test_places_that_cannot_be(tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    needs = "needs {}, which is not installed; {}"
    for words, call in {
        f"{saved}: step 15 was not saved; is a later one": lambda: checkpoint.save(saved, 15, tree(0)),
        f"{saved}: step 20 was not saved; is a later one": lambda: checkpoint.save(saved, 20, tree(0)),
        "file/steps/10: could not be written (": lambda: checkpoint.save(tmp_path / "file" / "steps", 10, tree(10)),
        f"{tmp_path}: holds no checkpoint; train the run first": lambda: checkpoint.restore(tmp_path, tree(0)),
        f"{saved}: has no step 7; it has 10, 20": lambda: checkpoint.restore(saved, tree(0), 7),
        needs.format("gcsfs", install("gcs")): lambda: checkpoint.locate("gs://bucket/runs"),
        needs.format("s3fs", install("s3")): lambda: checkpoint.locate("s3://bucket/runs"),
        "must be a folder, or an address": lambda: checkpoint.locate("ftp://host/runs"),
    }.items():
        with one_line(words):
            call()
