"""Run folders from outside: their names, who writes in them, and how the run in them stands."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rlx import json_files, parallel
from rlx.config import RunConfig
from rlx.errors import RlxError
from rlx.runs import checkpoint

RUN, SWEEP = "config.json", "sweep.json"  # what tells that a folder is a run's, or a sweep's
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
LOCK, STATUS = "lock", "status.json"


def choose_folder(root: Path | str, name: str | None, run_config: RunConfig, overwrite: bool, prefix: str = "") -> Path:
    """The folder of a new run, the same for all processes; one that is not named begins with `prefix`.

    Raises RlxError, in all of them, for no root, a name that leaves it or a folder that is there already.
    """
    if not str(root):  # as a path it would be the current folder
        raise RlxError("--run-dir '': names no folder; name one, or leave it out")
    root = Path(root)
    try:
        said = str(_choose_folder(root, name, run_config, overwrite, prefix)) if parallel.is_first_process() else ""
    except RlxError as error:
        said = f"!{error}"
    said = parallel.agree(said)
    if said.startswith("!"):
        raise RlxError(said[1:])
    return Path(said)


def _choose_folder(root: Path, name: str | None, run_config: RunConfig, overwrite: bool, prefix: str) -> Path:
    if name is None:
        base = f"{prefix}{run_config.agent}-{run_config.env.replace(':', '-')}-s{run_config.train.seed}"
        if overwrite or not (root / base).exists():
            return root / base
        return next(folder for i in itertools.count(2) if not (folder := root / f"{base}-{i}").exists())
    if not NAME.fullmatch(name):
        raise RlxError(
            f"--run-name {name!r}: use letters, digits, '.', '_' and '-' only, so that it stays inside {root}"
        )
    folder = root / name
    if folder.exists() and not overwrite:
        raise RlxError(f"{folder}: is there already; choose another --run-name, or --overwrite to replace it")
    return folder


@contextlib.contextmanager
def claimed(folder: Path, fresh: bool, kind: str = RUN) -> Iterator[None]:
    """Makes this process the only writer of a run folder, made or (where `fresh`) emptied first, until it leaves.

    `kind` is RUN, or SWEEP for a sweep's. The lock goes with the process, however it ends. Raises RlxError, and removes
    nothing, where another process writes, where it is no folder of that kind, or where it cannot be made.
    """
    try:
        if fresh and folder.exists() and _others(folder) and not (folder / kind).is_file():
            other = {RUN: "a run's", SWEEP: "a sweep's"}
            found = next((f"is {whose}" for name, whose in other.items() if (folder / name).is_file()), "is no run")
            raise RlxError(f"{folder}: {found} folder, so --overwrite leaves it alone; choose another --run-name")
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+")
    except OSError as error:
        raise RlxError(f"{folder}: cannot be written ({error.strerror or error}); choose another --run-dir") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RlxError(
                f"{folder}: process {file.read().strip()} is writing there; wait for it, or choose another --run-name"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        if fresh:
            for path in sorted(_others(folder), key=lambda path: path.name == kind):  # what tells of a run: last
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield


def _others(folder: Path) -> list[Path]:
    """What is in a folder, but for the files that a run writes before its config.json."""
    own = (LOCK, STATUS, "status.tmp", "config.tmp", "sweep.tmp")
    return [path for path in folder.iterdir() if path.name not in own]


def mark(folder: Path, state: str, reason: str = "") -> None:
    """Notes how the run stands: running, finished, interrupted or failed."""
    json_files.write(folder / STATUS, {"state": state, "reason": reason})


class Standing(NamedTuple):
    """A run as `rlx runs` lists it."""

    name: str
    state: str
    run_step: int | None  # how far it got
    saved_step: int | None  # from which it would go on, 0 where it would begin again
    eval_return: float | None
    size_bytes: int


def standing(folder: Path) -> Standing:
    """How the run in a folder stands; a run whose process died without a word was interrupted."""
    with contextlib.suppress(OSError, ValueError):
        state = json.loads((folder / STATUS).read_text())["state"]
        if state == "running" and not _is_claimed(folder):
            state = "interrupted"
        last, saved = _last_lines(folder / "metrics.jsonl"), _saved_step(folder)
        returns = [line["eval/return_mean"] for line in last if line.get("eval/return_mean") is not None]
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        reached = max([line["run_step"] for line in last[-1:]] + [saved] * bool(saved), default=None)
        return Standing(folder.name, state, reached, saved, (returns or [None])[-1], size)
    return Standing(folder.name, "unreadable", None, None, None, 0)


def _saved_step(folder: Path) -> int | None:
    """The newest step of which everything was saved, by all of several processes; no cloud is asked."""
    try:
        base = json_files.read(folder / RUN)["settings"]["checkpoint_dir"]
    except (RlxError, KeyError, TypeError):
        return None
    if "://" in base:
        return None
    place = checkpoint.home(folder, base)
    parts = sorted(place.glob("process-*")) if place.exists() else []
    return min(max(checkpoint.steps(part), default=0) for part in parts or [place])


def damaged(folder: Path) -> list[Path]:
    """The checkpoints in a run folder that were found damaged and set aside."""
    patterns = (f"*/{checkpoint.DAMAGED}-*", f"*/process-*/{checkpoint.DAMAGED}-*")
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


def _is_claimed(folder: Path) -> bool:
    try:
        with (folder / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _last_lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    with contextlib.suppress(OSError):
        for text in path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(text))
    return lines


def all_runs(root: Path) -> list[Standing]:
    """Every run folder under `root`, by name; those of a sweep as `sweep/chunk-0`."""
    parts = [path for sweep in root.glob(f"*/{SWEEP}") for path in sweep.parent.glob(f"*/{RUN}")]
    found = sorted(path.parent for path in (*root.glob(f"*/{RUN}"), *parts))
    return [standing(folder)._replace(name=str(folder.relative_to(root))) for folder in found]
