"""Exported policies: their actions are the agent's, with jax alone, with NumPy alone and as ONNX; and they play."""

import hashlib
import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import onnx.reference
import pytest

from rlx import envs, networks, normalize
from rlx.commands import main as cli
from rlx.errors import RlxError, install
from rlx.evaluate import evaluate
from rlx.export import mlp
from rlx.export import policy as export
from rlx.runs import checkpoint, policies
from rlx.train.loop import Driver
from rlx.types import Env, EnvState, Key, Spec, Step
from tests import processes, saved_runs
from tests.commands import Capture, MonkeyPatch, Say, one_line
from tests.walk import Walk

PAGE = Path(__file__).resolve().parents[1] / "docs" / "export.md"
BLOCKS = re.findall(r"^```(?:py|python)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
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
    assert {given.get("activation", "relu") for given in SETTINGS.values()} == set(networks.ACTIVATIONS)
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


def test_the_artefact_includes_normalisation_and_clip(place: Path) -> None:
    """Observations beyond the clip all look the same; the stored deviation is the one that `normalize` divides by."""
    policy = export.load(place / "policy")
    far = np.asarray([[500.0, 600.0, 700.0]], np.float32)
    np.testing.assert_array_equal(policy(far), policy(2 * far))
    assert not np.allclose(policy(far), policy(-far))
    statistics = normalize.Statistics(jnp.ones(()), jnp.asarray([1.0, 2.0]), jnp.asarray([1e-8, 4.0]))
    seen = normalize.normalize(statistics, jnp.asarray([1.0005, 6.0]), 10.0)
    np.testing.assert_allclose(seen, [0.5, 2.0], rtol=1e-3)


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
    for found in (mlp.forward(layers, observation), action):
        np.testing.assert_allclose(found, network.apply(params, observation), atol=1e-5)


def test_layers_that_give_other_actions_are_left_out(tmp_path: Path, monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    """As for an agent whose greedy action is another function of its network. One line says so."""
    make_run(tmp_path / "run", "sac")
    monkeypatch.setattr(mlp, "of_actor", lambda *given: [*OF_ACTOR(*given), mlp.Layer("tanh")])
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
    found = mlp.of_actor({"params": variables}, "relu", spec)
    assert (None if found is None else [layer.operation for layer in found]) == layers


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


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of docs/export.md's reader, after the command there: a run and an exported policy."""
    place = tmp_path_factory.mktemp("reader")
    make_run(place / "runs" / "pendulum", "sac", PENDULUM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        commands = re.findall(r"^```(?:sh|bash)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
        for program, *arguments in [line.split() for block in commands for line in block.splitlines()]:
            if program == "rlx":
                assert cli.main(arguments) == 0
            else:
                assert processes.python(*arguments, cwd=place).returncode == 0
    return place


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "without"), [(0, ["rlx", "flax", "optax", "brax", "orbax"]), (2, ["rlx", "jax", "jaxlib", "flax"])]
)
def test_documented_code_runs_without_rlx(number: int, without: list[str], place: Path) -> None:
    """In a process in which importing rlx fails, with what the page says is needed."""
    observation = np.asarray([[1.0, 0.0, 2.0], [0.0, -1.0, -7.5]], np.float32)
    said = (
        f"import sys\nsys.modules.update(dict.fromkeys({without}))\nimport numpy as np\n"
        f"observation = np.asarray({observation.tolist()}, np.float32)\n"
    )
    lines = re.sub(r"^observation = .*$", "", BLOCKS[number], flags=re.M)  # ours stands for the page's zeros
    program = f"{said}{lines}\nprint(np.asarray(action).tolist())"
    done = processes.python("-c", program, cwd=place)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), export.load(place / "policy")(observation), atol=1e-5)


