"""How a run stands: what its folder says while it trains, after a kill and when damaged, and what `rlx runs` prints."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx import config, json_files
from rlx.errors import RlxError
from rlx.runs import checkpoint, folders, metrics, recording, saver
from rlx.runs.signals import Interrupted
from tests.commands import Say
from tests.saved_runs import make_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "runs" / "first")


def test_standings(folder: Path) -> None:
    """A run that nobody writes is interrupted, unless it was killed between its summary and its status."""
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    assert folders.status(folder)[:6] == ("first", "finished", 200, None, -3.25, 2**20 + size)
    folders.mark(folder, "running")
    for state in ("interrupted", "finished"):
        assert folders.status(folder).state == state
        with folders.claimed(folder):
            assert folders.status(folder).state == "running"
        (folder / "summary.json").write_text("{}")


def test_a_live_run_is_never_unreadable(folder: Path) -> None:
    """Whatever is replaced and removed while it is looked at; and looking keeps nobody from writing."""
    over = threading.Event()

    def live() -> None:
        while not over.is_set():
            with folders.claimed(folder):
                folders.mark(folder, "running")
                (folder / "resume" / "writing-7").mkdir()
                (folder / "resume" / "writing-7" / "part").touch()
                shutil.rmtree(folder / "resume" / "writing-7")
                metrics.cut(folder / "metrics.jsonl", 200)
                folders.mark(folder, "finished")

    lines = '{"run_step": 100, "wall_time_s": 1.0}\n{"run_step": 200, "wall_time_s": 2.0}\n'
    (folder / "metrics.jsonl").write_text(lines)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(live)
        states = [folders.status(folder) for _ in range(300)]
        over.set()
        run.result()
    assert {(status.state, status.run_step) for status in states} <= {("running", 200), ("finished", 200)}


@pytest.mark.parametrize(
    ("base", "saved", "wanted"),
    [
        ("", {"resume": [40, 80]}, (120, 80)),  # killed: what came after 80 is made again
        ("", {"resume": [80, 137]}, (137, 137)),  # asked to end between two lines of metrics
        ("", {}, (120, 0)),
        ("", {"resume/process-0": [40, 80], "resume/process-1": [40]}, (120, 40)),
        ("BASE", {"../base/run": [80], "resume": [40]}, (120, 80)),
        ("gs://bucket/runs", {"resume": [40]}, (120, None)),
    ],
)
def test_where_a_run_would_go_on(base: str, saved: dict[str, list[int]], wanted: Any, tmp_path: Path) -> None:
    """As far as it got, and from where `rlx train --resume` goes on: two numbers."""
    folder, base = tmp_path / "run", base.replace("BASE", str(tmp_path / "base"))
    folder.mkdir()
    run_config = config.resolve("sac", "gymnax:Pendulum-v1", checkpoint_dir=base)
    json_files.write(folder / "config.json", config.to_json(run_config))
    (folder / "metrics.jsonl").write_text('{"run_step": 40}\n{"run_step": 120}\n')
    folders.mark(folder, "running")
    for place, steps in saved.items():
        for step in steps:
            checkpoint.save(folder / place, step, {"x": np.zeros(1)}, {"offline": False, "iteration": 1, "learned": 0})
    result = folders.status(folder)
    assert (result.state, result.run_step, result.saved_step) == ("interrupted", *wanted)
    if wanted[1] and "resume/process-0" not in saved:
        assert saver.find_newest(saver.place(run_config, folder), pytest.fail) == (wanted[1], False)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, "finished"),
        (Interrupted(15, "saved at step 7"), "interrupted"),
        (RlxError("a mistake"), "failed"),
        (KeyboardInterrupt(), "failed"),
        (ValueError("a bug"), "failed"),
    ],
)
def test_how_a_run_ends_is_noted(error: BaseException | None, state: str, tmp_path: Path) -> None:
    try:
        with recording.marked(tmp_path):
            assert json.loads((tmp_path / "status.json").read_text())["state"] == "running"
            if error:
                raise error
    except BaseException as raised:
        assert raised is error
    result = json.loads((tmp_path / "status.json").read_text())
    assert result["state"] == state and (str(error or "") in result["reason"])


DEEP = b"[" * 100_000
DAMAGED_LINES = [b": 1\xff}", b": 100}\nnull", b'; 100}\n{"run_step": 200}', b': "100"}', b": 1" + b"0" * 400 + b"}"]
DAMAGED_LINES += [b': 1, "x": ' + DEEP, b': 1, "x": ' + b"[" * 90 + b"]" * 90 + b"}"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("metrics.jsonl", b'{"run_step"' + rest + b"\n") for rest in DAMAGED_LINES),
        ("status.json", b'{"state": ' + DEEP),
        ("status.json", b'{"state": ["running"]}'),
        ("status.json", b"[]"),
    ],
)
def test_a_damaged_run_is_listed_beside_others(name: str, content: bytes, folder: Path, say: Say) -> None:
    """As that, with what is wrong in a line; its resume reads no wrong number."""
    shutil.copytree(folder, folder.parent / "sound")
    (folder / name).write_bytes(content)
    said = say("runs", folder.parent)
    assert [line.split()[:2] for line in said.out.splitlines()[1:]] == [["first", "damaged"], ["sound", "finished"]]
    assert said.code == 0 and said.err.startswith(f"rlx: {folder}/{name}") and said.err.count("\n") == 1


def test_rlx_runs(folder: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table, by name, here or in another folder; beside it, which checkpoints were set aside. No runs: one line."""
    root = folder.parent
    (root / "b-second-run").mkdir()
    (root / "b-second-run" / "config.json").write_text("{}")
    (root / "documents").mkdir()
    for name in ("damaged-80", "unfinished-90", "process-1/damaged-40"):
        (folder / "resume" / name).mkdir(parents=True)
    said = say("runs", root)
    assert said.code == 0 and said.out.splitlines() == [
        "run           state       step  resumes at  return     size",
        "b-second-run  unreadable     -           -       -  0.0 MiB",
        "first         finished     200           -    -3.2  1.0 MiB",
    ]
    aside = [f"rlx: {folder / 'resume' / name}: is a damaged" for name in ("damaged-80", "process-1/damaged-40")]
    assert [line.partition(" checkpoint ")[0] for line in said.err.splitlines() if "damaged" in line] == aside
    monkeypatch.chdir(root.parent)
    assert say("runs").out == said.out
    assert say("runs", folder).err.startswith(f"rlx: {folder}: holds no runs; ")
    assert say("runs", "nowhere").err.startswith(f"rlx: nowhere: is no folder in {Path.cwd()}; ")


def test_rlx_runs_lists_those_of_sweeps(tmp_path: Path, folder: Path, say: Say) -> None:
    """By the sweep's name and their own; also where there is nothing else."""
    for part in ("chunk-0", "confirm"):
        shutil.copytree(folder, tmp_path / "rr" / "lr" / part)
    (tmp_path / "rr" / "lr" / "sweep.json").write_text("{}")
    lines = say("runs", tmp_path / "rr").out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["lr/chunk-0", "finished"], ["lr/confirm", "finished"]]
    shutil.copytree(folder, tmp_path / "rr" / "alone")
    assert [run.name for run in folders.all_runs(tmp_path / "rr")] == ["alone", "lr/chunk-0", "lr/confirm"]
