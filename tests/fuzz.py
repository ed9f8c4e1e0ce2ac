"""Runs random command lines, and commands on damaged files: none may end in a traceback, a hang or a page of messages.

`make fuzz ARGS="--only runs --cases 2000 --seed 0"`; the line of a finding says how to repeat it. Commands run in this
process and stop where training or evaluation would compile.
"""

import argparse
import contextlib
import faulthandler
import importlib
import io
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from rlx.commands.main import main as rlx
from rlx.errors import RlxError
from tests.fuzz_cases import CASES, UNUSED, make_templates

SECONDS, GIB, STDERR_LINES = 300, 2**30, 6  # so long, since other processes may have the processor
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # a disk takes longer than the commands
FOUND = 3  # exit code of a worker with findings
EARLY = 0.8  # of the cases end before tracing
STOPS = {  # where a command would begin to compile
    "rlx.runs.recording": ("run",),
    "rlx.runs.policies": ("say_compiling",),
    "rlx.runs.collect_dataset": ("say_compiling",),
    "rlx.analysis.play": ("say_compiling",),
    "rlx.export.policy": ("export_function",),
    "jax.distributed": ("initialize",),
}


class Compiles(BaseException):
    """In place of compiling: the case passed every check."""


class Hangs(BaseException):
    """The case took too long."""


@contextlib.contextmanager
def stopped(early: bool) -> Iterator[None]:
    """Nothing is compiled and no other machine is asked; `early` also ends before a second of tracing."""
    with contextlib.ExitStack() as stack:
        if early:
            stack.enter_context(mock.patch("rlx.build._make_driver", side_effect=Compiles))
        for module, names in STOPS.items():
            for name in names:
                stack.enter_context(mock.patch.object(importlib.import_module(module), name, side_effect=Compiles))
        stack.enter_context(mock.patch("rlx.train.memory.check"))  # seconds of tracing; tests/test_memory.py has it
        stack.enter_context(mock.patch("socket.getaddrinfo", side_effect=OSError("not known")))
        stack.enter_context(mock.patch.dict(os.environ))
        yield


def run_case(kind: str, number: int, seed: int, templates: Path, verbose: bool = False) -> str:
    """What is wrong with a case, in a line; empty for nothing."""
    rng = random.Random(f"{kind} {seed} {number}")
    code: Any = 0
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    with tempfile.TemporaryDirectory(dir=MEMORY) as root:
        place = Path(root, "case")
        shutil.copytree(templates, place, symlinks=True, ignore=lambda _, names: UNUSED[kind] & set(names))
        os.mkfifo(place / "pipe")
        (place / "locked").mkdir(mode=0)
        with contextlib.chdir(place):
            words, early = CASES[kind](rng), rng.random() < EARLY
            before = signal.signal(signal.SIGALRM, _hang)
            signal.alarm(SECONDS)
            wrong = ""
            try:
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), stopped(early):
                    code = rlx(words) if isinstance(words, list) else 0 * bool(words())
            except (Compiles, SystemExit, RlxError) as end:
                code = (end.code or 0) if isinstance(end, SystemExit) else 0
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                frames = traceback.extract_tb(error.__traceback__)
                last = [frame for frame in frames if frame.filename != __file__ or frame is frames[0]][-1]
                wrong = f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
                if verbose:
                    traceback.print_exc()
            finally:
                signal.alarm(0)
                signal.signal(signal.SIGALRM, before)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    if verbose:
        print(words, code, *texts, sep="\n")
    if not wrong and code not in (0, 1, 2, 130):
        wrong = f"exit code {code}"
    if not wrong and texts[1].count("\n") > STDERR_LINES:
        wrong = f"{texts[1].count(chr(10))} lines on the error stream"
    if not wrong and (match := re.search(r"[\x00-\x08\x0b-\x1f\x7f]", "".join(texts))):
        wrong = f"{match[0]!r} reaches the terminal"
    if not wrong:
        return ""
    shown = " ".join(words)[:150] if isinstance(words, list) else "rlx.export.policy.load"
    repeat = f"python -m tests.fuzz --only {kind} --seed {seed} --case {number}"
    return f"{repeat}: {shown!r}: {wrong[:300]!r}"


def _hang(*_: Any) -> None:
    raise Hangs(f"took over {SECONDS} s")


def run_cases(kind: str, numbers: range, seed: int, templates: Path, at: Path | None = None) -> list[str]:
    """The findings of some cases; a file `at` says which of them runs now."""
    findings = []
    for number in numbers:
        if at is not None:
            at.write_text(str(number))
        if wrong := run_case(kind, number, seed, templates):
            findings.append(wrong)
            print(wrong, flush=True)
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=CASES, action="append", help="kinds of cases (default: all)")
    parser.add_argument("--cases", type=int, default=2000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="repeat this one, with its output and traceback")
    parser.add_argument("--worker", nargs=2, metavar=("FIRST", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        first, folder = int(args.worker[0]), Path(args.worker[1])
        resource.setrlimit(resource.RLIMIT_DATA, (16 * GIB, 16 * GIB))
        faulthandler.enable()
        numbers = range(first, args.cases)
        findings = run_cases(args.only[0], numbers, args.seed, folder / "templates", folder / "at")
        return FOUND * bool(findings)
    with tempfile.TemporaryDirectory(dir=MEMORY) as root:
        make_templates(Path(root, "templates"))
        if args.case is not None:
            return bool(run_case(args.only[0], args.case, args.seed, Path(root, "templates"), verbose=True))
        return max(_in_worker(kind, args.cases, args.seed, Path(root)) for kind in args.only or CASES)


def _in_worker(kind: str, cases: int, seed: int, root: Path) -> int:
    """Runs the cases in a process of their own, which goes on after a case that ends it."""
    first, failed = 0, 0
    while first < cases:
        words = ["--only", kind, "--cases", str(cases), "--seed", str(seed), "--worker", str(first), str(root)]
        code = subprocess.run([sys.executable, "-m", "tests.fuzz", *words], check=False).returncode
        failed |= code != 0
        if code in (0, FOUND):
            break
        first = int((root / "at").read_text()) + 1
        repeat = f"python -m tests.fuzz --only {kind} --seed {seed} --case {first - 1}"
        print(f"{repeat}: ends the process with {code}", flush=True)
    print(f"{kind}: {cases} cases", flush=True)
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
