"""`rlx diff`: where two runs part."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx import config
from rlx.analysis.diff import differences, numbers
from rlx.commands import main as cli
from rlx.runs import checkpoint, saver
from tests import damage


def make_run(folder: Path, **settings: Any) -> Path:
    """A run as it lies on disk, with two lines of metrics and two checkpoints."""
    run_config = config.resolve("sac", "gymnax:Pendulum-v1", **settings)
    folder.mkdir()
    content = config.to_json(run_config) | {"init_from": None, "identity": saver.identity(run_config)}
    content |= {"versions": {"jax": "1.0", "python": "3.12"}, "hardware": {"platform": "cpu", "devices": 1}}
    (folder / "config.json").write_text(json.dumps(content))
    write_lines(folder, 0.5)
    for step in (100, 200):
        checkpoint.save(folder / "resume", step, {"critic": np.full(3, step), "actor": np.zeros(2)})
    checkpoint.save(folder / "checkpoints", 200, {"agent": np.ones(3)})
    return folder


def write_lines(folder: Path, loss: float, steps: tuple[int, ...] = (100, 200)) -> None:
    random = np.random.default_rng().uniform
    lines = [{"run_step": s, "wall_time_s": random(), "train/loss": [loss if s > 100 else 1.0]} for s in steps]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("diff") / "one")


@pytest.fixture
def other(run: Path, tmp_path: Path) -> Path:
    """The same again; only seconds differ."""
    folder = shutil.copytree(run, tmp_path / "two")
    write_lines(folder, 0.5)
    return folder


def test_the_same(run: Path, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert differences(run, other) == []
    assert cli.main(["diff", str(run), str(other)]) == 0
    assert capsys.readouterr().out == "the same\n"
    line = {"run_step": 1, "wall_time_s": 2.0, "train/busy_value_s": 0.1, "train/iteration_s": 0.2, "train/loss": 3.0}
    assert numbers(line) == {"run_step": 1, "train/loss": 3.0}


def test_settings_versions_and_hardware(run: Path, other: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"settings": {"seed": 3, "tau": [0.1]}, "versions": {"jax": "1.1"}, "data_digest": "12ab"}
    damage.edit_json(other / "config.json", hardware={"devices": 4}, **changes)
    tau = config.from_json(run / "config.json").hypers["tau"]
    expected = {"seed: 0 and 3", f"tau: {tau} and (0.1,)", "jax: 1.0 and 1.1", "devices: 1 and 4"}
    assert set(differences(run, other)) == expected | {"data_digest: none and 12ab"}
    assert "log_every: default and 640" in differences(run, make_run(tmp_path / "paced", log_every=640))


def test_lines_of_metrics(run: Path, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first number that differs; runs that log at another pace have means over other stretches."""
    write_lines(other, 0.7, steps=(100, 150, 200))
    (line,) = differences(run, other)
    assert line.startswith("metrics.jsonl: logged at different steps from 200 and 150 on")
    write_lines(other, 0.75)
    line = "metrics.jsonl, step 200: 1 of 2 numbers differ: train/loss is [0.5] and [0.75]"
    assert differences(run, other) == [line]
    assert cli.main(["diff", str(run), str(other)]) == 1
    assert capsys.readouterr().out == f"{line}\n"
    write_lines(other, 0.5, steps=(100,))
    assert differences(run, other) == [f"metrics.jsonl: only {run} has step 200"]
    (other / "metrics.jsonl").unlink()
    assert differences(other, run) == [f"metrics.jsonl: only {run} has step 100"]


def test_the_first_checkpoint(run: Path, other: Path) -> None:
    """With the leaves that differ: of everything, and of the policies. Nothing but manifests is read."""
    shutil.rmtree(other / "resume")
    for step in (100, 150, 200):
        checkpoint.save(other / "resume", step, {"critic": np.full(3, step + (step > 100)), "actor": np.zeros(2)})
    shutil.rmtree(other / "checkpoints")
    checkpoint.save(other / "checkpoints", 200, {"agent": np.ones(3, np.float32), "new": np.ones(1)})
    for path in (other / "resume").rglob("default/d/*"):
        path.unlink()
    wanted = ["resume/200: 1 of 2 leaves differ: ['critic']"]
    assert differences(run, other) == [*wanted, "checkpoints/200: 2 of 2 leaves differ: ['agent'], ['new']"]
    path = other / "resume" / "100" / "manifest.json"
    path.write_text("{")
    assert f"{path}: is damaged; resume that run, or leave it out" in differences(run, other)


def test_lines_are_short(run: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """However much differs: the rest is counted, and --verbose says all of it."""
    one, names = shutil.copytree(run, tmp_path / "one"), [f"layer-{i:02}" for i in range(40)]
    for folder, value in ((one, 0.0), (other, 1.0)):
        shutil.rmtree(folder / "resume")
        checkpoint.save(folder / "resume", 100, {name: np.full(1, value) for name in names})
        lines = {f"train/{name}": [0.125] * 50 + [value + i] for i, name in enumerate(names)}
        (folder / "metrics.jsonl").write_text(json.dumps({"run_step": 100} | lines) + "\n")
        damage.edit_json(folder / "config.json", settings={"tau": [0.5] * 30 + [value / 2 + 0.25]})
    first, second, third = differences(one, other)
    assert first == "tau: ...0.5, 0.5, 0.5, 0.5, 0.5, 0.25) and ...0.5, 0.5, 0.5, 0.5, 0.5, 0.75)"
    shown = "train/layer-00 is ...25, 0.125, 0.0] and ...25, 0.125, 1.0]"
    count = "metrics.jsonl, step 100: 40 of 41 numbers differ"
    assert second == f"{count}: {shown}, ..."
    assert third == "resume/100: 40 of 40 leaves differ: " + ", ".join(f"['layer-{i:02}']" for i in range(5)) + ", ..."
    assert max(map(len, (first, second, third))) <= 120
    assert cli.main(["diff", str(one), str(other), "--verbose"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].count("0.5") == 60 and "..." not in "".join(said)
    assert (said[1], said[42]) == (f"{count}:", "resume/100: 40 of 40 leaves differ:")
    assert said[41].startswith("  train/layer-39 is [0.125, 0.125, ") and said[-1] == "  ['layer-39']"


def test_several_processes(run: Path, other: Path, tmp_path: Path) -> None:
    """Each keeps a folder of its own."""
    one = shutil.copytree(run, tmp_path / "one")
    for folder, value in ((one, 1), (other, 2)):
        shutil.rmtree(folder / "resume")
        checkpoint.save(folder / "resume" / "process-0", 100, {"x": np.zeros(1)})
        checkpoint.save(folder / "resume" / "process-1", 100, {"x": np.full(1, value)})
    assert differences(one, other) == ["resume/process-1/100: 1 of 1 leaves differ: ['x']"]
