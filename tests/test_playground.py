"""MuJoCo Playground: the adapter against a stand-in with its interface, always; the library where it is installed."""

import importlib.util
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.struct import PyTreeNode

import rlx.envs
from rlx.envs import parts
from rlx.envs.playground_env import PlaygroundEnv
from rlx.errors import RlxError

LENGTH = 4


class Data(PyTreeNode):
    """Of mjx.Data what the adapter reads, and what no step does."""

    qpos: jax.Array
    qvel: jax.Array
    xpos: jax.Array
    xquat: jax.Array
    scratch: jax.Array
    empty: jax.Array  # read, and without a number: of a model that has none of something


class Model(PyTreeNode):
    """Of mjx.Model what a test draws."""

    mass: jax.Array


class State(PyTreeNode):
    """As Playground's own."""

    data: Data
    obs: Any
    reward: jax.Array
    done: jax.Array
    metrics: dict[str, jax.Array]
    info: dict[str, Any]


class Slider:
    """A mass that is pushed; done past 1, and, as in Playground, where it diverged: beyond 5 it does."""

    action_size = 1
    dt = 0.05

    def __init__(self, entries: tuple[str, ...] = ()) -> None:
        self.entries = entries
        self.mj_model = SimpleNamespace(ngeom=0)
        self._mjx_model = Model(jnp.ones(()))

    @property
    def mjx_model(self) -> Model:
        return self._mjx_model

    def reset(self, rng: jax.Array) -> State:
        place = jax.random.uniform(rng, (1,), maxval=0.1)
        info = {"rng": rng, "steps": 0, "noise": jnp.zeros(())}
        return self._state(place, jnp.zeros(()), info)

    def step(self, state: State, action: jax.Array) -> State:
        place = state.data.qpos + action / self.mjx_model.mass + state.data.empty.sum()
        place = jnp.where(place > 5, jnp.nan, place)
        state.info["rng"], key = jax.random.split(state.info["rng"])  # in place, as Playground does
        noise = jax.random.normal(key)
        done = (place[0] > 1) | jnp.isnan(place).any()
        info = state.info | {"steps": state.info["steps"] + 1, "noise": noise}
        return self._state(place, done.astype(float), info)

    def _state(self, place: jax.Array, done: jax.Array, info: dict[str, Any]) -> State:
        poses = jnp.zeros((2, 3)).at[1, 0].set(place[0]), jnp.tile(jnp.array([1.0, 0, 0, 0]), (2, 1))
        data = Data(place, place * 0, *poses, scratch=jnp.zeros(100), empty=jnp.zeros(0))
        seen = jnp.stack([jnp.nan_to_num(place[0]), info["noise"]])  # hides that it diverged
        entries = {name: seen + i for i, name in enumerate(self.entries)}
        return State(data, entries or seen, place[0], done, {"speed": place[0]}, info)


def rollout(env: PlaygroundEnv, actions: list[float], seed: int = 0) -> list[Any]:
    state, seen = env.reset(jax.random.key(0)), []
    for t, action in enumerate(actions):
        before = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
        state, step = env.step(state, jnp.full((1,), action), jax.random.fold_in(jax.random.key(seed), t))
        assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state) == before
        seen.append(step)
    return seen


def flags(steps: list[Any]) -> list[tuple[bool, bool]]:
    return [(bool(step.terminated), bool(step.truncated)) for step in steps]


def test_spec_and_what_is_carried() -> None:
    """The place alone is read by later steps, and poses are drawn; the key is the step's."""
    env = PlaygroundEnv(Slider(), LENGTH)
    assert (env.spec.observation.shape, env.spec.action.shape, env.spec.episode_length) == ((2,), (1,), LENGTH)
    state = env.reset(jax.random.key(0))
    assert sorted(leaf.shape for leaf in state.inner) == [(1,), (2, 3), (2, 4)]
    assert 0 <= state.observation[0] < 0.1
    np.testing.assert_array_equal(env.pose(state)[0], [state.observation[0], 0, 0, 1, 0, 0, 0])
    assert env.scene() == {"dt": 0.05, "geoms": []}


