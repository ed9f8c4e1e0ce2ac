"""Randomised physics: what is drawn, that each episode has its own, and returns with the nominal physics beside."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.struct import PyTreeNode

import rlx.envs
from rlx import parallel
from rlx.build import make_driver, setup
from rlx.config import resolve
from rlx.envs import randomization
from rlx.envs.gymnax_env import GymnaxEnv
from rlx.envs.randomization import Randomization, factors, parse, with_model
from rlx.errors import RlxError
from rlx.evaluate import evaluate
from rlx.export.policy import load
from rlx.train.memory import estimate
from tests import drift
from tests.commands import TINY, flags
from tests.pages import ROOT, blocks
from tests.stepping import keys_of

pytestmark = pytest.mark.usefixtures("reuse_programs")

PENDULUM = rlx.envs.make("gymnax:Pendulum-v1", episode_length=3)


def masses(*texts: str) -> Any:
    assert isinstance(PENDULUM, GymnaxEnv)
    return PENDULUM.randomized(factors(parse(texts)))


class Actuator(PyTreeNode):
    gain: jax.Array


class Model(PyTreeNode):
    """The leaves of a physics model that count here, in MuJoCo's shapes and Brax's."""

    geom_friction: jax.Array
    body_mass: jax.Array
    dof_damping: jax.Array
    geom_type: jax.Array
    actuator: Actuator


MODEL = Model(
    geom_friction=jnp.array([[1.0, 0.5, 0.25]] * 2),
    body_mass=jnp.array([0.0, 3.0, 5.0]),
    dof_damping=jnp.zeros(2),
    geom_type=jnp.arange(2),
    actuator=Actuator(gain=jnp.array([7.0])),
)


def test_one_factor_multiplies_all_that_a_name_stands_for() -> None:
    """Sliding friction is the first column; leaves of several names are drawn apart; others are not drawn."""
    drawn = Randomization(MODEL, factors(parse(["mass=0.5:1.5", "friction=2:3", "gain=1:2"])))
    params = jax.jit(jax.vmap(drawn.draw))(keys_of(0, 50))
    model = jax.vmap(drawn.model)(params)
    mass, friction, gain = model.body_mass[:, 1] / 3, model.geom_friction[:, 0, 0], model.actuator.gain[:, 0] / 7
    np.testing.assert_allclose(model.body_mass, mass[:, None] * MODEL.body_mass, rtol=1e-6)
    np.testing.assert_allclose(
        model.geom_friction,
        np.stack([friction, friction * 0 + 0.5, friction * 0 + 0.25], 1)[:, None] + np.zeros((2, 1)),
        rtol=1e-6,
    )
    for factor, low, high in ((mass, 0.5, 1.5), (friction, 2, 3), (gain, 1, 2)):
        assert low <= factor.min() < low + 0.2 * (high - low) and high - 0.2 * (high - low) < factor.max() <= high
    assert abs(np.corrcoef(mass, friction)[0, 1]) < 0.5
    nominal = drawn.model(drawn.params)
    assert all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (nominal, MODEL)), strict=True))
    assert len(drawn.params) == 3


def test_the_randomization_fn_of_brax_is_taken_as_it_is() -> None:
    """As in Brax's documentation: keys [N, 2], leaves that lead with N, and in_axes by `tree.map` and `replace`."""

    def domain_randomize(sys: Any, rng: jax.Array) -> tuple[Any, Any]:
        assert rng.ndim == 2 and rng.dtype == jnp.uint32

        @jax.vmap
        def rand(rng: jax.Array) -> jax.Array:
            _, key = jax.random.split(rng, 2)
            return sys.geom_friction.at[:, 0].set(jax.random.uniform(key, (1,), minval=0.6, maxval=1.4))

        in_axes = jax.tree.map(lambda x: None, sys).replace(geom_friction=0)
        return sys.replace(geom_friction=rand(rng)), in_axes

    drawn = Randomization(MODEL, domain_randomize)
    key = jax.random.key(3)
    raw = jax.random.key_data(jax.random.fold_in(key, randomization.DRAW))[None]
    (params,) = drawn.draw(key)
    np.testing.assert_array_equal(params, domain_randomize(MODEL, raw)[0].geom_friction[0])
    with pytest.raises(RlxError, match="draws no leaf"):
        Randomization(MODEL, lambda model, rng: (model, jax.tree.map(lambda _: None, model)))
    inner = SimpleNamespace(sys=MODEL)
    outer = with_model(SimpleNamespace(env=inner), "sys", 5)
    assert outer.env.sys == 5 and inner.sys is MODEL


def test_every_episode_has_physics_of_its_own() -> None:
    """Of one environment: constant in an episode, another in the next, a row of the pool; same seeds, same bits."""
    vector = rlx.envs.vectorise(masses("m=0.5:1.5"), 2, 16)
    pool = vector.make_pool(jax.random.key(0))
    (of_pool,) = pool.inner.params

    def steps(state: Any, action: jax.Array) -> Any:
        key = jax.random.split(jax.random.fold_in(jax.random.key(2), state.env.time[0] + 7), 2)
        state, _ = vector.step(state, action, pool, key)
        return state, state.env.inner.params[0]

    start = vector.init(pool, keys_of(1, 2))
    _, seen = jax.jit(lambda start: jax.lax.scan(steps, start, jnp.zeros((12, 2, 1))))(start)
    seen = np.concatenate([np.asarray(start.env.inner.params[0])[None], np.asarray(seen)])  # [13, E]
    assert set(seen.ravel()) <= set(np.asarray(of_pool)) and len(set(np.asarray(of_pool))) == 16
    for env in range(2):
        episodes = seen[:12, env].reshape(4, 3)
        assert (episodes == episodes[:, :1]).all() and len(set(episodes[:, 0])) > 1
    again = vector.make_pool(jax.random.key(0))
    assert all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (pool, again)), strict=True))


