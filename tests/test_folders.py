"""Run folders: one writer at a time, names that stay inside, and what `rlx runs` tells of them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx import config, json_files
from rlx.commands import main as cli
from rlx.errors import RlxError
from rlx.runs import checkpoint, folders, metrics, runner, saver
from rlx.runs.console import Console
from rlx.runs.signals import Interrupted
from tests import processes

SETTINGS = (
    "--env gymnax:Pendulum-v1 --num-envs 4 --total-env-steps 120 --warmup-env-steps 40 --log-every 40 --eval-every 120"
    " --checkpoint-every 40 --eval-episodes 1 --ratio 1:1 --batch-size 8 --replay-capacity 80 --pool-size 4"
    " --actor-hidden-sizes 8 --critic-hidden-sizes 8 --quiet"
)


@contextmanager
def owner(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that writes in a folder until it is killed."""
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom rlx.runs import folders\n"
        "with folders.claimed(Path(sys.argv[1])):\n"
        "    print('claimed', flush=True)\n    time.sleep(100)\n"
    )
    command = [sys.executable, "-c", program, str(folder)]
    process = subprocess.Popen(command, cwd=processes.ROOT, text=True, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == "claimed\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As a run leaves it."""
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "metrics.jsonl").write_text('{"run_step": 100, "eval/return_mean": -3.25}\n{"run_step": 200}\n{"run_st')
    (folder / "resume" / "100").mkdir(parents=True)
    (folder / "resume" / "100" / "data").write_bytes(bytes(2**20))
    folders.mark(folder, "finished")
    return folder


def refusal(folder: Path, kind: str = folders.RUN) -> str:
    with pytest.raises(RlxError) as error, folders.claimed(folder, kind):
        pass
    return str(error.value)


def test_a_live_process_keeps_others_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also --overwrite and --resume; nothing is removed, and the message names the process."""
    with owner(folder) as process:
        before = sorted(folder.rglob("*"))
        message = f"{folder}: process {process.pid} is writing there; wait for it, or choose another --run-name"
        assert refusal(folder) == message
        where = ["--run-dir", str(folder.parent), "--run-name", folder.name, "--overwrite"]
        assert cli.main(["train", "sac", *SETTINGS.split(), *where]) == 2
        assert capsys.readouterr().err == f"rlx: {message}\n"
        assert sorted(folder.rglob("*")) == before


def test_a_dead_process_keeps_nobody_out(folder: Path) -> None:
    with owner(folder) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with folders.claimed(folder):
            assert (folder / "lock").read_text() == str(os.getpid())
    assert (folder / "config.json").is_file()


def test_an_older_run_is_emptied(folder: Path) -> None:
    with folders.claimed(folder):
        folders.empty(folder)
        assert {path.name for path in folder.iterdir()} == {"lock", "status.json"}


def test_a_name_is_claimed_before_anything_else(tmp_path: Path) -> None:
    """Of two runs that begin at once, one has the name; without a name, the other takes the next."""
    run_config = config.resolve("sac", "gymnax:Pendulum-v1")
    with folders.new(tmp_path, None, run_config, False) as first, folders.new(tmp_path, None, run_config, False) as two:
        assert [first.name, two.name] == ["sac-gymnax-Pendulum-v1-s0", "sac-gymnax-Pendulum-v1-s0-2"]
        for name, overwrite, words in ((first.name, False, "is there already"), (first.name, True, "is writing there")):
            with pytest.raises(RlxError, match=words), folders.new(tmp_path, name, run_config, overwrite):
                pass
        json_files.write(first / "config.json", {})
    assert first.is_dir() and not two.exists()


@pytest.mark.parametrize("name", ["lock", "status.tmp", "config.tmp", "metrics.tmp", "metrics.jsonl"])
def test_no_write_follows_a_link(name: str, folder: Path, tmp_path: Path) -> None:
    """That somebody planted in a run's folder; what it leads to stays as it is."""
    mine = tmp_path / "mine"
    mine.write_text("export PATH")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(mine)
    with contextlib.suppress(RlxError, OSError), folders.claimed(folder):
        folders.mark(folder, "running")
        json_files.write(folder / "config.json", {})
        with contextlib.suppress(OSError), json_files.open_to_append(folder / "metrics.jsonl") as lines:
            lines.write("{}")
        metrics.cut(folder / "metrics.jsonl", 100)
    assert mine.read_text() == "export PATH"


def test_overwriting_removes_links_and_not_what_they_lead_to(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "resume", tmp_path / "large disk")
    (folder / "resume").symlink_to(tmp_path / "large disk")
    with folders.claimed(folder):
        folders.empty(folder)
    assert {path.name for path in folder.iterdir()} == {"lock", "status.json"}
    assert (tmp_path / "large disk" / "100" / "data").stat().st_size == 2**20


def test_what_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    message = f"{tmp_path}: is no run folder, so --overwrite leaves it alone; choose another --run-name"
    assert refusal(tmp_path) == message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(("there", "kind"), [(folders.SWEEP, folders.RUN), (folders.RUN, folders.SWEEP)])