def test_documented_code_runs_with_rlx(place: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    shared: dict[str, Any] = {"observation": np.asarray([1.0, 0.0, 2.0], np.float32)}
    exec(BLOCKS[1], shared)
    np.testing.assert_array_equal(shared["action"], export.load(place / "policy")(shared["observation"]))
    exec(BLOCKS[3], shared)  # the runner's class
    np.testing.assert_allclose(shared["command"], 2 * shared["action"])
    monkeypatch.delitem(sys.modules, "run_policy")
    exec(BLOCKS[4], shared)
    assert shared["interface"](None)["control_dt"] == 0.05
    for block in BLOCKS[5:]:
        exec(block, shared)
        assert shared["returns"].shape == (2,) and (shared["returns"] < 0).all()
    assert len(BLOCKS) == 7


def test_refusals_are_one_line(idql: tuple[Path, Driver], tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    run, out = shutil.copytree(idql[0], tmp_path / "run"), tmp_path / "policy"
    for name in ("there", "there-2"):
        (tmp_path / name).mkdir()

    def refused(line: str, *given: Any, **options: Any) -> None:
        with one_line(line):
            export.save(*given, **options)
        assert not out.exists()

    refused(f"{tmp_path / 'none'}: does not exist", tmp_path / "none", out)
    refused(f"already exists; choose another --out, such as {tmp_path / 'there-3'}", run, tmp_path / "there")
    refused(".: already exists; choose another --out, such as policy-2", run, Path(""))
    refused(f"--member 2: {run} has 0 to 1", run, out, member=2)
    refused(f"--member -1: {run} has 0 to 1", run, out, member=-1)
    refused("has no step 41; it has 40", run, out, step=41)
    (run / "file").touch()
    refused(f"{run / 'file' / 'x'}: cannot be written", run, run / "file" / "x")
    monkeypatch.setattr(mlp.importlib.util, "find_spec", lambda name: None)
    refused(f"--onnx: needs the package onnx, which is not installed; {install('onnx')}", run, out, onnx=True)
    refused("--bundle: needs the package onnx", run, out, bundle=True)
    monkeypatch.setattr(mlp, "check_onnx", lambda *given: None)
    refused("--onnx: the policy of idql is not a plain MLP", run, out, onnx=True)
    (run / "checkpoints").rename(run / "elsewhere")
    monkeypatch.undo()
    refused("holds no checkpoint", run, out)


def test_load_refuses_missing_damaged_and_odd_files(place: Path, tmp_path: Path) -> None:
    """Also with a digest that agrees."""
    about, content = ((place / "policy" / name).read_bytes() for name in ("policy.json", "policy.jax"))

    def refused(words: str, text: bytes = about, content: bytes = content, **changes: Any) -> None:
        (tmp_path / "policy.json").write_bytes(json.dumps(json.loads(text) | changes).encode() if changes else text)
        (tmp_path / "policy.jax").write_bytes(content)
        with pytest.raises(RlxError, match=words) as error:
            export.load(tmp_path)
        assert str(error.value).isprintable()

    with one_line("holds no policy"):
        export.load(tmp_path / "none")
    refused("was written by rlx .* in another format", format=99)
    refused(r"policy\.jax: is damaged", content=content[:-1])
    for name, values in ODD.items():
        for value in values:
            refused("holds no policy|does not describe|another format|is damaged", **{name: value})
    for text in (b"[]", b"null", b"[" * 10**5, b"1" * 5000, b'{"files": {}}', b"\xff"):
        refused("holds no policy", text)
    for foreign in (b"", b"not a policy", content[:200]):
        odd = json.loads(about)
        odd["files"]["policy.jax"]["sha256"] = hashlib.sha256(foreign).hexdigest()
        odd["versions"]["jax"] = "\x1b[31m0.1"
        refused("cannot read what jax", content=foreign, **odd)
    with one_line("observations are [2, 4]: this policy reads 3 numbers"):
        export.load(place / "policy")(np.zeros((2, 4)))


ODD: dict[str, list[Any]] = {
    "files": [None, [], {"policy.jax": "x"}, {"policy.jax": {"sha256": 5}}],
    "observation": [{"shape": 3}, {"shape": ["B"]}, {"shape": ["B", "3"]}, {"shape": ["B", 4]}],
    "action": [{"shape": ["B", None]}, [1]],
    "versions": ["0.1", {"jax": "0.10.2"}],
    "format": ["1", float("nan")],
}


def test_load_names_the_jax_version_that_wrote_the_file(place: Path, monkeypatch: MonkeyPatch) -> None:
    """As jax 0.10 is for what jax 0.11 wrote: it notices only where the module inside is unpacked."""

    def fail() -> str:
        raise RuntimeError("INVALID_ARGUMENT: Failed to deserialize\nat some place")

    monkeypatch.setattr(export.jax_export, "deserialize", lambda content: SimpleNamespace(mlir_module=fail))
    with pytest.raises(RlxError, match=r"jax \S+ cannot read what jax \S+ wrote; use that version, or export it with"):
        export.load(place / "policy")


class OneStart(NamedTuple):
    """An environment whose every episode starts alike."""

    env: Env
    seed: int

    @property
    def spec(self) -> Spec:
        return self.env.spec

    def reset(self, key: Key) -> EnvState:
        return self.env.reset(jax.random.key(self.seed))

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        return self.env.step(state, action, key)


def test_play_returns_equal_those_of_the_evaluation(place: Path) -> None:
    """rlx's own evaluation and episodes through Gymnasium, from the same starts; Pendulum draws nothing on the way."""
    policy, pendulum = export.load(place / "policy"), envs.make(PENDULUM, episode_length=30)
    returns = []
    for seed in range(3):
        env = OneStart(pendulum, seed)
        judged = evaluate(env, lambda observation, key: policy.call(observation), 1, jax.random.key(0)).returns
        played = export.play(policy, envs.to_gymnasium(env), episodes=2)
        np.testing.assert_allclose(played, [judged[0]] * 2, rtol=1e-4)
        returns.append(played[0])
    assert np.ptp(returns) > 1


def test_actions_are_mapped_to_the_box() -> None:
    """Pendulum's torque is in [-2, 2]; a box without bounds is taken as it is."""
    seen: list[np.ndarray] = []

    class Bare(gymnasium.Env[np.ndarray, np.ndarray]):
        observation_space = gymnasium.spaces.Box(-1, 1, (2, 2))

        def __init__(self, low: Any, high: Any):
            self.action_space = gymnasium.spaces.Box(np.float32(low), np.float32(high))

        def reset(self, **options: Any) -> Any:
            return np.ones((2, 2)), {}

        def step(self, action: np.ndarray) -> Any:
            seen.append(action)
            return np.ones((2, 2)), 1.5, len(seen) % 2 == 0, False, {}

    def policy(observation: np.ndarray) -> np.ndarray:
        assert observation.shape == (4,)
        return np.asarray([-1.0, 0.5])

    assert export.play(policy, Bare([-2, 0], [2, 4]), 2).tolist() == [3.0, 3.0]
    assert export.play(policy, Bare([-np.inf, 0], [np.inf, np.inf])).tolist() == [3.0]
    np.testing.assert_array_equal(seen, [[-2, 3]] * 4 + [[-1, 0.5]] * 2)
    assert seen[0].dtype == np.float32
    with pytest.raises(RlxError, match="an exported policy plays where they are a Box"):
        export.play(policy, gymnasium.make("CartPole-v1"))


def test_play_is_repeatable() -> None:
    def play(seed: int) -> np.ndarray:
        return export.play(lambda x: np.zeros(1), envs.to_gymnasium(Walk(noise=0.2)), 3, seed)

    first = play(5)
    assert len(set(first)) == 3
    np.testing.assert_array_equal(first, play(5))
    np.testing.assert_array_equal(first[1:], play(6)[:2])  # each episode has a seed of its own


def test_the_command(place: Path, tmp_path: Path, say: Say) -> None:
    said = say("export", place / "runs" / "pendulum", "--out", tmp_path / "p", "--member", 1).out.splitlines()
    assert said[0] == f"sac on {PENDULUM}, seed 1 (member 1 of 2; --member chooses), step 40: {tmp_path / 'p'}"
    assert [line.split()[0] for line in said[1:]] == ["policy.jax", "policy.npz"]
