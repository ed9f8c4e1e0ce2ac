"""A bundle for a robot: it runs without rlx and jax, agrees with the agent, and notices when it does not."""

import importlib.util
import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx import envs
from rlx.export import bundle
from rlx.export import policy as export
from tests import processes, saved_runs

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


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    settings: dict[str, Any] = {"actor_hidden_sizes": [8], "critic_hidden_sizes": [8]}
    saved_runs.make_run(folder / "run", "sac", "gymnax:Pendulum-v1", **settings)
    made = export.save(folder / "run", folder / "robot", bundle=True)
    assert set(made["files"]) == {path.name for path in (folder / "robot").iterdir()} - {"policy.json"}
    return folder / "robot"


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


def test_the_contract_says_what_the_environment_describes() -> None:
    class Named:
        spec = envs.make("gymnax:Pendulum-v1").spec

        def interface(self) -> dict[str, Any]:
            return {"observation": {"units": [None, None, "rad/s"]}, "control_dt": 0.05}

    described = bundle.contract(Named())
    assert (described["observation"]["size"], described["observation"]["units"]) == (3, [None, None, "rad/s"])
    assert (described["action"]["scale"], described["control_dt"]) == (None, 0.05)
    pendulum = bundle.contract(envs.make("gymnax:Pendulum-v1"))["action"]
    assert (pendulum["scale"], pendulum["offset"], pendulum["low"]) == ([2.0], [0.0], -1.0)
    assert json.loads(json.dumps(described)) == described


@pytest.mark.slow
def test_brax_tells_its_actuators_and_its_rate() -> None:
    contract = bundle.contract(envs.make("brax:inverted_pendulum"))
    assert contract["action"]["names"] == ["slide"] and contract["control_dt"] == pytest.approx(0.02)
    assert contract["action"]["control_range"] == [[-3.0, 3.0]]