def test_a_sweep_is_no_run(there: str, kind: str, tmp_path: Path) -> None:
    """Neither is replaced by the other, whatever --overwrite says; by its like it is."""
    (tmp_path / "chunk-0").mkdir()
    (tmp_path / there).touch()
    whose = {folders.RUN: "a run's", folders.SWEEP: "a sweep's"}[there]
    message = f"{tmp_path}: is {whose} folder, so --overwrite leaves it alone; choose another --run-name"
    assert refusal(tmp_path, kind) == message and (tmp_path / "chunk-0").is_dir() and (tmp_path / there).is_file()
    with folders.claimed(tmp_path, there):
        folders.empty(tmp_path, there)
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_run_that_was_killed_at_birth_can_be_overwritten(tmp_path: Path) -> None:
    """Before it wrote its config.json."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("lock", "status.json", "config.tmp"):
        (folder / name).touch()
    with folders.claimed(folder):
        pass


def test_emptying_that_is_cut_short_can_be_repeated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tells that it is a run goes last."""

    def stop(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stop)
        with pytest.raises(KeyboardInterrupt), folders.claimed(folder):
            folders.empty(folder)
    with folders.claimed(folder):
        folders.empty(folder)
        assert not (folder / "resume").exists()


# Where nothing can be written


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    remedy = "choose another --run-dir"
    assert refusal(tmp_path / "file") == f"{tmp_path}/file: cannot be written (File exists); {remedy}"
    assert refusal(tmp_path / "file" / "x").endswith(f"/file/x: cannot be written (Not a directory); {remedy}")


def test_a_read_only_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Even where tests run as root, to whom nothing is forbidden: what the system would say is put in its place."""

    def forbidden(path: Any, flags: int, *more: Any, **others: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(folder)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *more, **others)

    opened = os.open
    monkeypatch.setattr(os, "open", forbidden)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    where = ["--run-dir", str(folder.parent), "--run-name", folder.name, "--overwrite"]
    assert cli.main(["train", "sac", *SETTINGS.split(), *where]) == 2
    said = f"rlx: {folder}: cannot be written (Read-only file system); choose another --run-dir\n"
    assert capsys.readouterr().err == said
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_disk_that_fills_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While a line of metrics is written: one line is said, and with room the run goes on."""
    folder, show = tmp_path / "run", Console.show

    def full(console: Console, line: dict[str, Any]) -> None:
        show(console, line)
        if line["run_step"] == 80:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Console, "show", full)
        assert cli.main(["train", "sac", *SETTINGS.split(), "--run-dir", str(tmp_path), "--run-name", "run"]) == 2
    remedy = f"make room, then go on with `rlx train --resume {folder}`"
    assert capsys.readouterr().err == f"rlx: {folder}: cannot be written (No space left on device); {remedy}\n"
    assert folders.status(folder).state == "failed"
    assert cli.main(["train", "--resume", str(folder), "--quiet"]) == 0
    assert [line["run_step"] for line in metrics.read(folder / "metrics.jsonl")] == [40, 44, 80, 120]


# Names


@pytest.mark.parametrize(
    "name", ["../../x", "..", ".", "/tmp/x", "a/b", "", ".hidden", "-x", "a b", "a\nb", "x" * 129, "\u00e4"]
)
def test_names_that_lead_elsewhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(RlxError) as error:
        with folders.new(tmp_path, name, config.resolve("sac", "gymnax:Pendulum-v1"), overwrite=True):
            pass
    rule = f"use letters, digits, '.', '_' and '-' only, so that it stays inside {tmp_path}"
    assert str(error.value) == f"--run-name {name!r}: {rule}"


@pytest.mark.parametrize("name", ["x", "sac-ant.2_b", "0", "x" * 128])
def test_names_that_stay(name: str, tmp_path: Path) -> None:
    given = config.resolve("sac", "gymnax:Pendulum-v1")
    with folders.new(tmp_path, name, given, overwrite=False) as folder:
        assert folder == tmp_path / name and folder.is_dir()


# How a run stands


def test_standings(folder: Path) -> None:
    assert folders.status(folder)[:6] == ("first", "finished", 200, None, -3.25, 2**20 + size_of_small_files(folder))
    folders.mark(folder, "running")
    assert folders.status(folder).state == "interrupted"  # nobody writes there
    with owner(folder):
        assert folders.status(folder).state == "running"
    assert folders.status(folder).state == "interrupted"


