"""The pipelined driver: the schedule against a NumPy oracle, dispatch, and what bad splits get. Everything that runs on
several devices runs in a process of its own with a timeout."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlx.errors import RlxError
from rlx.train.autosplit import RoleTimes, choose
from rlx.train.placement import parse_split
from tests import processes

SPLITS = ("1", "1,1,1", "2,1,1", "2,2,2")
LAGS = ["policy_at_collector", "policy_at_value_learner", "value_at_policy_learner"]
LAGS += [f"statistics_at_{role}" for role in ("collector", "value_learner", "policy_learner")]
LAGS += [f"block_at_{role}" for role in ("value_learner", "policy_learner")]
ITERATIONS, WARMUP_ITERATIONS, K, CRITICS, ACTORS = 50, 3, 2, 3, 2


@pytest.fixture(scope="module")
def iterations() -> dict[str, Any]:
    """Runs of check_iteration, which itself holds parameters and replay against the oracle to a relative 1e-9."""
    return json.loads(processes.run(["tests.check_iteration", *SPLITS], devices=6).splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
def test_every_split_equals_the_oracle(iterations: dict[str, Any], split: str) -> None:
    """And repeats its bits; updates are exactly the ratio, and the lag is one in every iteration."""
    result, learned = iterations[split], ITERATIONS - WARMUP_ITERATIONS
    assert (result["iterations"], result["learned"], result["bits_repeat"]) == (ITERATIONS, learned, True)
    assert result["steps"] == [learned * K * CRITICS, learned * K * ACTORS]
    assert result["lags"] == {name: [0, ITERATIONS, 0, 0] for name in LAGS}


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
        ("1,1", 2, "three integers"),
        ("1,x,1", 3, "three integers"),
        ("1,1,1", 1, "use --split 1"),
    ],
)
def test_a_split_that_cannot_be_is_refused(split: str, devices: int, words: str) -> None:
    with pytest.raises(RlxError, match=words) as error:
        parse_split(split, devices)
    assert "\n" not in str(error.value)


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


@pytest.mark.slow
def test_parts_and_physics_on_a_split_equal_one_program_and_resume(tmp_path: Path) -> None:
    assert "equal and resumed" in processes.run(["tests.check_parts", str(tmp_path)], devices=4)