def test_the_time_limit_is_ours() -> None:
    """Truncated at the limit; terminated where the task ended, also at the limit; rewards and observations true."""
    env = PlaygroundEnv(Slider(), LENGTH)
    steps = rollout(env, [0.1] * LENGTH)
    assert flags(steps) == [(False, False)] * 3 + [(False, True)]
    start = float(env.reset(jax.random.key(0)).observation[0])
    np.testing.assert_allclose([step.next_observation[0] for step in steps], start + 0.1 * np.arange(1, 5), rtol=1e-5)
    np.testing.assert_allclose([step.reward for step in steps], start + 0.1 * np.arange(1, 5), rtol=1e-5)
    assert flags(rollout(env, [0.1, 1.0])) == [(False, False), (True, False)]
    assert flags(rollout(env, [0.1, 0.1, 0.1, 1.0]))[-1] == (True, False)


def test_a_simulation_that_diverged_is_no_end_of_the_task() -> None:
    """Though the library says done: the observation is NaN, and a batch that contains such steps cuts the episode."""
    env = PlaygroundEnv(Slider(), LENGTH)
    _, bad = rollout(env, [0.1, 9.0])
    assert flags([bad]) == [(False, False)] and np.isnan(bad.next_observation).all()
    batch = rlx.envs.vectorise(env, 2, 4, truncate_nonfinite=True)
    pool = batch.make_pool(jax.random.key(0))
    state = batch.init(pool, jax.random.split(jax.random.key(1), 2))
    _, step = batch.step(state, jnp.array([[0.1], [9.0]]), pool, jax.random.split(jax.random.key(2), 2))
    assert (list(step.terminated), list(step.truncated)) == ([False, False], [False, True])
    assert np.isfinite(step.next_observation).all() and list(step.metrics["bad_observation"]) == [False, True]


def test_randomness_follows_the_keys_of_steps() -> None:
    """Two episodes from one start draw other numbers, and the same keys the same ones; jit and vmap change nothing."""
    env = PlaygroundEnv(Slider(), LENGTH)
    noise = [[float(step.next_observation[1]) for step in rollout(env, [0.1, 0.1], seed)] for seed in (0, 0, 1)]
    assert noise[0] == noise[1] and not set(noise[0]) & set(noise[2])
    keys = jax.random.split(jax.random.key(0), 3)
    states, actions = jax.vmap(env.reset)(keys), jnp.full((3, 1), 0.3)
    plain = env.step(jax.tree.map(lambda x: x[1], states), actions[1], keys[1])
    many = jax.jit(jax.vmap(env.step))(states, actions, keys)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[1], rtol=1e-6), plain, many)


@pytest.mark.parametrize(
    ("entries", "size", "offset"), [((), 2, 0), (("privileged", "state"), 2, 1), (("b", "a"), 4, 1), (("pad",), 2, 0)]
)
def test_dictionaries_of_observations(entries: tuple[str, ...], size: int, offset: int) -> None:
    """`state` alone where there is one; else everything, in the order of names."""
    env = parts.choose(PlaygroundEnv(Slider(entries), LENGTH))
    state = env.reset(jax.random.key(0))
    assert env.spec.observation.shape == state.observation.shape == (size,)
    assert offset <= state.observation[0] < offset + 0.1


def test_critics_read_what_policies_do_not() -> None:
    """`privileged_state` by name, as Playground calls it; other entries are left out."""
    library = PlaygroundEnv(Slider(("pad", "privileged_state", "state")), LENGTH)
    env = parts.choose(library, ["state"], ["state", "privileged_state"])
    assert env.spec.parts == {"privileged_state": (0, 2), "state": (2, 4)}
    state, step = env.step(env.reset(jax.random.key(0)), jnp.array([0.5]), jax.random.key(1))
    np.testing.assert_array_equal(state.observation, step.next_observation)
    np.testing.assert_allclose(env.spec.actor_observation(step.observation), step.observation[:2] + 1)
    np.testing.assert_allclose(env.spec.critic_observation(step.observation), step.observation[jnp.array([2, 3, 0, 1])])
    assert step.metrics.keys() == {"speed"} == set(env.spec.metrics)


