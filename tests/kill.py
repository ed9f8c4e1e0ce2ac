"""Kills runs at random moments and resumes them: `python -m tests.kill --agent sac --driver fused --kills 50`.

An uninterrupted run first; then runs that are killed (SIGKILL or SIGTERM, by a coin) while they start, compile, train,
evaluate or save, and resumed, until there were enough kills. Each must end with the same digest of all state, the same
policies and the same metrics. Then every file of a checkpoint is damaged in every way, and must be found.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from tests import conftest as conftest  # sets what must stand before jax starts
from tests import processes
from tests.damage import damages
from tests.kill_cases import CASES, Case, find_case, prepare
from tests.kill_table import Found, table, write_table

TIMEOUT_S = 900.0  # so long, since other processes may have the processor
AGAIN = 0.75  # how often a resumed run is killed again
COLD = 0.1  # how often a process finds no compiled programs
POLL_S = 0.001


class Moment(NamedTuple):
    """When a process is killed."""

    phase: str  # start: `delay` seconds after its start; train: after line `lines` of metrics; save: in a save after it
    lines: int
    delay: float


def start(arguments: Sequence[str], devices: int, log: Path, cache: Path | None = None) -> subprocess.Popen[bytes]:
    """`python -m ARGUMENTS`, all that it says in a file: nobody reads a pipe while it is watched."""
    environ = processes.environment(devices) | ({"JAX_COMPILATION_CACHE_DIR": str(cache)} if cache else {})
    with log.open("ab") as said:
        command = [sys.executable, "-m", *arguments]
        return subprocess.Popen(command, cwd=processes.ROOT, env=environ, stdout=said, stderr=said)


def count_lines(folder: Path) -> int:
    try:
        return (folder / "metrics.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def is_saving(folder: Path) -> bool:
    """Whether a checkpoint is being written, or removed."""
    for place in (folder / "resume", folder / "checkpoints"):
        with contextlib.suppress(OSError):
            if any(name.startswith("writing-") for name in os.listdir(place)):
                return True
    return False


def wait_for(moment: Moment, folder: Path, process: subprocess.Popen[bytes]) -> bool:
    """Waits; False if the process ended first."""
    deadline = time.monotonic() + TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        reached = moment.phase == "start" or count_lines(folder) >= moment.lines
        if reached and (moment.phase != "save" or is_saving(folder)):
            try:
                process.wait(moment.delay)
                return False
            except subprocess.TimeoutExpired:
                return True
        time.sleep(POLL_S)
    return False


def result(folder: Path) -> dict[str, Any]:
    """All by which two runs are compared."""
    from rlx.analysis.diff import numbers

    steps = {path.parent.name: json.loads(path.read_text().partition("\n")[2])["digest"] for path in policies(folder)}
    lines = [numbers(json.loads(text)) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return {"digest": json.loads((folder / "summary.json").read_text())["digest"], "policies": steps, "metrics": lines}


def policies(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "checkpoints").glob("*/manifest.json") if path.parent.name.isdecimal())


def saved_step(folder: Path) -> int:
    """The newest finished step of everything."""
    steps = [path.parent.name for path in (folder / "resume").glob("*/manifest.json")]
    return max((int(name) for name in steps if name.isdecimal()), default=0)


class Torture:
    """Kills runs of one case until there were `kills` kills."""

    def __init__(self, case: Case, root: Path, kills: int, seed: int, cold: float) -> None:
        self.case, self.root, self.kills, self.seed, self.cold = case, root, kills, seed, cold
        self.found = Found(case.agent, case.driver, case.devices)
        self.arguments = prepare(case, root)
        self.lock, self.planned, self.begun = threading.Lock(), 0, 0
        self.startup_s = 0.0  # until the first line of metrics

    def run_reference(self) -> None:
        """The uninterrupted run."""
        folder, begun = self.root / "reference", time.monotonic()
        process = start([*self.arguments, "--run-name", folder.name], self.case.devices, self.root / "reference.log")
        wait_for(Moment("train", 1, 0.0), folder, process)
        self.startup_s = time.monotonic() - begun
        if process.wait(TIMEOUT_S):
            raise SystemExit(f"the uninterrupted run failed:\n{tail(self.root / 'reference.log')}")
        self.reference = result(folder)
        self.lines = self.found.iterations_lines = len(self.reference["metrics"])
        self._note_end(folder)

    def work(self) -> None:
        """One worker: run after run."""
        while (number := self._next_run()) is not None:
            self.run_one(number)

    def _next_run(self) -> int | None:
        with self.lock:
            if self.planned >= self.kills:
                return None
            self.begun += 1
            return self.begun

    def run_one(self, number: int) -> None:
        """One run from its start over its kills to its end."""
        rng, folder = random.Random(f"{self.seed} {number}"), self.root / f"run-{number}"
        log, kills = self.root / f"run-{number}.log", 0
        while True:
            resumed = (folder / "config.json").exists()
            fresh = [*self.arguments, "--run-name", folder.name, "--overwrite"]
            arguments = ["rlx", "train", "--resume", str(folder), "--quiet"] if resumed else fresh
            moment = self._plan(rng, folder, first=kills == 0)
            with tempfile.TemporaryDirectory(dir=self.root) as cold:
                process = start(arguments, self.case.devices, log, Path(cold) if rng.random() < self.cold else None)
                try:
                    killed = moment is not None and self._kill(moment, rng, folder, process)
                    code = process.wait(TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    self._differs(f"run {number} hung", log)
                    return
            kills += killed
            if code == 0:
                break
            if not (killed and code in (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM)):
                self._differs(f"run {number} exited with {code}", log)
                return
        self._compare(number, folder, kills)

    def _plan(self, rng: random.Random, folder: Path, first: bool) -> Moment | None:
        if not (first or rng.random() < AGAIN):
            return None
        with self.lock:
            if self.planned >= self.kills:
                return None
            self.planned += 1
        reported = count_lines(folder)
        phase = rng.choices(("start", "train", "save"), (2, 4, 4))[0]
        if phase == "start" or reported + 1 >= self.lines:
            return Moment("start", 0, rng.uniform(0, 1.2 * self.startup_s))
        return Moment(
            phase, rng.randint(reported + 1, self.lines - 1), rng.uniform(0, 0.05 if phase == "save" else 0.3)
        )

    def _kill(self, moment: Moment, rng: random.Random, folder: Path, process: subprocess.Popen[bytes]) -> bool:
        number = rng.choice((signal.SIGKILL, signal.SIGTERM))
        if not wait_for(moment, folder, process):
            with self.lock:
                self.planned -= 1  # it had ended: no kill
            return False
        begun = time.monotonic()
        process.send_signal(number)
        code = process.wait(TIMEOUT_S)
        with self.lock:
            name = f"{number.name} {moment.phase}"
            self.found.kills[name] = self.found.kills.get(name, 0) + 1
            self.found.cut_saves += is_saving(folder)
            if number == signal.SIGTERM and code in (0, 128 + signal.SIGTERM):
                self.found.exit_s.append(time.monotonic() - begun)
            if number == signal.SIGKILL and (folder / "metrics.jsonl").exists():
                self.found.lost_steps.append(max(0, last_step(folder) - saved_step(folder)))
        return True

    def _compare(self, number: int, folder: Path, kills: int) -> None:
        outcome = result(folder)
        different = [name for name in outcome if outcome[name] != self.reference[name]]
        for name in different:
            self._differs(f"run {number}, killed {kills} times: {name} is not the reference's", None)
        with self.lock:
            self.found.runs += 1
            self.found.identical += 0 if different else kills
        self._note_end(folder)
        if not different:
            shutil.rmtree(folder)

    def _note_end(self, folder: Path) -> None:
        summary = json.loads((folder / "summary.json").read_text())
        with self.lock:
            if summary.get("restore_s") is not None:
                self.found.restore_s.append(summary["restore_s"])
            if summary["saves"]:
                self.found.blocked_s.append(summary["save_blocked_s"] / summary["saves"])

    def _differs(self, text: str, log: Path | None) -> None:
        with self.lock:
            self.found.differences.append(text)
        print(text + (f":\n{tail(log)}" if log else ""), file=sys.stderr, flush=True)


def last_step(folder: Path) -> int:
    """The last run_step that metrics.jsonl tells of."""
    for text in reversed((folder / "metrics.jsonl").read_text().splitlines()):
        with contextlib.suppress(ValueError):  # a line that was not finished
            return int(json.loads(text)["run_step"])
    return 0


def damage(root: Path, results: Found, seed: int) -> None:
    """Hurts every file of the reference's newest checkpoint in every way: the step before is to be used."""
    from rlx.runs import checkpoint

    checkpoints = root / "reference" / "resume"
    before, last = checkpoint.steps(checkpoints)[-2:]
    for name, hurt in damages(checkpoints / str(last), random.Random(seed)):
        copy = shutil.copytree(checkpoints, root / "damaged")
        hurt(copy / str(last) / name)
        said: list[str] = []
        results.damages += 1
        results.damages_found += checkpoint.newest(copy, said.append) == before and len(said) == 1
        shutil.rmtree(copy)


def tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-15:])


def torture(case: Case, root: Path, kills: int, seed: int = 0, workers: int = 1, cold: float = COLD) -> Found:
    """Kills runs of a case in `root`; returns what was found out."""
    begun, job = time.monotonic(), Torture(case, root, kills, seed, cold)
    job.run_reference()
    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(job.work) for _ in range(workers)]:
            future.result()
    job.found.seconds = time.monotonic() - begun
    return job.found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--agent", choices=[case.agent for case in CASES])
    parser.add_argument("--driver", choices=[case.driver for case in CASES])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write what was found there, too")
    parser.add_argument("--table", type=Path, metavar="PAGE", help="kill nothing; put the results FILES into PAGE")
    parser.add_argument("files", nargs="*", type=Path, help="what --json wrote")
    args = parser.parse_args()
    if args.table:
        write_table(args.table, [Found(**json.loads(path.read_text())) for path in args.files])
        return 0
    with tempfile.TemporaryDirectory() as root:
        results = torture(find_case(args.agent, args.driver), Path(root), args.kills, args.seed, args.workers)
        damage(Path(root), results, args.seed)
    print(table([results]))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(asdict(results), indent=1) + "\n")
    return 0 if results.fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
