"""What `rlx export` writes: a policy whose actions are the agent's, with jax alone, with NumPy alone and as ONNX."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx.reference
import pytest

from rlx import networks
from rlx.errors import install
from rlx.export import mlp
from rlx.export import policy as export
from rlx.runs import checkpoint, policies
from rlx.train.loop import Driver
from rlx.types import Spec
from tests import saved_runs
from tests.commands import Capture, MonkeyPatch, one_line

pytestmark = pytest.mark.usefixtures("reuse_programs")

REACHER, PENDULUM = "gymnax:Reacher-misc", "gymnax:Pendulum-v1"
MLP = {"actor_hidden_sizes": [8, 6], "critic_hidden_sizes": [8]}
SETTINGS: dict[str, dict[str, Any]] = {  # every activation, with and without normalisation
    "sac": MLP | {"normalize_observations": True, "observation_clip": 0.8},
    "tqc": MLP | {"activation": "elu", "normalize_observations": True},
    "pql": MLP | {"activation": "swish", "normalize_observations": False},
    "iql": MLP | {"activation": "gelu", "normalize_observations": False},
    "bc": {"actor_hidden_sizes": [8], "activation": "tanh", "normalize_observations": False},
    "idql": {"critic_hidden_sizes": [8], "score_width": 8, "score_blocks": 1, "time_features": 4, "num_samples": 5}
    | {"normalize_observations": True},
}


def make_run(folder: Path, agent: str, env: str = REACHER, **settings: Any) -> Driver:
    scale = 0.1 if agent == "idql" else 0.3  # with larger weights, actions would all be at the bounds
    return saved_runs.make_run(folder, agent, env, scale=scale, **SETTINGS[agent] | settings)


def actions(folder: Path, driver: Driver, observation: np.ndarray, member: int = 0, step: int | None = None) -> Any:
    """The agent's own, one observation after the other."""
    act = policies.greedy(driver.task, policies.load_snapshot(folder, driver, step))
    return np.stack([act(row, member) for row in observation])


def rows(driver: Driver, count: int = 5) -> np.ndarray:
    size = driver.task.env.spec.observation_size
    return np.random.default_rng(7).normal(size=(count, size)).astype(np.float32) * 2


def slow_forward(folder: Path, observation: np.ndarray) -> np.ndarray:
    """`policy.npz` by the book: loops and float64, nothing of jax or rlx."""
    arrays = np.load(folder / "policy.npz")
    names = json.loads((folder / "policy.json").read_text())["layers"]
    scalar: dict[str, Callable[[float], float]] = {
        "relu": lambda x: x if x > 0 else 0.0,
        "elu": lambda x: x if x > 0 else math.exp(x) - 1,
        "gelu": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "swish": lambda x: x / (1 + math.exp(-x)),
        "tanh": math.tanh,
    }
    result = []
    for row in observation.astype(np.float64):
        x = list(row)
        for i, name in enumerate(names):
            if name == "normalize":
                mean, std, low, high = (arrays[f"{i}.{j}"] for j in range(4))
                x = [min(max((v - m) / s, low), high) for v, m, s in zip(x, mean, std, strict=True)]
            elif name == "dense":
                kernel, bias = arrays[f"{i}.0"], arrays[f"{i}.1"]
                x = [sum(v * kernel[k, j] for k, v in enumerate(x)) + bias[j] for j in range(len(bias))]
            else:
                x = [scalar[name](v) for v in x]
        result.append(x)
    return np.asarray(result)


@pytest.mark.parametrize("agent", ["sac", "tqc", "pql", "iql", "bc", pytest.param("idql", marks=pytest.mark.slow)])
def test_exported_actions_equal_the_agents(agent: str, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "policy"
    driver = make_run(run, agent)
    is_mlp = agent != "idql"
    about = export.save(run, out, member=1, onnx=is_mlp)
    policy, observation = export.load(out), rows(driver)
    expected = actions(run, driver, observation, member=1)
    if is_mlp:  # IDQL's best candidate may be at the bound everywhere
        assert np.ptp(expected, axis=0).min() > 0.01
        assert not np.allclose(expected, actions(run, driver, observation)), "another member's"
    np.testing.assert_allclose(policy(observation), expected, atol=2e-5)
    np.testing.assert_allclose(policy(observation[2:3]), policy(observation)[2:3], atol=1e-6)  # alone or in a batch
    np.testing.assert_allclose(policy(observation[0]), expected[0], atol=2e-5)
    assert policy(observation[:4].reshape(2, 2, -1)).shape == (2, 2, driver.task.env.spec.action_size)
    assert policy.metadata == json.loads((out / "policy.json").read_text()) == json.loads(json.dumps(about))
    assert about["platforms"] == ["cpu", "cuda", "tpu"] and (about["seed"], about["run_step"]) == (1, 40)

    assert (out / "policy.npz").exists() == is_mlp == bool(about["layers"])
    if is_mlp:
        graph = onnx.reference.ReferenceEvaluator(str(out / "policy.onnx"))
        assert (graph.input_names, graph.output_names) == (["observation"], ["action"])
        (action,) = graph.run(None, {"observation": observation})
        np.testing.assert_allclose(action, expected, atol=2e-5)
        np.testing.assert_allclose(slow_forward(out, observation), expected, atol=2e-5)


def test_every_activation_is_tried() -> None:
    assert {settings.get("activation", "relu") for settings in SETTINGS.values()} == set(networks.ACTIVATIONS)
    assert networks.ACTIVATIONS.keys() <= mlp.LAYERS.keys()


@pytest.fixture(scope="module")
def idql(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Driver]:
    """A run of an agent whose policy is no plain MLP."""
    folder = tmp_path_factory.mktemp("idql") / "run"
    return folder, make_run(folder, "idql")


def test_a_random_policy_gives_equal_actions_for_equal_observations(idql: tuple[Path, Driver], tmp_path: Path) -> None:
    """IDQL: equal observations in one batch get equal actions."""
    run, driver = idql
    export.save(run, tmp_path / "policy")
    observation = np.repeat(rows(driver, 1), 3, axis=0)
    action = export.load(tmp_path / "policy")(observation)
    np.testing.assert_array_equal(action, action[[0, 0, 0]])


def test_layer_norm_as_layers_and_onnx() -> None:
    spec = Spec(jax.ShapeDtypeStruct((3,), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32), 5)
    network = networks.make_deterministic_policy(spec, (6, 4), layer_norm=True)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), network.init(jax.random.key(0)))
    observation = rng.normal(size=(4, 3)).astype(np.float32)
    layers = mlp.of_actor(params, "relu", spec)
    assert layers is not None
    names = "dense layer_norm relu dense layer_norm relu dense tanh"
    assert [layer.operation for layer in layers] == names.split()
    (action,) = onnx.reference.ReferenceEvaluator(mlp.to_onnx(layers, 3)).run(None, {"observation": observation})
    for result in (mlp.forward(layers, observation), action):
        np.testing.assert_allclose(result, network.apply(params, observation), atol=1e-5)


