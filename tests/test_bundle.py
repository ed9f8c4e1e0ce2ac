"""A bundle for a robot: it runs without rlx and jax, agrees with the agent, and notices when it does not."""

import importlib.util
import json
import runpy
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx import envs
from rlx.envs import wrappers
from rlx.errors import RlxError
from rlx.export import bundle
from rlx.export import policy as export
from tests import processes, saved_runs
from tests.drift import Drift

ALONE = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jax", "rlx", "flax", "onnx"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def make_bundle(folder: Path, *wrappers: str) -> Path:
    settings: dict[str, Any] = {"actor_hidden_sizes": [8], "critic_hidden_sizes": [8], "wrappers": wrappers}
    saved_runs.make_run(folder / "run", "sac", "gymnax:Pendulum-v1", **settings)
    made = export.save(folder / "run", folder / "robot", bundle=True)
    assert set(made["files"]) == {path.name for path in (folder / "robot").iterdir()} - {"policy.json"}
    return folder / "robot"


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


def test_the_runner_needs_numpy_alone_and_notices_another_policy(robot: Path, tmp_path: Path) -> None:
    command = ("-I", "-c", ALONE)
    passed = processes.python(*command, robot / "run_policy.py")
    assert passed.returncode == 0 and passed.stdout.startswith("numpy:"), passed.stderr
    changed = shutil.copytree(robot, tmp_path / "changed")
    with np.load(robot / "policy.npz") as stored:
        arrays = dict(stored)
    arrays["1.1"] = arrays["1.1"] + 0.1  # the first layer's bias
    np.savez(changed / "policy.npz", **arrays)
    assert processes.python(*command, changed / "run_policy.py").returncode == 1
    for name, words in (("jax", "package jax is missing"), ("tensorrt", "no file for the backend tensorrt")):
        said = processes.python(*command, robot / "run_policy.py", name)
        assert said.returncode == 2 and words in said.stderr and "numpy" in said.stderr and said.stderr.count("\n") == 1


def test_every_backend_gives_the_policys_actions(robot: Path) -> None:
    runner, expected = runpy.run_path(str(robot / "run_policy.py"))["Policy"], export.load(robot)
    with np.load(robot / "examples.npz") as examples:
        observations, actions = examples["observation"], examples["action"]
    assert observations.shape == (bundle.ROWS, 3) and actions.shape == (bundle.ROWS, 1)
    assert np.ptp(actions) > 0.1
    backends = ["numpy", "jax"] + (["onnx"] if importlib.util.find_spec("onnxruntime") else [])
    for name in backends:
        policy = runner(name)
        np.testing.assert_allclose(policy(observations), actions, atol=1e-4)
        np.testing.assert_allclose(policy(observations[0]), expected(observations[0]), atol=1e-5)
        np.testing.assert_allclose(policy.command(observations[0]), 2 * policy(observations[0]))  # Nm
    for wrong in (observations[:, :2], np.full(3, np.nan)):
        with pytest.raises(ValueError, match="3 finite numbers"):
            runner()(wrong)


def test_the_runner_stacks_single_observations(tmp_path: Path) -> None:
    """By hand for three of three numbers and the time's share; its check notices another order."""
    robot = make_bundle(tmp_path, "history:3", "time_observation")
    loaded = runpy.run_path(str(robot / "run_policy.py"))
    policy, rows = loaded["Policy"]("numpy"), np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    for _ in range(2):
        for t, row in enumerate(rows):
            expected = policy(np.concatenate([*(rows[max(t - lag, 0)] for lag in (2, 1, 0)), [t / 200]]))
            np.testing.assert_array_equal(policy.step(row), expected)
        policy.reset()
    assert loaded["check"](policy)[0] < 1e-4
    policy.contract["observation"]["lags"].reverse()
    assert loaded["check"](policy)[0] > 1e-3
    with pytest.raises(ValueError, match="3 numbers"):
        policy.step(np.zeros(10))


def test_what_a_robot_cannot_observe_is_refused() -> None:
    make, act = partial(envs.make, "gymnax:Pendulum-v1"), lambda seen: seen[:1]
    with pytest.raises(RlxError, match="put action_repeat before history"):
        bundle.contract(make(wrappers=["history:2", "action_repeat:2"]))
    with pytest.raises(RlxError, match="name history after other"):
        bundle.example_episode(make(wrappers=["history:2", "observation_noise:0.1"]), act)
    for fine in ([], ["action_repeat:2"], ["observation_noise:0.1"]):
        assert bundle.example_episode(make(wrappers=fine), act) == {}
    assert len(bundle.example_episode(make(wrappers=["action_repeat:2", "history:2"]), act)) == 2


def test_the_contract_says_what_the_environment_describes() -> None:
    class Named(Drift):
        spec = envs.make("gymnax:Pendulum-v1").spec

        def interface(self) -> dict[str, Any]:
            return {"observation": {"units": [None, None, "rad/s"]}, "control_dt": 0.05}

    described = bundle.contract(Named())
    assert (described["observation"]["size"], described["observation"]["units"]) == (3, [None, None, "rad/s"])
    assert (described["action"]["scale"], described["control_dt"]) == (None, 0.05)
    stacked = bundle.contract(wrappers.history(Named(), 2))["observation"]
    assert (stacked["single_size"], stacked["units"]) == (3, [None, None, "rad/s"])
    assert (stacked["columns"], stacked["lags"]) == ([0, 1, 2] * 2, [1] * 3 + [0] * 3)
    pendulum = bundle.contract(envs.make("gymnax:Pendulum-v1"))["action"]
    assert (pendulum["scale"], pendulum["offset"], pendulum["low"]) == ([2.0], [0.0], -1.0)
    assert json.loads(json.dumps(described)) == described


@pytest.mark.slow
def test_brax_tells_its_actuators_and_its_rate() -> None:
    contract = bundle.contract(envs.make("brax:inverted_pendulum"))
    assert contract["action"]["names"] == ["slide"] and contract["control_dt"] == pytest.approx(0.02)
    assert contract["action"]["control_range"] == [[-3.0, 3.0]]
