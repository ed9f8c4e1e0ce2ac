"""Run by test_resume in a process of its own, on four devices: a run that is interrupted and resumed on others."""

import contextlib
import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rlx.analysis.diff import numbers
from rlx.commands import main as cli
from rlx.runs import metrics
from tests.programs import REUSE
from tests.test_resume import SETTINGS, at_line

SHARED = "--num-shards 4 --batch-size 16"


def interrupted(run_step: int, *arguments: str) -> int:
    with at_line(run_step, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        return cli.main([*arguments, "--quiet"])


def goes_on_upon_two(resume: list[str], changes: str) -> None:
    """For a while, on two devices, and says what has changed."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = interrupted(400, *resume, "--num-devices", "2")
    message = said.getvalue()
    assert code == 143, message
    assert f"resumed elsewhere ({changes}): results are as good, but bits may differ" in message, message


def compare(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert len(one) == len(other)
    for first, second in zip(map(numbers, one), map(numbers, other), strict=True):
        assert first.keys() == second.keys()
        for name, value in first.items():
            np.testing.assert_allclose(value, second[name], rtol=2e-3, atol=1e-4, err_msg=name)


def main() -> None:
    root = Path(sys.argv[1])
    train = ["train", "sac", *f"{SETTINGS} {SHARED} --num-devices 4 --run-dir {root}".split()]
    resume = ["train", "--resume", str(root / "moved")]
    assert cli.main([*train, "--run-name", "still"]) == 0
    assert interrupted(200, *train, "--run-name", "moved") == 143
    goes_on_upon_two(resume, "num_devices 4 is now 2")
    assert cli.main([*resume, "--num-devices", "4", "--quiet"]) == 0
    compare(*(metrics.read(root / name / "metrics.jsonl") for name in ("still", "moved")))
    assert json.loads((root / "moved" / "summary.json").read_text())["device"]["devices"] == 4
    goes_on_from_one(root)
    print("resumed on 2 and on 4")


def goes_on_from_one(root: Path) -> None:
    """Runs that were apart on one device go on vmapped on two, and apart again on one."""
    train = ["train", "sac", *f"{SETTINGS} --num-seeds 2 --spread seeds --run-dir {root}".split()]
    resume = ["train", "--resume", str(root / "spread")]
    assert cli.main([*train, "--run-name", "apart"]) == 0
    assert interrupted(200, *train, "--run-name", "spread") == 143
    goes_on_upon_two(resume, "num_devices 1 is now 2; members threads is now vmap")
    assert cli.main([*resume, "--quiet"]) == 0
    compare(*(metrics.read(root / name / "metrics.jsonl") for name in ("apart", "spread")))


if __name__ == "__main__":
    with REUSE():
        main()