def test_layers_that_give_other_actions_are_left_out(tmp_path: Path, monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    """As for an agent whose greedy action is another function of its network. One line says so."""
    make_run(tmp_path / "run", "sac")
    monkeypatch.setattr(mlp, "of_actor", lambda *arguments: [*OF_ACTOR(*arguments), mlp.Layer("tanh")])
    assert export.save(tmp_path / "run", tmp_path / "policy")["layers"] == []
    assert not (tmp_path / "policy" / "policy.npz").exists()
    assert "not a plain MLP" in capsys.readouterr().err


def dense(*kernel: int) -> dict[str, Any]:
    return {"kernel": np.zeros(kernel), "bias": np.zeros((*kernel[:-2], kernel[-1]))}


@pytest.mark.parametrize(
    ("variables", "layers"),
    [
        ({}, None),
        ({"Dense_0": dense(3, 4)}, ["dense", "tanh"]),  # 3 observations, 4 outputs: an MLP
        ({"Dense_0": dense(2, 4)}, None),  # another input
        ({"Dense_0": dense(3, 1)}, None),  # a value function's
        ({"Dense_0": dense(5, 3, 4)}, None),  # an ensemble
        ({"Dense_0": {"kernel": np.zeros((3, 4))}}, None),
        ({"Dense_1": dense(3, 4)}, None),
        ({"LayerNorm_0": {"scale": np.zeros(3), "bias": np.zeros(3)}}, None),
        ({"Residual_0": {}, "Dense_0": dense(3, 4)}, None),
    ],
)
def test_only_plain_mlps_become_layers(variables: dict[str, Any], layers: list[str] | None) -> None:
    spec = Spec(jax.ShapeDtypeStruct((3,), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32), 5)
    converted = mlp.of_actor({"params": variables}, "relu", spec)
    assert (None if converted is None else [layer.operation for layer in converted]) == layers


OF_ACTOR: Any = mlp.of_actor


def test_step_selects_an_earlier_checkpoint(tmp_path: Path) -> None:
    driver = make_run(tmp_path / "run", "bc", steps=(40, 80))
    observation = rows(driver)
    for step, wish in ((40, 40), (80, None)):
        about = export.save(tmp_path / "run", tmp_path / f"{step}", wish)
        expected = actions(tmp_path / "run", driver, observation, step=wish)
        np.testing.assert_allclose(export.load(tmp_path / f"{step}")(observation), expected, atol=2e-5)
        digest = checkpoint.manifest(tmp_path / "run" / "checkpoints", step)["digest"]
        assert (about["run_step"], about["checkpoint_digest"]) == (step, digest)


def test_refusals_are_one_line(idql: tuple[Path, Driver], tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    run, out = shutil.copytree(idql[0], tmp_path / "run"), tmp_path / "policy"
    for name in ("old", "old-2"):
        (tmp_path / name).mkdir()

    def refused(line: str, *arguments: Any, **options: Any) -> None:
        with one_line(line):
            export.save(*arguments, **options)
        assert not out.exists()

    refused(f"{tmp_path / 'none'}: does not exist", tmp_path / "none", out)
    refused(f"already exists; choose another --out, such as {tmp_path / 'old-3'}", run, tmp_path / "old")
    refused(".: already exists; choose another --out, such as policy-2", run, Path(""))
    refused(f"--member 2: {run} has 0 to 1", run, out, member=2)
    refused(f"--member -1: {run} has 0 to 1", run, out, member=-1)
    refused("has no step 41; it has 40", run, out, step=41)
    (run / "file").touch()
    refused(f"{run / 'file' / 'x'}: cannot be written", run, run / "file" / "x")
    monkeypatch.setattr(mlp.importlib.util, "find_spec", lambda name: None)
    refused(f"--onnx: needs the package onnx, which is not installed; {install('onnx')}", run, out, onnx=True)
    refused("--bundle: needs the package onnx", run, out, bundle=True)
    monkeypatch.setattr(mlp, "check_onnx", lambda *arguments: None)
    refused("--onnx: the policy of idql is not a plain MLP", run, out, onnx=True)
    (run / "checkpoints").rename(run / "elsewhere")
    monkeypatch.undo()
    refused("holds no checkpoint", run, out)