def test_a_kill_after_the_summary(folder: Path) -> None:
    """And before status.json: the run has finished, and is not interrupted for good."""
    folders.mark(folder, "running")
    (folder / "summary.json").write_text("{}")
    assert folders.status(folder).state == "finished"
    with owner(folder):
        assert folders.status(folder).state == "running"


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


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", b'{"run_step": 1\xff}\n'),
        ("metrics.jsonl", b'{"run_step": 100}\nnull\n'),
        ("metrics.jsonl", b'{"run_step"; 100}\n{"run_step": 200}\n'),
        ("metrics.jsonl", b'{"run_step": "100"}\n'),
        ("metrics.jsonl", b'{"run_step": 1' + b"0" * 400 + b"}\n"),
        ("metrics.jsonl", f'{{"run_step": 1, "x": {DEEP}\n'.encode()),
        ("metrics.jsonl", b'{"run_step": 1, "x": ' + b"[" * 90 + b"]" * 90 + b"}\n"),
        ("status.json", f'{{"state": {DEEP}'.encode()),
        ("status.json", b'{"state": ["running"]}'),
        ("status.json", b"[]"),
    ],
)
def test_a_damaged_run_is_listed_beside_others(
    name: str, content: bytes, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As that, with what is wrong in a line; its resume reads no wrong number."""
    shutil.copytree(folder, folder.parent / "sound")
    (folder / name).write_bytes(content)
    assert cli.main(["runs", str(folder.parent)]) == 0
    said = capsys.readouterr()
    assert [line.split()[:2] for line in said.out.splitlines()[1:]] == [["first", "damaged"], ["sound", "finished"]]
    assert said.err.startswith(f"rlx: {folder}/{name}") and said.err.count("\n") == 1


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
def test_where_a_run_would_go_on(
    base: str, saved: dict[str, list[int]], wanted: tuple[int, int | None], tmp_path: Path
) -> None:
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
    found = folders.status(folder)
    assert (found.state, found.run_step, found.saved_step) == ("interrupted", *wanted)
    if wanted[1] and "resume/process-0" not in saved:
        assert saver.find_newest(saver.place(run_config, folder), pytest.fail) == (wanted[1], False)


def size_of_small_files(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


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
    folder = tmp_path / "run"
    try:
        folder.mkdir()
        with runner.marked(folder):
            assert json.loads((folder / "status.json").read_text())["state"] == "running"
            if error:
                raise error
    except BaseException as raised:
        assert raised is error
    found = json.loads((folder / "status.json").read_text())
    assert found["state"] == state and (str(error or "") in found["reason"])


def test_rlx_runs(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A table, by name; without metrics there is nothing to tell, and what is no run is left out."""
    other = folder.parent / "b-second-run"
    other.mkdir()
    (other / "config.json").write_text("{}")
    (folder.parent / "documents").mkdir()
    assert cli.main(["runs", str(folder.parent)]) == 0
    size = "1.0 MiB"
    assert capsys.readouterr().out.splitlines() == [
        "run           state       step  resumes at  return     size",
        "b-second-run  unreadable     -           -       -  0.0 MiB",
        f"first         finished     200           -    -3.2  {size}",
    ]
    monkeypatch.chdir(folder.parent.parent)
    assert cli.main(["runs"]) == 0
    assert "first" in capsys.readouterr().out
    assert cli.main(["runs", str(folder)]) == 2
    assert capsys.readouterr().err == f"rlx: {folder}: holds no runs; {REMEDY}\n"
    assert cli.main(["runs", "nowhere"]) == 2
    assert capsys.readouterr().err == f"rlx: nowhere: is no folder in {Path.cwd()}; {REMEDY}\n"


def test_rlx_runs_names_what_was_set_aside(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the table; what was never finished goes by itself."""
    for name in ("damaged-80", "unfinished-90", "process-1/damaged-40"):
        (folder / "resume" / name).mkdir(parents=True)
    assert cli.main(["runs", str(folder.parent)]) == 0
    said = capsys.readouterr()
    remedy = "is a damaged checkpoint that was set aside; delete it when you have looked at it"
    names = ("damaged-80", "process-1/damaged-40")
    assert said.err.splitlines() == [f"rlx: {folder / 'resume' / name}: {remedy}" for name in names]
    assert len(said.out.splitlines()) == 2


REMEDY = "go where you trained, or give the folder that --run-dir named"


def test_rlx_runs_lists_those_of_sweeps(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the sweep's name and their own; also where there is nothing else."""
    for part in ("chunk-0", "confirm"):
        shutil.copytree(folder, tmp_path / "rr" / "lr" / part)
    (tmp_path / "rr" / "lr" / "sweep.json").write_text("{}")
    assert cli.main(["runs", str(tmp_path / "rr")]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["lr/chunk-0", "finished"],
        ["lr/confirm", "finished"],
    ]
    shutil.copytree(folder, tmp_path / "rr" / "alone")
    assert [run.name for run in folders.all_runs(tmp_path / "rr")] == ["alone", "lr/chunk-0", "lr/confirm"]


# New folders


def test_what_a_kill_left_of_a_new_folder_is_in_no_way(tmp_path: Path) -> None:
    """Nor stays behind; what another process fills is left alone."""
    leftover, busy = tmp_path / ".set.1.partial", tmp_path / ".set.2.partial"
    for path in (leftover, busy):
        path.mkdir()
    with json_files._locked(busy):
        with json_files.new_folder(tmp_path / "set") as partial:
            (partial / "file").touch()
            assert not (tmp_path / "set").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"set", ".set.2.partial"}
    with pytest.raises(ZeroDivisionError), json_files.new_folder(tmp_path / "other"):
        raise ZeroDivisionError
    assert not list(tmp_path.glob("*other*"))
