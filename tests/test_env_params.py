"""Parameters of an environment: one set or one for each member, in steps, evaluation, run folders and pages."""

import json
from pathlib import Path
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx
from rlx import envs
from rlx.analysis import play
from rlx.build import make_env
from rlx.config import resolve
from rlx.envs import env_params
from rlx.envs.base import advance, begin
from rlx.envs.env_params import with_params
from rlx.errors import RlxError
from rlx.evaluate import evaluate
from rlx.types import EnvState, Key, Spec, Step
from tests import drift
from tests.commands import TINY

PENDULUM = gymnax.make("Pendulum-v1")[1]
ONE = jax.ShapeDtypeStruct((1,), jnp.float32)


class Windy:
    """x' = x + a + wind, which is a parameter; the reward is x'."""

    spec, params = Spec(ONE, ONE, 3), {"wind": 0.5}

    def reset(self, key: Key, params: Any = None) -> EnvState:
        return begin((jnp.zeros(()), (params or self.params)["wind"]), jnp.zeros(1))

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        x, wind = state.inner
        x = x + action[0] + wind
        return advance(state, (x, wind), x[None], x, False, 3)


class Still(Windy):
    """Its parameter is an array, which each episode keeps."""

    spec, params = Windy.spec, {"wind": np.zeros(3, np.float32)}

    def reset(self, key: Key, params: Any = None) -> EnvState:
        wind = jnp.asarray((params or self.params)["wind"])
        return begin((jax.random.uniform(key), wind.sum()), jnp.zeros(1))


class Plain(Windy):
    """Keeps `params` and a `model` for itself: its reset takes none."""

    model = "cart"

    def reset(self, key: Key) -> EnvState:  # type: ignore[override]
        return super().reset(key)


def episode(env: Any, params: Any = None) -> np.ndarray:
    """Observations of three steps at full action, compiled."""

    def roll(params: Any) -> jax.Array:
        state = env.reset(jax.random.key(0)) if params is None else env.reset(jax.random.key(0), params)
        return jax.lax.scan(lambda s, _: (env.step(s, jnp.ones(1), jax.random.key(1))[0],) * 2, state, None, 3)[
            1
        ].observation

    return np.asarray(jax.jit(roll)(params))


@pytest.mark.parametrize("name", ["g", "max_torque"])
def test_each_member_has_the_physics_of_its_row(name: str) -> None:
    """Also the range of actions that depends on them, under a wrapper; one set for all is what env_args makes."""
    texts = env_params.texts(PENDULUM.replace(**{name: jnp.array([1.5, 3.0])}))
    env: Any = envs.apply_wrappers(with_params(envs.make("gymnax:Pendulum-v1"), texts, 2), ["history:2"])
    for row, value in enumerate((1.5, 3.0)):
        alone = envs.make("gymnax:Pendulum-v1", wrappers=["history:2"], **{name: value})
        of_row = jax.tree.map(lambda x, row=row: x[row], env.member_params)
        np.testing.assert_allclose(episode(env, of_row), episode(alone), rtol=1e-5)
        fixed = make_env(
            resolve("sac", "gymnax:Pendulum-v1", env_params=PENDULUM.replace(**{name: value}), wrappers="history:2")
        )
        np.testing.assert_array_equal(episode(fixed), episode(alone))
    np.testing.assert_array_equal(episode(env), episode(env, jax.tree.map(lambda x: x[0], env.member_params)))


def test_an_environment_of_ones_own_takes_its_params() -> None:
    assert episode(with_params(Windy(), ["wind=0.25"], 3))[-1] == 3.75
    env: Any = with_params(Windy(), env_params.texts({"wind": [0.0, 1.0, 2.0]}), 3)
    ends = [episode(env, jax.tree.map(lambda x, i=i: x[i], env.member_params))[-1] for i in range(3)]
    assert np.ravel(ends).tolist() == [3.0, 6.0, 9.0]


def test_parameters_that_are_not_drawn_are_evaluated_once() -> None:
    push = lambda observation, key: jnp.ones((observation.shape[0], 1))  # noqa: E731
    for env, draws in ((Windy(), False), (Still(), False), (Plain(), False), (drift.Drift(), True)):
        of_run: Any = with_params(env, [], 1)
        assert (evaluate(of_run, push, 2, jax.random.key(0)).nominal_returns is not None) == draws


@pytest.mark.parametrize(
    ("params", "settings", "words"),
    [
        ({"g": [9.0, 10.0]}, {}, r"g: is \[2\]; give \[\] for all, or \[3\]"),
        ({"gg": 9.0}, {}, "did you mean g"),
        ({"g": "fast"}, {}, "g is of type str"),
        (["g"], {}, "must be name=number"),
        (["g=1", "g=2"], {}, "comes twice"),
        (PENDULUM.replace(max_steps_in_episode=50), {}, "use --env-args episode_length"),
        ({"g": [1.0, 2.0, 3.0]}, {"randomize": "m=0.5:1.5"}, "goes with --randomize where"),
        ({"g": np.zeros((400, 300))}, {}, "holds 120,000 numbers"),
    ],
)
def test_what_cannot_be_is_one_line(params: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(RlxError, match=words) as error:
        make_env(resolve("sac", "gymnax:Pendulum-v1", num_seeds=3, env_params=params, **settings))
    assert "\n" not in str(error.value)


def test_an_environment_without_parameters_says_so() -> None:
    with pytest.raises(RlxError, match="has no parameters"):
        with_params(envs.make("gymnax:Pendulum-v1", wrappers=["history:2"]), ["g=1"], 1)
    with pytest.raises(RlxError, match="has no parameters"):
        with_params(Plain(), ["wind=1"], 1)


@pytest.mark.slow
@pytest.mark.parametrize("members", ["threads", "vmap"])
def test_members_train_and_are_evaluated_under_their_own(members: str, tmp_path: Path) -> None:
    """The second member is the run with that one set; stopped and continued, it has the same bits."""
    small: dict[str, Any] = TINY | {
        "eval_every": 128,
        "actor_hidden_sizes": [8],
        "run_dir": tmp_path,
        "env_args": {"episode_length": 20},
    }
    params, name = PENDULUM.replace(g=jnp.array([1.0, 15.0])), "gymnax:Pendulum-v1"
    both = small | {"num_seeds": 2, "env_params": params, "members": members}
    once = rlx.fit("sac", name, total_env_steps=256, run_name="once", **both)
    rlx.fit("sac", name, total_env_steps=128, run_name="twice", **both)
    twice = rlx.load(tmp_path / "twice").continue_training(total_env_steps=256)
    alone = rlx.fit("sac", name, total_env_steps=256, run_name="alone", seed=1, env_params={"g": 15.0}, **small)
    digests = [json.loads((tmp_path / run / "summary.json").read_text())["digest"] for run in ("once", "twice")]
    assert (
        digests[0] == digests[1]
        and json.loads((tmp_path / "once" / "config.json").read_text())["settings"]["env_params"]
    )
    np.testing.assert_array_equal(twice.evaluation.returns, once.evaluation.returns)
    np.testing.assert_allclose(once.evaluation.returns[1], alone.evaluation.returns[0], rtol=1e-2)
    np.testing.assert_allclose(rlx.load(tmp_path / "once").evaluate().returns, once.evaluation.returns, rtol=1e-4)
    played = play.play(tmp_path / "once", episodes=2, members=[1])
    np.testing.assert_allclose([e["return"] for e in played.episodes], once.evaluation.returns[1], rtol=1e-4)
