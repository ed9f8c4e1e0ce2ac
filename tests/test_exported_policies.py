"""An exported policy in use: without rlx, as docs/export.md shows, damaged, and playing episodes."""

import hashlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import envs, normalize
from rlx.commands import main as cli
from rlx.errors import RlxError
from rlx.evaluate import evaluate
from rlx.export import policy as export
from rlx.types import Env, EnvState, Key, Spec, Step
from tests import processes
from tests.commands import MonkeyPatch, Say, one_line
from tests.test_export import PENDULUM, make_run
from tests.walk import Walk

pytestmark = pytest.mark.usefixtures("reuse_programs")

PAGE = Path(__file__).resolve().parents[1] / "docs" / "export.md"


BLOCKS = re.findall(r"^```(?:py|python)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


def test_the_artefact_includes_normalisation_and_clip(place: Path) -> None:
    """Observations beyond the clip all look the same; the stored deviation is the one that `normalize` divides by."""
    policy = export.load(place / "policy")
    far = np.asarray([[500.0, 600.0, 700.0]], np.float32)
    np.testing.assert_array_equal(policy(far), policy(2 * far))
    assert not np.allclose(policy(far), policy(-far))
    statistics = normalize.Statistics(jnp.ones(()), jnp.asarray([1.0, 2.0]), jnp.asarray([1e-8, 4.0]))
    seen = normalize.normalize(statistics, jnp.asarray([1.0005, 6.0]), 10.0)
    np.testing.assert_allclose(seen, [0.5, 2.0], rtol=1e-3)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of docs/export.md's reader, after the page's commands: a run and an exported policy."""
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
    shared: dict[str, Any] = {"observation": np.asarray([[1.0, 0.0, 2.0], [0.0, -1.0, -7.5]], np.float32)}
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
        evaluated = evaluate(env, lambda observation, key: policy.call(observation), 1, jax.random.key(0)).returns
        played = export.play(policy, envs.to_gymnasium(env), episodes=2)
        np.testing.assert_allclose(played, [evaluated[0]] * 2, rtol=1e-4)
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
