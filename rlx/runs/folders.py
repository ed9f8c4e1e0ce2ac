"""Run folders from outside: their names, which process writes in them, and the state of their run."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from rlx import json_files, parallel, user_code
from rlx.config import RunConfig
from rlx.errors import RlxError
from rlx.runs import checkpoint, metrics

RUN, SWEEP, STUDY = "config.json", "sweep.json", "study.json"  # the file that makes a folder a run's, a sweep's, ...
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
LOCK, STATUS, SUMMARY = "lock", "status.json", "summary.json"
LOOK_S = 0.5  # longer than a reader holds the lock to see whether a run is alive


@contextlib.contextmanager
def new(
    root: Path | str, name: str | None, run_config: RunConfig, overwrite: bool, kind: str = RUN, prefix: str = ""
) -> Iterator[Path]:
    """Claims the folder of a new run, or of a sweep, the same for all processes; nothing is removed yet.

    A folder that is not named is called after agent, environment and seed, with the first number that is free. With
    `overwrite` it may exist; `empty` makes room. Where nothing is written, it is removed. Raises RlxError,
    in all processes, for no root, a name that leaves it or one that is taken.
    """
    if not str(root):  # as a path it would be the current folder
        raise RlxError("--run-dir '': names no folder; name one, or leave it out")
    root = Path(root)
    with contextlib.ExitStack() as claims:
        try:
            answer = ""
            if parallel.is_first_process():
                answer = str(_claim_new(claims, root, name, run_config, overwrite, kind, prefix))
        except RlxError as error:
            answer = f"!{error}"
        answer = parallel.agree(answer)
        if answer.startswith("!"):
            raise RlxError(answer[1:])
        yield Path(answer)


def _claim_new(
    claims: contextlib.ExitStack,
    root: Path,
    name: str | None,
    run_config: RunConfig,
    overwrite: bool,
    kind: str,
    prefix: str,
) -> Path:
    if name is not None and not NAME.fullmatch(name):
        raise RlxError(
            f"--run-name {name!r}: use letters, digits, '.', '_' and '-' only, so that it stays inside {root}"
        )
    agent, env = user_code.label(run_config.agent), user_code.label(run_config.env)
    base = re.sub(r"[^A-Za-z0-9._-]", "-", f"{prefix}{agent}-{env}-s{run_config.train.seed}")
    names = [name] if name is not None else (base if i == 1 else f"{base}-{i}" for i in itertools.count(1))
    for folder in (root / each for each in names):
        if overwrite:
            claims.enter_context(claimed(folder, kind))
            return folder
        with contextlib.suppress(FileExistsError):
            claims.enter_context(_made(folder))
            claims.enter_context(claimed(folder, kind))
            return folder
    raise RlxError(f"{root / str(name)}: already exists; choose another --run-name, or --overwrite to replace it")


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Makes a new folder, and those above it; those that are empty afterwards are removed. Raises FileExistsError."""
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except OSError as error:
        if isinstance(error, FileExistsError) and os.path.lexists(folder):
            raise
        raise _cannot_be_written(folder, error) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for path in missing:
                path.rmdir()


def _cannot_be_written(folder: Path, error: OSError) -> RlxError:
    return RlxError(f"{folder}: cannot be written ({error.strerror or error}); choose another --run-dir")


