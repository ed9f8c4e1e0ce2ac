"""Kills commands at chosen points, with a reader beside them: `python -m tests.kill_points --kills 2`.

`tests.kill` kills at random moments, which seldom fall into an evaluation, a half-written line or the last files. Here
a process kills itself (SIGKILL) there. Repeated or resumed, the command has to end as if nothing had happened; and
whoever looks meanwhile, by `rlx runs` and at the newest policy, never finds a run unreadable.
"""

import argparse
import importlib
import json
import os
import pkgutil
import random
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self
from unittest import mock

from tests import damage, kill
from tests.kill_cases import SMALL

TRAIN = (
    f"rlx train sac {SMALL} --num-envs 4 --total-env-steps 800 --warmup-env-steps 100 --replay-capacity 400"
    " --log-every 50 --checkpoint-every 100 --eval-every 200 --ratio 1:1 --run-dir {root} --run-name run"
)
SWEEP = TRAIN.replace("rlx train", "rlx sweep").replace("--run-name run", "--run-name sweep")
SWEEP += " --critic-lr 1e-3 3e-4 --chunk 1"
RESUME, RESUME_SWEEP = "rlx train --resume {root}/run --quiet", "rlx sweep --resume {root}/sweep --quiet"
COLLECT = "rlx collect {reference}/train/run --kind mixed --num-transitions 400 --out {root}/set-v0"


class Point(NamedTuple):
    """Where a process kills itself: before the nth call of a function, within the nth line of metrics, or in place of
    the nth time that a finished draft takes the name of its file."""

    how: str  # call, line or file
    name: str
    most: int = 1  # n is drawn from 1 to this


class Phase(NamedTuple):
    """What is killed: `commands` at `points`, one after the other, and the command that is to succeed at last."""

    commands: tuple[str, ...]
    points: tuple[Point, ...]
    last: str


LINE, SAVING = Point("line", "", 16), Point("call", "rlx.runs.checkpoint.save", 8)
PHASES = {
    "evaluation": Phase((TRAIN,), (Point("call", "rlx.train.fused.Fused.evaluate", 4),), RESUME),
    "metrics": Phase((TRAIN,), (LINE,), RESUME),
    "summary": Phase((TRAIN,), (Point("file", "summary.json"),), RESUME),
    "page": Phase((TRAIN,), (Point("file", "rollout.html"),), RESUME),
    "resume": Phase((TRAIN, RESUME), (SAVING, Point("call", "rlx.runs.checkpoint.restore")), RESUME),
    "sweep": Phase((SWEEP, RESUME_SWEEP), (Point("line", "", 30), Point("file", "sweep.csv")), RESUME_SWEEP),
    "collect": Phase((COLLECT,), (Point("file", "set-v0"),), COLLECT),
}


