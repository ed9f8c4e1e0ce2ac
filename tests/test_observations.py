"""Observations with parts: what policies and critics read, in training, data sets, export and by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx
from rlx import data, networks
from rlx.envs import observations, parts
from rlx.envs.wrappers import history
from rlx.errors import RlxError
from rlx.export import policy as export
from tests import drift
from tests.commands import TINY, flags
from tests.loss_tools import near

pytestmark = pytest.mark.usefixtures("reuse_programs")

SMALL = TINY | {"total_env_steps": 256}
ACTOR = {"actor_hidden_sizes": [8]}
PARTS = {"actor_observation": ["state"], "critic_observation": ["state", "privileged_state"]}
CHOSEN = parts.choose(drift.Drift(), **{name.split("_")[0]: names for name, names in PARTS.items()})


def shapes(tree: Any) -> list[tuple[int, ...]]:
    return [x.shape for x in jax.tree.leaves(tree) if x.ndim > 1]


def test_dictionaries_are_flat_in_the_order_of_names() -> None:
    seen = {"b": jnp.array([1.0, 2.0]), "a": jnp.float32(3), "c": {"z": jnp.ones(1)}}
    np.testing.assert_array_equal(observations.flatten(seen), [3, 1, 2, 1])
    assert observations.parts({"b": jnp.ones(2), "a": jnp.float32(3)}) == {"a": (0, 1), "b": (1, 3)}
    assert (observations.size(seen), observations.parts(jnp.ones(3))) == (4, {})
    for wrong in (jnp.ones((8, 8, 3)), {"z": jnp.ones(1)}):
        with pytest.raises(RlxError, match="vectors alone"):
            observations.parts({"pixels": wrong})


def test_the_union_is_shown_once() -> None:
    """Parts that nobody reads are left out; policies and critics read theirs, in the order asked for."""
    spec, key = CHOSEN.spec, jax.random.key(0)
    assert (spec.parts, spec.actor_size, spec.critic_size) == ({"privileged_state": (0, 1), "state": (1, 3)}, 2, 3)
    unchosen, state = drift.Drift().reset(key), CHOSEN.reset(key)
    np.testing.assert_array_equal(state.observation, unchosen.observation[1:])
    _, step = CHOSEN.step(state, jnp.array([0.5]), key)
    seen = step.next_observation
    np.testing.assert_array_equal(spec.actor_observation(seen), seen[1:])
    np.testing.assert_array_equal(spec.critic_observation(seen), seen[jnp.array([1, 2, 0])])
    np.testing.assert_array_equal(spec.of_actor(seen[1:]), [0, *seen[1:]])
    assert parts.choose(CHOSEN) is CHOSEN
    by_default = parts.choose(drift.Drift()).spec
    assert (by_default.observation_size, by_default.actor_parts, by_default.critic_parts) == (2, ("state",), ("state",))
    assert history(drift.Drift(), 2).spec.parts == {"clock": (0, 2), "privileged_state": (2, 4), "state": (4, 8)}


@pytest.mark.parametrize(
    ("make", "columns"),
    [
        (networks.make_gaussian_policy, [1, 2]),
        (networks.make_deterministic_policy, [1, 2]),
        (networks.make_value, [1, 2, 0]),
        (networks.make_critic, [1, 2, 0]),
    ],
)
def test_networks_read_their_parts(make: Callable[..., networks.Network], columns: list[int]) -> None:
    """As the same network of an environment that shows these columns alone."""
    shown = jax.ShapeDtypeStruct((len(columns),), jnp.float32)
    alone = CHOSEN.spec._replace(observation=shown, parts={}, actor_parts=(), critic_parts=())
    network, plain = make(CHOSEN.spec, [4]), make(alone, [4])
    params, seen = network.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (5, 3))
    rest = [jnp.ones((5, 1))] if make is networks.make_critic else []
    near(jax.jit(network.apply)(params, seen, *rest), plain.apply(params, seen[:, jnp.array(columns)], *rest), 1e-6)


@pytest.mark.parametrize(
    ("agent", "settings", "words"),
    [
        ("sac", {"actor_observation": ["stat"]}, "did you mean state"),
        ("sac", {"critic_observation": ["state", "state"]}, "twice"),
        ("idql", {"offline_steps": 0, **PARTS}, "acts by its critics"),
    ],
)
def test_what_cannot_be_read_is_one_line(agent: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(RlxError, match=words):
        rlx.fit(agent, drift.Drift(), **SMALL | settings)
    with pytest.raises(RlxError, match="no parts"):
        rlx.fit("sac", "gymnax:Pendulum-v1", **SMALL | PARTS)


@pytest.mark.parametrize("driver", ["fused", pytest.param("pipelined", marks=pytest.mark.slow)])
def test_training_with_privileged_observations(driver: str) -> None:
    """The policy takes the actor's part; metrics and nominal returns are reported."""
    actual = rlx.fit("sac", drift.Drift(), driver=driver, **SMALL | ACTOR | PARTS)
    assert actual.act(np.zeros((5, 2))).shape == (5, 1) and actual.statistics.mean.shape == (1, 3)
    assert {(1, 2, 8), (1, 2, 4, 8)} <= {*shapes(actual.state.actor), *shapes(actual.state.critic)}
    with pytest.raises(RlxError, match="reads 2 numbers"):
        actual.act(np.zeros(3))
    with pytest.raises(RlxError, match=r"critic reads 3 numbers, .*: privileged_state \(1\), then state \(2\)"):
        actual.q_value(np.zeros(2), np.zeros(1))
    line, returns = actual.metrics[-1], actual.evaluation.returns
    assert line["eval/nominal_return_mean"] != line["eval/return_mean"] == pytest.approx(returns.mean())
    assert line["eval/distance_sum"] == pytest.approx(-returns.mean(), rel=1e-5)
    assert 0 < line["train/env/distance"][0] < 3 and line["eval/distance_last"] > 0


