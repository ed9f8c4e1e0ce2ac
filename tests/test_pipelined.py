"""The pipelined driver: the schedule against a NumPy oracle, dispatch, and what bad splits get.

Everything that runs on several devices runs in a process of its own with a timeout.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from rlx.commands.main import main
from rlx.errors import RlxError
from rlx.train.autosplit import RoleTimes, choose
from rlx.train.plan import parse_split
from tests import processes

SPLITS = ("1", "1,1,1", "2,1,1", "2,2,2")
ITERATIONS, WARMUP_ITERATIONS, K, CRITICS, ACTORS = 50, 3, 2, 3, 2


@pytest.fixture(scope="module")
def iterations() -> dict[str, Any]:
    """Runs of check_iteration, which itself holds parameters and replay against the oracle to a relative 1e-9."""
    return json.loads(processes.run(["tests.check_iteration", *SPLITS], devices=6).splitlines()[-1])


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_equals_the_oracle_and_repeats_its_bits(iterations: dict[str, Any], split: str) -> None:
    assert iterations[split]["iterations"] == ITERATIONS
    assert iterations[split]["bits_repeat"]


@pytest.mark.parametrize("split", SPLITS)
def test_updates_are_exactly_the_ratio(iterations: dict[str, Any], split: str) -> None:
    learned = ITERATIONS - WARMUP_ITERATIONS
    assert iterations[split]["learned"] == learned
    assert iterations[split]["steps"] == [learned * K * CRITICS, learned * K * ACTORS]


@pytest.mark.parametrize("split", SPLITS)
def test_lag_is_one_on_every_iteration(iterations: dict[str, Any], split: str) -> None:
    assert set(iterations[split]["lags"]) == {
        "policy_at_collector",
        "statistics_at_collector",
        "statistics_at_value_learner",
        "statistics_at_policy_learner",
        "policy_at_value_learner",
        "block_at_value_learner",
        "value_at_policy_learner",
        "block_at_policy_learner",
    }
    assert all(histogram == [0, ITERATIONS, 0, 0] for histogram in iterations[split]["lags"].values())


@pytest.mark.slow
def test_dispatch_returns_while_all_roles_are_at_work() -> None:
    seen = json.loads(processes.run(["tests.check_dispatch"], devices=3).splitlines()[-1])
    assert seen["at_work"] == [True, True, True]
    assert seen["dispatch_s"] < 0.5 * seen["work_s"]


@pytest.mark.parametrize(
    ("split", "devices", "words"),
    [
        ("2,1,1", 3, "adds up to 4 devices but there are 3"),
        ("0,2,1", 3, "every role needs a device"),
        ("1,1", 2, "three whole numbers"),
        ("1,x,1", 3, "three whole numbers"),
        ("1,1,1", 1, "use --split 1"),
    ],
)
def test_a_split_that_cannot_be_is_refused(split: str, devices: int, words: str) -> None:
    with pytest.raises(RlxError, match=words) as error:
        parse_split(split, devices)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--split", "2,1,1"], "--split 2,1,1"),
        (["--ratio", "8:1.5"], "--ratio 8:1.5"),
        (["--ratio", "8"], "--ratio 8"),
        (["--depth", "9"], "--depth 9"),
        (["--num-shards", "3"], "--num-envs"),
        (["--num-shards", "2", "--batch-size", "33"], "--batch-size 33"),
    ],
)
def test_bad_flags_of_the_pipeline_are_one_line(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    common = [
        "train",
        "sac",
        "--env",
        "gymnax:Pendulum-v1",
        "--driver",
        "pipelined",
        "--run-dir",
        str(tmp_path / "runs"),
    ]
    assert main([*common, *flags]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("times", "devices", "split"),
    [
        ((1.0, 1.0, 1.0), 3, (1, 1, 1)),
        ((1.0, 4.0, 1.0), 6, (1, 4, 1)),
        ((3.0, 3.0, 1.5), 5, (2, 2, 1)),
        ((9.0, 1.0, 1.0), 8, (6, 1, 1)),
    ],
)
def test_auto_gives_devices_to_the_slow_roles(times: tuple[float, ...], devices: int, split: tuple[int, ...]) -> None:
    assert choose(RoleTimes(*times), devices, lambda split: True) == split


def test_auto_takes_only_splits_that_divide() -> None:
    even = [(1, 2, 1), (2, 1, 1)]
    assert choose(RoleTimes(1.0, 1.5, 1.0), 4, lambda split: split in even) == (1, 2, 1)
    with pytest.raises(RlxError, match="--split auto"):
        choose(RoleTimes(1.0, 1.0, 1.0), 4, lambda split: False)


def test_auto_on_one_device_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    flags = ["--driver", "pipelined", "--split", "auto", "--run-dir", str(tmp_path / "runs")]
    assert main(["train", "sac", "--env", "gymnax:Pendulum-v1", *flags]) == 2
    assert "needs 3 devices" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
