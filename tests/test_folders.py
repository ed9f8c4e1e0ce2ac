"""Run folders: one writer at a time, names that stay inside, and who may replace what."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlx import config, json_files
from rlx.commands import main as cli
from rlx.errors import RlxError
from rlx.runs import folders, metrics
from rlx.runs.console import Console
from tests import processes
from tests.commands import Said
from tests.saved_runs import make_folder
from tests.test_resume import LINES, SETTINGS

pytestmark = pytest.mark.usefixtures("reuse_programs")

OWNER = """
import sys, time
from pathlib import Path
from rlx.runs import folders
with folders.claimed(Path(sys.argv[1])):
    print('claimed', flush=True)
    time.sleep(100)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "runs" / "first")


def train(folder: Path, *more: str) -> list[str]:
    return ["train", "sac", *SETTINGS.split(), "--run-dir", str(folder.parent), "--run-name", folder.name, *more]


def refusal(folder: Path, kind: str = folders.RUN) -> str:
    with pytest.raises(RlxError) as error, folders.claimed(folder, kind):
        pass
    return str(error.value)


def test_a_live_process_keeps_others_out_and_a_dead_one_nobody(folder: Path, say: Callable[..., Said]) -> None:
    """Also --overwrite and --resume; nothing is removed, and the message names the process."""
    command = [sys.executable, "-c", OWNER, str(folder)]
    with subprocess.Popen(command, cwd=processes.ROOT, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "claimed\n"
        before = sorted(folder.rglob("*"))
        message = f"{folder}: process {process.pid} is writing to it; wait for it, or choose another --run-name"
        assert refusal(folder) == message
        assert say(*train(folder, "--overwrite")).err == f"rlx: {message}\n"
        assert sorted(folder.rglob("*")) == before
        process.send_signal(signal.SIGKILL)
    with folders.claimed(folder):
        assert (folder / "lock").read_text() == str(os.getpid())
    assert (folder / "config.json").is_file()
    assert "config.json: cannot be written (" in refusal(folder / "config.json")


def test_a_name_is_claimed_before_anything_else(tmp_path: Path) -> None:
    """Of two runs that begin at once, one has the name; without a name, the other takes the next."""
    run_config = config.resolve("sac", "gymnax:Pendulum-v1")
    with folders.new(tmp_path, None, run_config, False) as first, folders.new(tmp_path, None, run_config, False) as two:
        assert [first.name, two.name] == ["sac-gymnax-Pendulum-v1-s0", "sac-gymnax-Pendulum-v1-s0-2"]
        for name, overwrite, words in ((first.name, False, "already exists"), (first.name, True, "is writing to it")):
            with pytest.raises(RlxError, match=words), folders.new(tmp_path, name, run_config, overwrite):
                pass
        json_files.write(first / "config.json", {})
    assert first.is_dir() and not two.exists()
    with folders.new(tmp_path, None, run_config, True) as again:
        assert again == first
    with folders.new(tmp_path, None, run_config, False, folders.SWEEP, "sweep-") as sweep:
        assert sweep.name == "sweep-sac-gymnax-Pendulum-v1-s0"


ODD = ["../../x", "..", ".", "/tmp/x", "a/b", "", ".hidden", "-x", "a b", "a\nb", "x" * 129, "\u00e4"]


@pytest.mark.parametrize("name", [*ODD, "x", "sac-ant.2_b", "0", "x" * 128])
def test_names_stay_inside(name: str, tmp_path: Path) -> None:
    fine = contextlib.nullcontext() if name not in ODD else pytest.raises(RlxError, match="so that it stays inside")
    with fine, folders.new(tmp_path, name, config.resolve("sac", "gymnax:Pendulum-v1"), overwrite=name in ODD) as made:
        assert made == tmp_path / name and made.is_dir()


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


@pytest.mark.parametrize(
    ("content", "kind", "owner"),
    [
        (["thesis.txt"], folders.RUN, "is no run folder"),
        ([folders.SWEEP, "chunk-0"], folders.RUN, "is a sweep's folder"),
        ([folders.RUN], folders.SWEEP, "is a run's folder"),
        ([folders.SWEEP, "chunk-0"], folders.SWEEP, ""),
        ([folders.RUN], folders.RUN, ""),
        (["lock", "status.json", "config.tmp"], folders.RUN, ""),  # killed before it wrote its config.json
        (["lock", "sweep.tmp"], folders.SWEEP, ""),
    ],
)
def test_a_folder_is_replaced_by_its_like_only(content: list[str], kind: str, owner: str, tmp_path: Path) -> None:
    for name in content:
        (tmp_path / name).touch()
    if owner:
        assert refusal(tmp_path, kind).startswith(f"{tmp_path}: {owner}, so --overwrite leaves it alone; ")
        assert {path.name for path in tmp_path.iterdir()} == set(content)
    else:
        with folders.claimed(tmp_path, kind):
            folders.empty(tmp_path, kind)
            assert not any((tmp_path / name).exists() for name in (kind, "chunk-0"))


def test_overwriting_removes_links_and_not_what_they_lead_to(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "resume", tmp_path / "large disk")
    (folder / "resume").symlink_to(tmp_path / "large disk")
    with folders.claimed(folder):
        folders.empty(folder)
    assert {path.name for path in folder.iterdir()} == {"lock", "status.json"}
    assert (tmp_path / "large disk" / "100" / "data").stat().st_size == 2**20


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


def test_a_new_folder_appears_complete(tmp_path: Path) -> None:
    """What a kill left of another is removed; what another process fills is left alone."""
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


def test_a_read_only_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, say: Callable[..., Said]) -> None:
    """Also where tests run as root, to whom nothing is forbidden: the system's answer is put in its place."""

    def forbidden(path: Any, flags: int, *more: Any, **others: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(folder)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *more, **others)

    opened = os.open
    monkeypatch.setattr(os, "open", forbidden)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    said = f"rlx: {folder}: cannot be written (Read-only file system); choose another --run-dir\n"
    assert say(*train(folder, "--overwrite")).err == said
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Callable[..., Said]) -> None:
    """While a line of metrics is written: one line is said, and with room the run goes on."""
    folder, show = tmp_path / "run", Console.show

    def full(console: Console, line: dict[str, Any]) -> None:
        show(console, line)
        if line["run_step"] == 200:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Console, "show", full)
        said = say(*train(folder))
    remedy = f"make room, then go on with `rlx train --resume {folder}`"
    assert (said.code, said.err) == (2, f"rlx: {folder}: cannot be written (No space left on device); {remedy}\n")
    assert folders.status(folder).state == "failed"
    assert cli.main(["train", "--resume", str(folder), "--quiet"]) == 0
    assert [line["run_step"] for line in metrics.read(folder / "metrics.jsonl")] == LINES


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        (r'{"name": "\ud800"}', "surrogate pair"),
        (rb'{"\uDFFF": 1}', "surrogate pair"),
        (b'{"a": "\xff"}', "UTF-8"),
        ("[" * 100 + "]" * 100, "too deeply"),
        ("9" * 400, "400 digits"),
        ("[NaN]", "not finite"),
    ],
)
def test_json_that_rlx_never_writes_is_refused(text: str | bytes, flaw: str) -> None:
    with pytest.raises(ValueError, match=flaw):
        json_files.parse(text)


def test_json_of_any_characters_is_read() -> None:
    r"""Pairs of surrogates are characters, and text may hold a backslash before ud."""
    assert json_files.parse(r'["\ud83d\ude00", "a\\ud"]') == ["\U0001f600", r"a\ud"]