def test_playgrounds_randomization_fn() -> None:
    """As its `domain_randomize`: it draws leaves of `mjx_model`, which a step then reads."""

    def domain_randomize(model: Any, rng: jax.Array) -> tuple[Any, Any]:
        mass = jax.vmap(lambda key: jax.random.uniform(key, minval=2.0, maxval=4.0))(rng)
        return model.replace(mass=mass), jax.tree.map(lambda _: None, model).replace(mass=0)

    library = Slider()
    env = rlx.envs.randomize(PlaygroundEnv(library, LENGTH), domain_randomize)
    for params in (None, env.params):  # type: ignore[attr-defined]
        start = env.reset(jax.random.key(0), *([] if params is None else [params]))
        after, _ = env.step(start, jnp.array([0.6]), jax.random.key(1))
        moved = float(after.observation[0] - start.observation[0])
        assert 0.15 < moved < 0.3 if params is None else moved == pytest.approx(0.6)
    assert library.mjx_model.mass == 1


def test_names_with_and_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it none is listed, and asking for one says what to install; with it, the library is not imported."""
    find, missing = importlib.util.find_spec, "mujoco_playground"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    assert not any(name.startswith("playground:") for name in rlx.envs.names())
    with pytest.raises(RlxError) as error:
        rlx.envs.make("playground:CartpoleBalance")
    how = 'in the clone, pip install -c constraints.txt -e ".[playground]"'
    assert str(error.value) == f"playground:CartpoleBalance needs MuJoCo Playground, which is not here; {how}"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == missing or find(name))
    assert rlx.envs.names()["playground:CartpoleBalance"] == ()
    with pytest.raises(RlxError, match="the nearest is 'playground:CheetahRun'"):
        rlx.envs.make("playground:CheetaRun")
    with pytest.raises(RlxError, match="has one physics only: leave out the backend 'mjx'"):
        rlx.envs.make("playground:CheetahRun", "mjx")


@pytest.fixture(scope="module")
def library() -> Any:
    """The library; without it these tests are skipped, and the summary of pytest's -rs says so."""
    return pytest.importorskip("mujoco_playground", reason='needs the extra: pip install -e ".[playground]"')


def test_the_library_has_these_names(library: Any) -> None:
    assert (*rlx.envs.CONTROL_SUITE, *rlx.envs.ROBOTS) == library.registry.ALL_ENVS
    assert rlx.envs.CONTROL_SUITE == library.dm_control_suite.ALL_ENVS


def test_cartpole_is_the_library_s(library: Any) -> None:
    """Stepped by hand from the same start."""
    env: Any = rlx.envs.make("playground:CartpoleBalance")
    theirs = library.registry.load("CartpoleBalance", config_overrides={"impl": "jax"})
    key = jax.random.key(0)
    state, start = env.reset(key), jax.jit(theirs.reset)(key)
    np.testing.assert_allclose(state.observation, start.obs, rtol=1e-6)
    step, their_step = jax.jit(env.step), jax.jit(theirs.step)
    for action in (-1.0, 0.5, 1.0):
        state, seen = step(state, jnp.full((1,), action), key)
        start = their_step(start, jnp.full((1,), action))
        np.testing.assert_allclose(seen.next_observation, start.obs, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(seen.reward, start.reward, rtol=1e-5)
    assert (env.spec.episode_length, env.spec.action_size) == (1000, 1)
    assert {geom["shape"] for geom in env.scene()["geoms"]} <= {"plane", "capsule", "box", "sphere", "cylinder"}
    assert env.pose(state).shape[1] == 7


def test_what_the_library_refuses(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RlxError, match=r"^playground:CartpoleBalance has no setting 'speed'; it has action_repeat, "):
        rlx.envs.make("playground:CartpoleBalance", speed=2)
    from mujoco_playground._src import mjx_env

    monkeypatch.setattr(mjx_env, "MENAGERIE_PATH", mjx_env.MENAGERIE_PATH / "nowhere")
    monkeypatch.setattr(mjx_env, "ensure_menagerie_exists", lambda: pytest.fail("would have fetched"))
    with pytest.raises(RlxError, match=r"^playground:Go1Getup: the model of its robot is not here, and rlx downloads "):
        rlx.envs.make("playground:Go1Getup")
