"""The long learning runs, `make learn`: what the project promises of its agents, run as a user would run it. Every run
is a process of its own; its summary.json is what counts. Wall times are printed, not asserted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import processes

pytestmark = pytest.mark.learn

PENDULUM = "--env gymnax:Pendulum-v1 --num-seeds 4 --total-env-steps"
INVERTED = "--env brax:inverted_pendulum --backend generalized"
ONE_PROGRAM, SPLIT = "--driver pipelined --split 1", "--driver pipelined --split 1,1,1"


def train(arguments: str, folder: Path, name: str, devices: int = 1) -> dict[str, Any]:
    """The summary of a run."""
    command = ["rlx", "train", *arguments.split(), "--run-dir", str(folder), "--run-name", name]
    processes.run(command, devices, timeout=1800, long=True)
    summary = json.loads((folder / name / "summary.json").read_text())
    print(f"\n{arguments}: {summary['eval_return_per_seed']} in {summary['wall_time_s']} s")
    return summary


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sac_walks(seed: int, tmp_path: Path) -> None:
    assert train(f"sac --env brax:ant --seed {seed}", tmp_path, "ant")["eval_return_mean"] >= 2000


@pytest.mark.parametrize(
    ("agent", "steps"), [("sac", 20_000), ("tqc", 20_000), ("ppo", 200_000), ("lpo", 200_000), ("spo", 200_000)]
)
def test_pendulum_on_every_seed(agent: str, steps: int, tmp_path: Path) -> None:
    assert min(train(f"{agent} {PENDULUM} {steps}", tmp_path, "pendulum")["eval_return_per_seed"]) >= -200


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("agent", ["sac", "tqc"])
def test_inverted_pendulum_on_every_seed(agent: str, seed: int, tmp_path: Path) -> None:
    assert train(f"{agent} {INVERTED} --seed {seed}", tmp_path, "inverted")["eval_return_mean"] >= 1000


def test_mountain_car_leaves_the_valley_on_every_seed(tmp_path: Path) -> None:
    run = train("sac --env gymnax:MountainCarContinuous-v0 --num-seeds 4", tmp_path, "mountain")
    assert min(run["eval_return_per_seed"]) >= 90


@pytest.mark.parametrize(
    ("task", "worth"), [("halfcheetah", 2000), ("walker2d", 1500), ("hopper", 1500), ("humanoid", 2000)]
)
def test_bodies_run(task: str, worth: float, tmp_path: Path) -> None:
    assert train(f"sac --env brax:{task}", tmp_path, task)["eval_return_mean"] >= worth


@pytest.mark.parametrize("agent", ["dqn", "sac_discrete", "pqn", "ppo"])
def test_cartpole_on_every_seed(agent: str, tmp_path: Path) -> None:
    run = train(f"{agent} --env gymnax:CartPole-v1 --num-seeds 4", tmp_path, "cartpole")
    assert min(run["eval_return_per_seed"]) >= 475


@pytest.fixture(scope="module")
def medium_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes of a policy on the way to swinging the pendulum up, whose greedy actions return about -640."""
    folder = tmp_path_factory.mktemp("medium")
    train("sac --env gymnax:Pendulum-v1 --eval-every 400", folder, "teacher")
    flags = ["--kind", "medium", "--num-transitions", "20000", "--out", str(folder / "data")]
    processes.run(["rlx", "collect", str(folder / "teacher"), *flags], 1, timeout=600, long=True)
    return folder / "data"


SCALED = "--gamma 0.97 --reward-scale 0.1"
FAST = "--actor-lr 1e-3 --critic-lr 1e-3 --tau 0.02 --flow-steps 5 --distillation-weight 1"


@pytest.mark.parametrize(
    ("agent", "flags"),
    [
        ("td3_bc", "--offline-steps 20000"),
        ("iql", f"--offline-steps 20000 {SCALED}"),
        ("fql", f"--offline-steps 6000 {SCALED} {FAST}"),
    ],
)
def test_offline_agents_are_better_than_the_policy_of_their_data(
    agent: str, flags: str, medium_data: Path, tmp_path: Path
) -> None:
    run = train(f"{agent} --dataset {medium_data} --preset small {flags}", tmp_path, agent)
    assert run["eval_return_mean"] >= -450


@pytest.mark.parametrize("flags", ["", "--distributional"], ids=["pql", "pql-d"])
@pytest.mark.parametrize(
    ("task", "worth"), [(f"{INVERTED} --num-envs 256", 1000), ("--env brax:ant", 2000)], ids=["inverted", "ant"]
)
def test_pql_in_one_program_and_over_three_devices(task: str, worth: float, flags: str, tmp_path: Path) -> None:
    one = train(f"pql {task} {flags} {ONE_PROGRAM}", tmp_path, "one")
    split = train(f"pql {task} {flags} {SPLIT}", tmp_path, "split", devices=3)
    assert min(one["eval_return_mean"], split["eval_return_mean"]) >= worth
    lines = [[json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()] for name in ("one", "split")]
    losses = [[line["train/critic_loss"][0] for line in run if "train/critic_loss" in line] for run in lines]
    # the same randomness and the same schedule: the curves part only as rounding grows
    np.testing.assert_allclose(losses[0][:2], losses[1][:2], rtol=1e-2)
