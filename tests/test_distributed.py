"""Several processes on one machine: equal to one process, and nobody is left hanging when one dies."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import processes

TRAIN = (
    "rlx.cli train sac --env gymnax:Pendulum-v1 --num-envs 12 --warmup-env-steps 120 --batch-size 24 --ratio 2:2"
    " --actor-hidden-sizes 8 --critic-hidden-sizes 8 --eval-episodes 2 --replay-capacity 1200 --pool-size 12 --quiet"
).split()
SHORT = ["--total-env-steps", "480", "--log-every", "240", "--eval-every", "480"]
SPLIT = ["--driver", "pipelined", "--split", "1,1,1", "--num-shards", "2"]


def both(arguments: list[str], devices: int) -> list[Any]:
    """The same command in two processes that find each other on this machine."""
    port = processes.free_port()
    cluster = ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--num-processes", "2"]
    return [processes.start([*arguments, *cluster, "--process-id", str(i)], devices) for i in range(2)]


def last_line(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize(
    ("flags", "alone", "devices"),
    [
        (["--num-shards", "4"], ["--num-devices", "4"], 2),
        (SPLIT, ["--split", "2,2,2"], 3),
    ],
    ids=["fused", "pipelined"],
)
def test_two_processes_equal_one(flags: list[str], alone: list[str], devices: int, tmp_path: Path) -> None:
    arguments = [*TRAIN, *SHORT, "--run-dir", str(tmp_path), *flags]
    pair = both([*arguments, "--run-name", "two"], devices)
    for process in pair:
        code, _, errors = processes.finish(process, timeout=240)
        assert code == 0, errors[-3000:]
    processes.run([*arguments, "--run-name", "one", *alone], devices=2 * devices)
    two, one = last_line(tmp_path / "two"), last_line(tmp_path / "one")
    assert (two["env_step"], two["critic_step"], two["actor_step"]) == (480, 60, 60)
    for name in one:
        if name.startswith(("train/", "eval/")) and "busy" not in name and not name.endswith("_s"):
            np.testing.assert_allclose(two[name], one[name], rtol=2e-3, err_msg=name)
    assert (tmp_path / "two" / "summary.json").is_file()


def test_a_process_that_dies_stops_the_other(tmp_path: Path) -> None:
    arguments = [*TRAIN, "--total-env-steps", "100_000_000", "--log-every", "1200", "--eval-every", "100_000_000"]
    survivor, victim = both([*arguments, "--run-dir", str(tmp_path), "--run-name", "two"], devices=1)
    lines = tmp_path / "two" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (lines.exists() and lines.stat().st_size) and time.monotonic() < deadline and survivor.poll() is None:
        time.sleep(0.2)
    victim.send_signal(signal.SIGKILL)
    code, _, errors = processes.finish(survivor, timeout=60)
    assert code != 0
    assert "another process of this run is gone" in errors or "another task died" in errors
    victim.communicate()
