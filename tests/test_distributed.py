"""Several processes on one machine: equal to one process, and nobody is left hanging when one dies."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx import parallel
from rlx.errors import RlxError
from rlx.runs import checkpoint, metrics
from tests import kill, processes

TRAIN = (
    "rlx train sac --env gymnax:Pendulum-v1 --num-envs 12 --warmup-env-steps 120 --batch-size 24 --ratio 2:2"
    " --actor-hidden-sizes 8 --critic-hidden-sizes 8 --eval-episodes 2 --replay-capacity 1200 --pool-size 12 --quiet"
).split()
SHORT = ["--total-env-steps", "480", "--log-every", "240", "--eval-every", "480"]
SPLIT = ["--driver", "pipelined", "--split", "1,1,1", "--num-shards", "2"]


def both(arguments: list[str], devices: int) -> list[Any]:
    """The same command in two processes that find each other on this machine."""
    port = processes.free_port()
    cluster = ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--num-processes", "2"]
    return [processes.start([*arguments, *cluster, "--process-id", str(i)], devices) for i in range(2)]


def wait_for_lines(folder: Path, count: int, process: Any) -> None:
    """Until the run has written so many lines of metrics, or ends."""
    deadline = time.monotonic() + 240
    while kill.count_lines(folder) < count and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)


def line_480(folder: Path) -> dict[str, Any]:
    """What the run reported at step 480, where rounding has not grown yet."""
    return next(line for line in metrics.read(folder / "metrics.jsonl") if line["run_step"] == 480)


LONG = "--total-env-steps 2400 --log-every 240 --eval-every 480 --checkpoint-every 240 --num-shards 2".split()


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave that nothing stops."""
    folder = tmp_path_factory.mktemp("still") / "two"
    where = ["--run-dir", str(folder.parent), "--run-name", folder.name]
    finish_both(both([*TRAIN, *LONG, *where], devices=1), code=0)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "alone", "devices"), [(LONG, ["--num-devices", "2"], 1), ([*SHORT, *SPLIT], ["--split", "2,2,2"], 3)]
)
def test_two_processes_equal_one(flags: list[str], alone: list[str], devices: int, still: Path, tmp_path: Path) -> None:
    folder = still
    if devices > 1:
        folder = tmp_path / "two"
        finish_both(both([*TRAIN, *flags, "--run-dir", str(tmp_path), "--run-name", "two"], devices), code=0)
    where = ["--run-dir", str(tmp_path), "--run-name", "one"]
    processes.run([*TRAIN, *flags, *where, *alone], devices=2 * devices)
    two, one = (line_480(run) for run in (folder, tmp_path / "one"))
    assert (two["env_step"], two["critic_step"], two["actor_step"]) == (480, 60, 60)
    for name in one:
        if name.startswith(("train/", "eval/")) and "busy" not in name and not name.endswith("_s"):
            np.testing.assert_allclose(two[name], one[name], rtol=2e-3, err_msg=name)
    assert (folder / "summary.json").is_file()


@pytest.mark.slow
def test_a_process_that_dies_stops_the_other(tmp_path: Path) -> None:
    arguments = [*TRAIN, "--total-env-steps", "100_000_000", "--log-every", "1200", "--eval-every", "100_000_000"]
    survivor, victim = both([*arguments, "--run-dir", str(tmp_path), "--run-name", "two"], devices=1)
    wait_for_lines(tmp_path / "two", 1, survivor)
    victim.send_signal(signal.SIGKILL)
    code, _, errors = processes.finish(survivor, timeout=60)
    assert code != 0
    assert "another process of this run has ended" in errors or "another task died" in errors
    victim.communicate()


@pytest.mark.parametrize("address", ["nowhere", ":1", "host:", "host:0", "host:65536", "host:http", "no host:1"])
def test_an_address_that_cannot_be_is_refused(address: str) -> None:
    with pytest.raises(RlxError, match=f"^--coordinator {address}: "):
        parallel.join_cluster(address, 2, 1)


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_processes_that_do_not_meet_end_in_one_line(index: int) -> None:
    """Process 0 waits for another in vain, and process 1 for an address where nobody listens."""
    call = f"cluster.join_cluster('127.0.0.1:{processes.free_port()}', 2, {index})"
    program = f"from rlx.parallel import cluster; cluster.JOIN_S = 2; {call}"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=processes.ROOT, capture_output=True, text=True, timeout=90)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("rlx: ")]
    assert done.returncode == 2 and "did not find each other" in line and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_missing_platform_is_one_line(platform: str, tmp_path: Path) -> None:
    environ = processes.environment(1) | {"JAX_PLATFORMS": platform}
    command = [sys.executable, "-m", *TRAIN, *SHORT, "--run-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=processes.ROOT, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"rlx: JAX_PLATFORMS={platform}: " in done.stderr


@pytest.mark.slow
def test_two_processes_save_at_the_same_step_and_resume(still: Path, tmp_path: Path) -> None:
    """One of them gets SIGTERM: both save, each its own part, and go on to the bits of an uninterrupted pair."""
    arguments = [*TRAIN, *LONG, "--run-dir", str(tmp_path)]
    folder = tmp_path / "stopped"
    pair = both([*arguments, "--run-name", folder.name], devices=1)
    wait_for_lines(folder, 2, pair[0])
    pair[1].send_signal(signal.SIGTERM)
    for errors in finish_both(pair, code=143):
        assert f"go on with `rlx train --resume {folder}`" in errors
    steps = [checkpoint.steps(folder / "resume" / f"process-{i}")[-1] for i in range(2)]
    assert steps[0] == steps[1] < 2400
    finish_both(both(["rlx", "train", "--resume", str(folder), "--quiet"], devices=1), code=0)
    assert kill.result(folder) == kill.result(still)
    last = [checkpoint.manifest(run / "resume" / "process-1", 2400)["digest"] for run in (still, folder)]
    assert last[0] == last[1]


def finish_both(pair: list[Any], code: int) -> list[str]:
    """What two processes say that have to end with `code`."""
    ended = [processes.finish(process, timeout=300) for process in pair]
    assert [each[0] for each in ended] == [code] * 2, "\n".join(each[2][-2000:] for each in ended)
    return [each[2] for each in ended]