def test_data_sets_give_parts_by_name(tmp_path: Path) -> None:
    """In another order, and more of them, than the environment's; what is missing is named."""
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=(6, 4)) for name in ("observation", "next_observation")}
    arrays = {"action": np.zeros((6, 1)), "reward": np.zeros(6), "terminated": np.zeros(6), "truncated": np.zeros(6)}
    ranges = {"state": [0, 2], "noise": [2, 3], "privileged_state": [3, 4]}
    actual = data.choose_parts(data.make_dataset({"observation_parts": ranges}, **columns, **arrays), CHOSEN.spec.parts)
    wanted = columns["next_observation"].astype(np.float32)[:, [3, 0, 1]]
    np.testing.assert_array_equal(actual.rows.next_observation, wanted)
    data.write(actual._replace(info=actual.info | {"name": "d"}), tmp_path / "d")
    assert data.read(tmp_path / "d").info["observation_parts"] == {"privileged_state": [0, 1], "state": [1, 3]}
    for wrong, words in (({"state": [0, 2]}, "no observation"), (ranges | {"state": [0, 1]}, "not as large")):
        with pytest.raises(RlxError, match=words):
            data.choose_parts(data.make_dataset({"observation_parts": wrong}, **columns, **arrays), CHOSEN.spec.parts)


@pytest.mark.slow
def test_from_training_to_the_robot_by_name(say: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, evaluation, a data set, learning from it offline, and export, with an environment in a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drift.py").write_text(Path(drift.__file__).read_text())
    common = ["--env", "drift.py:Drift", *flags(**SMALL | PARTS)]
    assert say("train", "sac", *common, *flags(**ACTOR), "--run-name", "a").code == 0
    assert "nominal" in say("eval", "runs/a").out
    assert say("collect", "runs/a", "--kind", "expert", "--num-transitions", 64, "--out", "d").code == 0
    assert data.read("d").info["observation_parts"] == {"privileged_state": [0, 1], "state": [1, 3]}
    offline = flags(dataset="d", offline_steps=16, total_env_steps=0, driver="pipelined")
    assert say("train", "iql", *common, *flags(**ACTOR), *offline, "--run-name", "b").code == 0
    for run in ("a", "b"):
        assert say("export", f"runs/{run}", "--out", f"policy-{run}").code == 0
        policy = export.load(f"policy-{run}")
        assert policy(np.zeros((3, 2))).shape == (3, 1) and policy.metadata["observation"]["parts"] == ["state"]
        assert json.loads(Path(f"policy-{run}/policy.json").read_text())["layers"]