@contextmanager
def armed(point: Point, number: int) -> Iterator[None]:
    """This process kills itself at the point's `number`th time."""
    times = 0

    def is_now() -> bool:
        nonlocal times
        times += 1
        return times == number

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def before(original: Callable[..., Any], applies: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if applies(*args) and is_now():
                die()
            return original(*args, **named)

        return call

    def is_target(path: Path, target: Any) -> bool:
        return Path(target).name == point.name

    with ExitStack() as stack:

        def patch(holder: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(holder, name, value))

        if point.how == "file":
            for name in ("replace", "rename"):
                patch(Path, name, before(getattr(Path, name), is_target))
        elif point.how == "call":
            path, name = point.name.rsplit(".", 1)
            holder = pkgutil.resolve_name(path)
            patch(holder, name, before(getattr(holder, name)))
        else:
            recording = importlib.import_module("rlx.runs.recording")
            opened = recording.open_metrics

            def open_metrics(*args: Any) -> Any:
                file = opened(*args)
                write = file.write

                def half(text: str) -> int:
                    if is_now():
                        write(text[: len(text) // 2])
                        file.flush()
                        die()
                    return int(write(text))

                file.write = half
                return file

            patch(recording, "open_metrics", open_metrics)
        yield


class Reader:
    """Looks at all runs in a folder, again and again, from a thread."""

    def __init__(self, root: Path) -> None:
        self.root, self.looks, self.wrong = root, 0, list[str]()
        self._over, self._thread = threading.Event(), threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.05):
            try:
                self._look()
            except Exception as error:
                self.wrong.append(f"{type(error).__name__}: {error}")
            self.looks += 1

    def _look(self) -> None:
        from rlx.runs import checkpoint, folders

        for status in folders.all_runs(self.root):
            if status.state in ("unreadable", "damaged"):
                self.wrong.append(f"{status.name} is {status.state}: {status.damage}")
            policies = self.root / status.name / "checkpoints"
            if checkpoint.steps(policies):
                damage.leaves(policies)


def outcome(root: Path) -> Any:
    """What a phase left: of runs all by which they are compared, of a sweep its ranks, of a data set its arrays."""
    from rlx import data

    if (root / "set-v0").exists():
        return data.digest(data.read(root / "set-v0"))
    if (root / "sweep").exists():
        ranks = json.loads((root / "sweep" / "sweep.json").read_text())["results"]
        return ranks, [kill.result(root / "sweep" / f"chunk-{i}") for i in range(2)]
    return kill.result(root / "run")


def run_phase(name: str, root: Path, reference: Path, rng: random.Random) -> tuple[int, int, list[str]]:
    """Kills, looks, and what is wrong."""
    phase, kills = PHASES[name], 0
    places, log = {"root": root, "reference": reference}, root.parent / f"{root.name}.log"
    root.mkdir()
    with Reader(root) as reader:
        for command, point in zip(phase.commands, phase.points, strict=True):
            number = rng.randint(1, point.most)
            words = ["tests.kill_points", "--at", json.dumps([*point, number]), *command.format(**places).split()[1:]]
            code = kill.start(words, 1, log).wait(kill.TIMEOUT_S)
            if code != -signal.SIGKILL:
                return kills, reader.looks, [f"{name}: exited with {code} before {point}:\n{kill.tail(log)}"]
            kills += 1
        code = kill.start(phase.last.format(**places).split(), 1, log).wait(kill.TIMEOUT_S)
    wrong = [f"{name}: {text}" for text in reader.wrong[:3]]
    if code != 0:
        wrong.append(f"{name}: exited with {code}:\n{kill.tail(log)}")
    elif outcome(root) != outcome(reference / (name if name in ("sweep", "collect") else "train")):
        wrong.append(f"{name}: ended in another way than the reference")
    wrong += [f"{name}: left {path}" for path in root.glob(".*.partial")]
    return kills, reader.looks, wrong


def make_references(reference: Path, phases: Sequence[str]) -> None:
    """The same commands without kills."""
    for name, command in (("train", TRAIN), ("sweep", SWEEP), ("collect", COLLECT)):
        if name != "train" and name not in phases:
            continue
        (root := reference / name).mkdir(parents=True)
        words = command.format(root=root, reference=reference).split()
        assert kill.start(words, 1, reference / "log").wait(kill.TIMEOUT_S) == 0, kill.tail(reference / "log")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kill_points", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=2, help="rounds of each phase")
    parser.add_argument("--only", choices=PHASES, action="append")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        phases = args.only or list(PHASES)
        make_references(reference := Path(folder, "reference"), phases)
        for name in phases:
            kills = looks = 0
            for i in range(args.kills):
                rng = random.Random(f"{name} {args.seed} {i}")
                root = Path(folder, f"{name}-{i}")
                result = run_phase(name, root, reference, rng)
                kills, looks, failed = kills + result[0], looks + result[1], failed + result[2]
                shutil.rmtree(root)
            print(f"| {name} | {kills} | {looks:,} |", flush=True)
    print("\n".join(failed), file=sys.stderr)
    return int(bool(failed))


def _killed(words: list[str]) -> int:
    """Runs rlx in this process, which kills itself at the point of `--at`."""
    from rlx.commands.main import main as rlx

    how, name, most, number = json.loads(words[1])
    with armed(Point(how, name, most), number):
        return rlx(words[2:])


if __name__ == "__main__":
    raise SystemExit(_killed(sys.argv[1:]) if sys.argv[1:2] == ["--at"] else main())
