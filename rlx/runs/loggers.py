"""Where lines of metrics go besides metrics.jsonl: TensorBoard's event files, Weights & Biases.

Both get every line after it was written to metrics.jsonl; one that fails is dropped, and the run goes on.
"""

from __future__ import annotations

import importlib.util
import math
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from rlx import json_files
from rlx.config import RunConfig, members, to_json
from rlx.errors import RlxError, install
from rlx.runs import folders

FEW = 8  # members that are logged one by one, in addition to their mean
PATIENCE_S = 60.0  # for W&B to send the rest when a run is over; what is left stays on disk


class Sink(Protocol):
    """Takes scalars by name."""

    def write(self, run_step: int, scalars: dict[str, float]) -> None: ...

    def close(self, failed: bool) -> None: ...


def scalars(line: dict[str, Any], members: int) -> dict[str, float]:
    """A line of metrics.jsonl as finite numbers by name.

    Of a list with a value for each member: the mean, and where they are few each as `name/0`, `name/1`, ...; of other
    lists, such as histograms of lags, each value likewise. What is not finite is left out.
    """
    values: dict[str, float] = {}
    for name, value in line.items():
        if name == "nonfinite":
            values |= {f"nonfinite/{quantity}": count["number"] for quantity, count in value.items()}
        elif not isinstance(value, list):
            values |= _finite({name: value})
        elif len(value) == members and not name.startswith("train/lag_"):
            values |= _finite({name: sum(value) / members if None not in value else None})
            if 1 < members <= FEW:
                values |= _finite({f"{name}/{i}": x for i, x in enumerate(value)})
        else:
            values |= _finite({f"{name}/{i}": x for i, x in enumerate(value)})
    return values


def _finite(values: dict[str, Any]) -> dict[str, float]:
    return {name: x for name, x in values.items() if isinstance(x, (int, float)) and math.isfinite(x)}


def _check_links(place: Path) -> None:
    """Raises OSError where somebody planted a link that leads out of the folder: the libraries would follow it.

    W&B makes links inside of it.
    """
    for path in (place, *place.rglob("*")):
        if path.is_symlink() and (path == place or place.resolve() not in path.resolve().parents):
            raise OSError(f"{path} is a symbolic link that leads elsewhere")


class TensorBoard:
    """Event files in RUN/tensorboard. Points after `run_step`, where the run goes on, are purged: they come again."""

    def __init__(self, folder: Path, run_step: int) -> None:
        from tensorboardX import SummaryWriter

        place, first = folder / "tensorboard", run_step + 1
        _check_links(place)
        purged = first if place.exists() else None
        self._writer = SummaryWriter(str(place), purge_step=purged, filename_suffix=f".{first}")

    def write(self, run_step: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, run_step)
        self._writer.flush()

    def close(self, failed: bool) -> None:
        self._writer.close()


def _name(folder: Path) -> str:
    """The run's name: that of its folder, for a part of a sweep or study `sweep/chunk-0`."""
    place = folder.resolve()
    return f"{place.parent.name}/{place.name}" if folders.is_of_several_runs(place.parent) else place.name


class WandB:
    """A run of Weights & Biases, in the project WANDB_PROJECT (rlx by default); a resumed run goes on with the same.

    RUN/wandb.json notes its id and the last step that W&B has: a resumed run does not send it again.
    """

    def __init__(self, folder: Path, config: RunConfig) -> None:
        import wandb

        _check_links(folder / "wandb")
        self._note, self._last = folder / "wandb.json", -1
        known = json_files.read(self._note) if self._note.exists() else {}
        self._id, self._last = known.get("id") or uuid.uuid4().hex[:12], known.get("run_step", -1)
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rlx"),
            id=self._id,
            name=_name(folder),
            dir=str(folder),
            config=to_json(config),
            resume="allow",
            settings=wandb.Settings(
                console="off", silent=True, disable_git=True, finish_timeout=PATIENCE_S, finish_timeout_raises=True
            ),
        )
        self._mark(self._last)

    def _mark(self, run_step: int) -> None:
        self._last = run_step
        json_files.write(self._note, {"id": self._id, "run_step": run_step})

    def write(self, run_step: int, scalars: dict[str, float]) -> None:
        if run_step > self._last:
            self._run.log(scalars, step=run_step)
            self._mark(run_step)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def check(config: RunConfig) -> None:
    """Raises RlxError where a package is missing, before anything is made."""
    if config.train.wandb and importlib.util.find_spec("wandb") is None:
        raise RlxError(f"--wandb: needs the package wandb; {install('wandb')}, or leave it out")


class Sinks:
    """The sinks of a run, none without a configuration; `run_step` is where it goes on, or -1."""

    def __init__(self, config: RunConfig | None, folder: Path, run_step: int, warn: Callable[[str], None]) -> None:
        self._warn, self._members = warn, len(members(config)) if config else 0
        self._sinks: dict[str, Sink] = {}
        if config and config.train.tensorboard:
            self._guarded("--tensorboard", lambda: self._add("--tensorboard", TensorBoard(folder, run_step)))
        if config and config.train.wandb:
            self._guarded("--wandb", lambda: self._add("--wandb", WandB(folder, config)))

    def _add(self, flag: str, sink: Sink) -> None:
        self._sinks[flag] = sink

    def _guarded(self, flag: str, action: Callable[[], None]) -> None:
        """Calls `action`; an error in it drops the sink, and never ends a run."""
        try:
            action()
        except Exception as error:
            self._sinks.pop(flag, None)
            reason = (str(error).splitlines() or [""])[0]
            self._warn(f"{flag}: {type(error).__name__}: {reason}; the run goes on without it")

    def __enter__(self) -> Self:
        return self

    def write(self, line: dict[str, Any]) -> None:
        """Hands a line of metrics.jsonl on."""
        values = scalars(line, self._members)
        run_step = int(values.pop("run_step"))
        for flag, sink in list(self._sinks.items()):
            self._guarded(flag, lambda sink=sink: sink.write(run_step, values))  # type: ignore[misc]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for flag, sink in list(self._sinks.items()):
            self._guarded(flag, lambda sink=sink: sink.close(error is not None))  # type: ignore[misc]
