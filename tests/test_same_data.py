"""A run that goes on learns from the data set that it began with, or not at all."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from rlx import config, data, json_files
from rlx.commands import main as cli
from rlx.errors import RlxError
from rlx.runs import runner, saver
from tests import kill
from tests.datasets import d4rl_arrays, walk, write_hdf5
from tests.kill_cases import write_dataset
from tests.test_resume import Crash, at_line, crash, resume

pytestmark = pytest.mark.usefixtures("reuse_programs")

SETTINGS = (
    "--env gymnax:Pendulum-v1 --offline-steps 100 --log-every 20 --eval-every 100 --checkpoint-every 20 --pool-size 4"
    " --eval-episodes 2 --batch-size 8 --actor-hidden-sizes 8 --quiet"
)


def train(folder: Path, dataset: Path) -> int:
    where = ["--dataset", str(dataset), "--run-dir", str(folder.parent), "--run-name", folder.name]
    return cli.main(["train", "bc", *SETTINGS.split(), *where])


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that nothing ended, and one of the same data set that something did."""
    root = tmp_path_factory.mktemp("runs")
    write_dataset(root / "data")
    assert train(root / "whole", root / "data") == 0
    with at_line(60, crash), pytest.raises(Crash):
        train(root / "run", root / "data")
    return root / "whole", root / "run"


def swap(dataset: Path, arrays: dict[str, Any]) -> None:
    """Puts a data set at the place of another, in another format."""
    shutil.rmtree(dataset)
    write_hdf5(dataset, arrays)


@pytest.fixture
def placed(crashed: tuple[Path, Path], tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A copy of the interrupted run, and its data set, which is put back in the end."""
    run, dataset = shutil.copytree(crashed[1], tmp_path / "run"), crashed[1].parent / "data"
    yield run, dataset
    shutil.rmtree(dataset) if dataset.is_dir() else dataset.unlink()
    write_dataset(dataset)


def test_another_data_set(placed: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Of the same name and size, one reward changed: refused in one line, and nothing is changed."""
    run, dataset = placed
    arrays = d4rl_arrays(data.read(dataset))
    arrays["rewards"][7] += 1
    swap(dataset, arrays)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert resume(run) == 2
    said = f"rlx: {dataset}: is not the data set that the run began with; restore that one\n"
    assert capsys.readouterr().err == said
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("place", ["gone", "/nowhere/gone"])
def test_no_data_set(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that goes on, and of a sweep's later part: it can only be put back, or be where the path is right."""
    monkeypatch.chdir(tmp_path)
    saved = config.resolve("bc", "gymnax:Pendulum-v1", dataset=place, offline_steps=10)
    json_files.write(tmp_path / "config.json", config.to_json(saved) | {"identity": saver.identity(saved)})
    elsewhere = f", or go where you trained: {tmp_path} has none" if place == "gone" else ""
    message = re.escape(f"data set not found: {place}; restore it{elsewhere}")
    with pytest.raises(RlxError, match=f"^{message}$"):
        runner.resume(tmp_path, {}, quiet=True)
    with pytest.raises(RlxError, match=f"^{message}$"):
        runner.train(saved, tmp_path / "chunk-1", quiet=True, same_data_as=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "lock"}


def test_the_same_content_in_another_format(placed: tuple[Path, Path], crashed: tuple[Path, Path]) -> None:
    """Goes on, to the bits of the run that nothing ended."""
    run, dataset = placed
    swap(dataset, d4rl_arrays(data.read(dataset)))
    assert resume(run) == 0
    assert kill.result(run) == kill.result(crashed[0])
    summaries = [json_files.read(folder / "summary.json") for folder in (run, crashed[0])]
    assert summaries[0]["eval_return_interval"] == summaries[1]["eval_return_interval"]


def test_parts_of_a_sweep_have_one_data_set(crashed: tuple[Path, Path], tmp_path: Path) -> None:
    """A part that begins after the data set was swapped is refused before it has a folder."""
    _, run = crashed
    saved = config.from_json(run / "config.json")
    first = shutil.copytree(run, tmp_path / "chunk-0")
    path = first / "config.json"
    json_files.write(path, json_files.read(path) | {"data_digest": "of another"})
    with pytest.raises(RlxError, match="data: is not the data set that the run began with; restore that one"):
        runner.train(saved, tmp_path / "chunk-1", quiet=True, same_data_as=first)
    assert not (tmp_path / "chunk-1").exists()


def test_the_digest_of_a_data_set() -> None:
    """Every column counts, extras too, and the order and number of rows; names and places do not."""
    result = walk([3, 4])
    same = result._replace(info={"name": "other"})
    assert data.digest(result) == data.digest(same) != data.digest(walk([3, 4], seed=1))
    others = [jax.tree.map(lambda x: x[::-1], result.rows), jax.tree.map(lambda x: x[:-1], result.rows)]
    for name, leaf in result.rows._asdict().items():
        leaf = leaf["log_prob"] if name == "extras" else leaf
        changed = leaf.copy()
        changed.flat[-1] = not changed.flat[-1] if changed.dtype == bool else changed.flat[-1] + 1
        others.append(result.rows._replace(**{name: {"log_prob": changed} if name == "extras" else changed}))
    assert all(data.digest(result._replace(rows=rows)) != data.digest(result) for rows in others)