@contextlib.contextmanager
def claimed(folder: Path, kind: str = RUN) -> Iterator[None]:
    """Makes this process the only writer of a folder of that kind, made where there is none, until it leaves.

    The lock goes with the process, however it ends. Raises RlxError where another process writes, for a folder of
    another kind, or where it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_kind(folder, kind)
        is_new = not os.path.lexists(folder / LOCK)
        file = _lock(folder)
    except OSError as error:
        raise _cannot_be_written(folder, error) from None
    with file:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if is_new and [path.name for path in folder.iterdir()] == [LOCK]:
                    (folder / LOCK).unlink()


def _check_kind(folder: Path, kind: str) -> None:
    """Raises RlxError for a folder that is neither empty nor of that kind: --overwrite removes nothing else."""
    if _content(folder) and not (folder / kind).is_file():
        owners = {RUN: "a run's", SWEEP: "a sweep's", STUDY: "a study's"}
        owner = next((f"is {whose}" for name, whose in owners.items() if (folder / name).is_file()), "is no run")
        raise RlxError(f"{folder}: {owner} folder, so --overwrite leaves it alone; choose another --run-name")


def _lock(folder: Path) -> IO[str]:
    """The lock of a folder, held. Raises RlxError where another process holds it, OSError where it is a link."""
    deadline = time.monotonic() + LOOK_S
    while True:
        file = os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_ino == (folder / LOCK).stat().st_ino:
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                return file
        except FileNotFoundError:  # the process that had it has removed the folder
            folder.mkdir(parents=True, exist_ok=True)
        except BlockingIOError:
            if time.monotonic() > deadline:
                owner = file.read(20).strip()
                file.close()
                raise RlxError(
                    f"{folder}: process {owner} is writing to it; wait for it, or choose another --run-name"
                ) from None
            time.sleep(LOOK_S / 20)
        except OSError:
            file.close()
            raise
        file.close()


def empty(folder: Path, kind: str = RUN) -> None:
    """Removes what is in a claimed folder; of links only the links. What makes it a run's folder goes last.

    Raises RlxError, in one line, where something cannot be removed.
    """
    try:
        for path in sorted(_content(folder), key=lambda path: path.name == kind):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except OSError as error:
        raise RlxError(
            f"{error.filename or folder}: cannot be removed ({error.strerror}); choose another --run-name"
        ) from None


def _content(folder: Path) -> list[Path]:
    """What is in a folder, but for the files that a run writes before its config.json."""
    first = (LOCK, STATUS, "status.tmp", "config.tmp", "sweep.tmp", "study.tmp")
    return [path for path in folder.iterdir() if path.name not in first]


def mark(folder: Path, state: str, reason: str = "") -> None:
    """Notes how the run stands: running, finished, interrupted or failed."""
    json_files.write(folder / STATUS, {"state": state, "reason": reason})


class Status(NamedTuple):
    """A run as `rlx runs` lists it."""

    name: str
    state: str
    run_step: int | None  # how far it got
    saved_step: int | None  # from which it would go on, 0 where it would begin again
    eval_return: float | None
    size_bytes: int
    noted: str = ""  # the state in status.json
    damage: str = ""  # of a damaged run, what is wrong


def status(folder: Path) -> Status:
    """The state of the run in a folder; a run whose process died silently was interrupted. Reads only."""
    size = _size(folder)
    try:
        if not (folder / STATUS).exists():
            return Status(folder.name, "unreadable", None, None, None, size)
        state = _state(folder)
        lines, saved = _lines(folder / "metrics.jsonl"), _saved_step(folder)
        steps = [metrics.run_step(line) for line in lines[-1:]] + ([saved] if saved else [])
        returns = [x for line in lines if isinstance(x := line.get("eval/return_mean"), (int, float))]
        last_return = returns[-1] if returns else None
        return Status(folder.name, state, max(steps, default=None), saved, last_return, size, _noted(folder))
    except OSError as error:
        return Status(folder.name, "unreadable", None, None, None, size, damage=f"{error.filename}: {error.strerror}")
    except ValueError as error:
        damage = f"{folder / 'metrics.jsonl'}: is damaged ({error}); restore it from a copy"
        return Status(folder.name, "damaged", None, None, None, size, damage=damage)
    except RlxError as error:
        return Status(folder.name, "damaged", None, None, None, size, damage=str(error))


def _state(folder: Path) -> str:
    """The content of status.json, unless the process that wrote it has died; a run with a summary has finished."""
    state = _noted(folder)
    if state == "running" and not _is_claimed(folder):
        state = _noted(folder)  # it may have ended in between
        state = "interrupted" if state == "running" else state
    if state != "running" and (folder / SUMMARY).is_file():
        return "finished"
    return state


def _noted(folder: Path) -> str:
    state = json_files.read(folder / STATUS).get("state")
    if state not in ("running", "finished", "interrupted", "failed"):
        raise RlxError(f"{folder / STATUS}: has no state; restore it from a copy")
    return str(state)


def _size(folder: Path) -> int:
    """Bytes of all files; those that a live run removes meanwhile do not count."""
    total = 0
    for place, _, names in os.walk(folder):  # which passes over folders that cannot be read
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def _saved_step(folder: Path) -> int | None:
    """The newest full checkpoint, of all of several processes; no cloud is asked."""
    try:
        base = json_files.read(folder / RUN)["settings"]["checkpoint_dir"]
    except (RlxError, KeyError, TypeError):
        return None
    if not isinstance(base, str) or "://" in base:
        return None
    place = checkpoint.home(folder, base)
    parts = sorted(place.glob("process-*")) if place.exists() else []
    return min(max(checkpoint.steps(part), default=0) for part in parts or [place])


def damaged_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run folder that were damaged and set aside."""
    patterns = (f"*/{checkpoint.DAMAGED}-*", f"*/process-*/{checkpoint.DAMAGED}-*")
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


def _is_claimed(folder: Path) -> bool:
    """Whether a process holds the lock; taken and released at once, see LOOK_S."""
    try:
        with open(os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno == errno.EWOULDBLOCK
    return False


def _lines(path: Path) -> list[dict[str, Any]]:
    return metrics.read(path) if path.exists() else []


def all_runs(root: Path) -> list[Status]:
    """Every run folder under `root`, by name; in a sweep or study `sweep/chunk-0`. Raises OSError for no such root."""
    places = [place for place in sorted(root.iterdir())]
    places += [part for place in places if is_of_several_runs(place) for part in sorted(place.iterdir())]
    runs = sorted(place for place in places if _holds(place, RUN))
    return [status(folder)._replace(name=str(folder.relative_to(root))) for folder in runs]


def is_of_several_runs(folder: Path) -> bool:
    """Whether a folder is a sweep's or a study's, whose runs are folders in it."""
    return _holds(folder, SWEEP) or _holds(folder, STUDY)


def _holds(folder: Path, name: str) -> bool:
    """Whether a folder has such a file; one that may not be entered might be a run."""
    try:
        return (folder / name).is_file()
    except PermissionError:
        return name == RUN