def test_physics_decide_the_steps_and_nominal_ones_are_the_environments_own() -> None:
    env, key = masses("m=3:3"), jax.random.key(4)
    heavy = rlx.envs.make("gymnax:Pendulum-v1", episode_length=3, m=3.0)
    for params, plain in ((env.params, PENDULUM), (None, heavy)):
        one, other = env.reset(key, params), plain.reset(key)
        for action in jnp.array([[1.0], [-0.5]]):
            one, shown = env.step(one, action, key)
            other, expected = plain.step(other, action, key)
        np.testing.assert_allclose(shown.observation, expected.observation, rtol=1e-6)


def test_actions_take_effect_as_late_as_the_episode_has_it() -> None:
    """By hand: the drift's place moves by 0.1 of the action so many steps ago, and of 0 before the first one."""
    env = rlx.envs.randomize(drift.Drift(), ["delay=0:2"])
    reset, step, delays = jax.jit(env.reset), jax.jit(env.step), set()
    for seed in range(8):
        for nominal in (False, True):
            state = reset(jax.random.key(seed), *([env.params] if nominal else []))  # type: ignore[attr-defined]
            delay = int(state.inner.memory["delay"])
            delays |= set() if nominal else {delay}
            assert not (nominal and delay)
            place, drifts, actions = state.observation[2], state.observation[1], [0.5, -1.0, 0.25]
            for t, action in enumerate(actions):
                state, shown = step(state, jnp.array([action]), jax.random.key(0))
                place = place + drifts + 0.1 * (actions[t - delay] if t >= delay else 0.0)
                np.testing.assert_allclose(shown.observation[2], place, atol=1e-6)
    assert delays == {0, 1, 2}
    with pytest.raises(RlxError, match="integers"):
        rlx.envs.randomize(drift.Drift(), ["delay=0.5:2"])
    with pytest.raises(RlxError, match="no model of Brax"):
        rlx.envs.randomize(drift.Drift(), ["mass=1:2"])


def test_memory_counts_what_is_drawn() -> None:
    """One number more a state and an initial state, and the evaluation's second half."""

    def environments(*drawn: str) -> int:
        config = resolve("sac", "gymnax:Pendulum-v1", num_envs=1000, pool_size=1000, eval_episodes=1, randomize=drawn)
        driver = make_driver(setup(config))
        return estimate(driver.task, 1, [parallel.local_devices()[:1]] * 3).environments

    assert environments("m=0.5:1.5") >= environments() + 3 * 4 * 1000  # states, and two pools


def test_evaluation_reports_both() -> None:
    """Nominal returns are those of the plain environment, the others those of the heavier one, from one key."""
    push = lambda observation, key: jnp.ones((observation.shape[0], 1))  # noqa: E731
    heavy = rlx.envs.make("gymnax:Pendulum-v1", episode_length=3, m=3.0)
    actual, plain, other = (evaluate(env, push, 4, jax.random.key(0), 1) for env in (masses("m=3:3"), PENDULUM, heavy))
    assert plain.nominal_returns is None
    np.testing.assert_allclose(actual.nominal_returns, plain.returns, rtol=1e-5)
    np.testing.assert_allclose(actual.returns, other.returns, rtol=1e-5)
    assert actual.recording["action"].shape == plain.recording["action"].shape


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["mass"], "mass=0.8:1.2"),
        (["mass=a:b"], "mass=0.8:1.2"),
        (["mass=2:1"], "lower one first"),
        (["mass=-1:1"], "0 or more"),
        (["mas=1:2"], "did you mean mass"),
        (["wings=1:2"], "choose from friction, mass, damping, gain"),
        (["damping=1:2"], "0 everywhere"),
        (["geom_type=1:2"], "unknown"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(texts: list[str], words: str) -> None:
    with pytest.raises(RlxError, match=words):
        Randomization(MODEL, factors(parse(texts)))


SMALL = flags(**TINY, eval_every=128, actor_hidden_sizes=[8])


@pytest.mark.slow
def test_a_resumed_run_draws_the_same_physics(say: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    drawn = [*SMALL, "--env", "gymnax:Pendulum-v1", "--randomize", "m=0.5:1.5", "delay=0:2"]
    for name, steps in (("once", 512), ("twice", 256)):
        assert say("train", "sac", *drawn, "--total-env-steps", steps, "--run-name", name).code == 0
    assert say("train", "--resume", "runs/twice", "--total-env-steps", 512).code == 0
    digests = [json.loads(Path(f"runs/{name}/summary.json").read_text())["digest"] for name in ("once", "twice")]
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_a_robot_of_the_users_in_brax(say: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its page has it: rough floors and a critic that knows them, evaluated both ways, exported for the actor."""
    monkeypatch.chdir(tmp_path)
    page = list(blocks(ROOT / "docs" / "randomisation.md"))
    (tmp_path / "sled.py").write_text(next(block.text for block in page if block.language == "python"))
    commands = next(block.text for block in page if block.language == "bash").splitlines()
    train, evaluate, export = (line.split()[1:] for line in commands)
    assert say(*train, *SMALL, "--total-env-steps", 256).code == 0
    summary = json.loads(Path("runs/sled/summary.json").read_text())
    assert summary["eval_return_mean"] != summary["eval_nominal_return_mean"]
    said = say(*evaluate).out
    assert "randomised" in said and "nominal" in said
    assert say(*export).code == 0
    policy = load("policy")
    assert policy(np.zeros((3, 2))).shape == (3, 1)
    with pytest.raises(RlxError, match="reads 2 numbers"):
        policy(np.zeros(3))
