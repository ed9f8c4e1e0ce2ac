"""Environments: `vectorise` against plain Python on one of our own, gymnax stepped by hand, and names."""

import importlib.util
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx.envs.base import advance, begin
from rlx.errors import RlxError
from rlx.types import EnvState, Spec, Step
from tests.commands import one_line
from tests.stepping import is_weak, keys_of, scan, types_of

LIMIT = 5  # the counter's time limit
LAST = 7  # it terminates when it counts this far, from a random start in 0..6


class Counter:
    """Counts up by one a step; pays the new count; stays out of [-1, 1] so that nothing is mistaken for an action."""

    spec = Spec(jax.ShapeDtypeStruct((2,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32), LIMIT)
    resets = 0  # traces of reset

    def reset(self, key: jax.Array) -> EnvState:
        Counter.resets += 1
        start = jax.random.randint(key, (), 0, LAST)
        return begin({"start": start, "count": start}, jnp.stack([start, start]))

    def step(self, state: EnvState, action: jax.Array, key: jax.Array) -> tuple[EnvState, Step]:
        start, count = state.inner["start"], state.inner["count"] + 1
        inner = {"start": start, "count": count}
        return advance(state, inner, jnp.stack([count, start]), count + action[0], count == LAST, LIMIT)


@pytest.fixture(scope="module")
def counters() -> tuple[rlx.envs.VectorEnv, EnvState, Step, Step]:
    """40 steps of 16 counters, jitted, and the first three again without jit."""
    vector = rlx.envs.vectorise(Counter(), 16, 32)
    pool = vector.make_pool(jax.random.key(0))
    start = vector.init(pool, keys_of(1, 16))
    actions = jnp.zeros((40, 16, 1))
    _, steps = jax.jit(scan, static_argnums=0)(vector, start, actions, pool, jax.random.key(2))
    keys = jax.random.split(jax.random.key(2), 40)
    plain = []
    for key in keys[:3]:
        start, step = vector.step(start, actions[0], pool, jax.random.split(key, 16))
        plain.append(step)
    return vector, pool, steps, jax.tree.map(lambda *x: jnp.stack(x), *plain)


def test_vector_steps_follow_the_counter(counters):
    """Every flag, reward and episode total, recomputed in Python from each episode's first observation."""
    _, pool, steps, _ = counters
    steps = jax.tree.map(np.asarray, steps)
    starts = set(np.asarray(pool.inner["start"]).tolist())
    kinds = set()
    for env in range(16):
        count, start = steps.next_observation[0, env] - [1, 0]
        total = time = 0
        for t in range(40):
            count, time, total = count + 1, time + 1, total + count + 1
            terminated, truncated = count == LAST, time == LIMIT and count != LAST
            np.testing.assert_array_equal(steps.next_observation[t, env], [count, start])
            assert (steps.terminated[t, env], steps.truncated[t, env]) == (terminated, truncated)
            assert steps.reward[t, env] == count
            assert steps.metrics["episode_return"][t, env] == total
            assert steps.metrics["episode_length"][t, env] == time
            if terminated or truncated:
                kinds.add((terminated, truncated, time == LIMIT))
                count, start = steps.observation[t, env]
                assert count == start and start in starts
                total = time = 0
            else:
                np.testing.assert_array_equal(steps.observation[t, env], [count, start])
    assert kinds == {(True, False, False), (True, False, True), (False, True, True)}  # terminated wins at the limit


def test_vector_steps_are_the_same_without_jit_and_use_the_whole_pool(counters):
    """Pools differ and repeat; a step holds no reset."""
    _, pool, steps, plain = counters
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:3], b), steps, plain)
    ended = np.asarray(steps.terminated | steps.truncated)
    assert set(np.asarray(steps.observation)[ended][:, 1]) == set(np.unique(pool.inner["start"]))

    vector = rlx.envs.vectorise(Counter(), 2, 32)
    one, again, other = (vector.make_pool(jax.random.key(seed)).inner["start"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert len(np.unique(one)) > 3 and not np.array_equal(one, other)
    pool = jax.eval_shape(vector.make_pool, jax.random.key(0))
    state = jax.eval_shape(vector.init, pool, keys_of(0, 2))
    before = Counter.resets
    jax.eval_shape(vector.step, state, jnp.zeros((2, 1)), pool, keys_of(0, 2))
    assert Counter.resets == before


def test_results_follow_the_keys_and_not_the_batch(counters):
    """Environments 4 to 7 alone do what they do among 16, and seeds on a leading axis what they do one by one."""
    vector, pool, _, _ = counters
    keys, actions = keys_of(3, 16), jnp.zeros((16, 1))

    def run(keys: jax.Array, actions: jax.Array, pool: EnvState) -> Any:
        state, step = vector.init(pool, keys), None
        for i in range(3):
            state, step = vector.step(state, actions, pool, jax.vmap(jax.random.fold_in, (0, None))(keys, i))
        return state, step

    run = jax.jit(run)
    all_envs, part = run(keys, actions, pool), run(keys[4:8], actions[4:8], pool)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[4:8], b), all_envs, part)
    seeds = jax.vmap(run, in_axes=(0, 0, None))(keys.reshape(4, 4), actions.reshape(4, 4, 1), pool)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.reshape(a.shape)), all_envs, seeds)


def test_every_step_returns_the_types_of_the_reset():
    """Whatever a library returns: Python numbers, weak types, integers, observations of any shape."""
    key = jax.random.key(0)
    state = begin({"count": 0, "key": key, "speed": 0.5}, jnp.zeros((2, 3), jnp.int32))
    inner = {"count": jnp.float32(1.0), "key": key, "speed": 1}
    after, step = advance(state, inner, jnp.arange(6).reshape(3, 2), jnp.ones(1, jnp.int32), jnp.float32(1.0), LIMIT)
    assert types_of(after) == types_of(state)
    assert not any(map(is_weak, jax.tree.leaves((state, step))))
    assert (state.observation.shape, state.observation.dtype) == ((6,), jnp.float32)
    np.testing.assert_array_equal(after.observation, np.arange(6))
    assert (step.reward.shape, step.reward.dtype, step.terminated.shape) == ((), jnp.float32, ())
    assert (after.inner["count"], after.inner["speed"], after.time, step.terminated) == (1, 1.0, 1, True)


def test_counts_and_shapes_of_actions_are_checked():
    """Others would broadcast: here one action for all environments, there all for one."""
    for count in (0, -1, 2.0, True, None):
        for name, counts in (("num_envs", (count, 1)), ("pool_size", (1, count))):
            with pytest.raises(RlxError, match=f"{name} must be an integer of at least 1"):
                rlx.envs.vectorise(Counter(), *counts)
    vector = rlx.envs.vectorise(rlx.envs.make("gymnax:Pendulum-v1"), 3, 2)
    pool = vector.make_pool(jax.random.key(0))
    state = vector.init(pool, keys_of(0, 3))
    for shape in ((3,), (1, 1), (3, 2)):
        with pytest.raises(RlxError, match=r"actions have shape \(.*\): give \(3, 1\), one row for each environment"):
            vector.step(state, jnp.zeros(shape), pool, keys_of(0, 3))


@pytest.mark.parametrize("name", ["CartPole-v1", "Breakout-MinAtar"])
def test_of_discrete_actions_the_largest_number_is_taken(name):
    """Observations are flat; nothing is terminated by the library's own time limit."""
    import gymnax

    env = rlx.envs.make(f"gymnax:{name}")
    library, params = gymnax.make(name)
    assert env.spec.num_actions == env.spec.action_size == library.action_space(params).n
    observation, inner = library.reset_env(jax.random.key(0), params)
    state = env.reset(jax.random.key(0))
    for choice in (1, 0):
        observation, inner, reward, terminated, _ = library.step_env(jax.random.key(1), inner, choice, params)
        state, step = env.step(state, jax.nn.one_hot(choice, env.spec.num_actions), jax.random.key(1))
        np.testing.assert_array_equal(step.next_observation, np.ravel(observation).astype(np.float32))
        assert (step.reward, step.terminated) == (reward, terminated)
    late = state.replace(inner=state.inner.replace(time=jnp.int32(params.max_steps_in_episode - 1)))
    assert not env.step(late, jax.nn.one_hot(1, env.spec.num_actions), jax.random.key(1))[1].terminated


@pytest.mark.parametrize("name", rlx.envs.GYMNAX)
def test_gymnax_is_the_library_in_unit_actions(name):
    import gymnax

    env = rlx.envs.make(f"gymnax:{name}")
    library, params = gymnax.make(name)
    box = library.action_space(params)
    assert env.spec.action.shape == box.shape and env.spec.episode_length == params.max_steps_in_episode
    observation, inner = library.reset_env(jax.random.key(0), params)
    state = env.reset(jax.random.key(0))
    np.testing.assert_array_equal(state.observation, observation)
    for unit in (-1.0, 0.25, 1.0):
        action = jnp.broadcast_to(box.low + (unit + 1) / 2 * (box.high - box.low), box.shape).astype(jnp.float32)
        observation, inner, reward, terminated, _ = library.step_env(jax.random.key(1), inner, action, params)
        before = types_of(state)
        state, step = env.step(state, jnp.full(box.shape, unit), jax.random.key(1))
        assert types_of(state) == before
        assert step.observation.dtype == jnp.float32 and step.observation.shape == env.spec.observation.shape
        np.testing.assert_allclose(step.next_observation, observation, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(step.reward, reward, rtol=1e-6)
        assert step.terminated == terminated and not step.truncated


def test_gymnax_time_limit_truncates():
    """gymnax's own limit (200 here) ends and resets nothing; ours truncates, which is no termination."""
    env = rlx.envs.make("gymnax:Pendulum-v1", episode_length=300)
    state = env.reset(jax.random.key(0)).replace(time=jnp.int32(298))
    state = state.replace(inner=state.inner.replace(time=jnp.int32(298)))
    for time, truncated in ((299, False), (300, True)):
        state, step = env.step(state, jnp.zeros(1), jax.random.key(0))
        assert not step.terminated and step.truncated == truncated and state.inner.time == time


def test_gymnax_goal_terminates_and_settings_count():
    env = rlx.envs.make("gymnax:MountainCarContinuous-v0", episode_length=1)  # the limit falls on the same step
    state = env.reset(jax.random.key(0))
    state = state.replace(inner=state.inner.replace(position=jnp.float32(0.44), velocity=jnp.float32(0.07)))
    _, step = env.step(state, jnp.ones(1), jax.random.key(0))
    assert step.terminated and not step.truncated
    np.testing.assert_allclose(step.reward, 100 - 0.1, rtol=1e-6)

    heavy, light = (rlx.envs.make("gymnax:Pendulum-v1", m=mass) for mass in (2.0, 1.0))
    state = light.reset(jax.random.key(0))
    moved = [env.step(state, jnp.ones(1), jax.random.key(0))[0].inner.theta_dot for env in (light, heavy)]
    np.testing.assert_allclose(moved[0] - moved[1], 3 * 2.0 * 0.05 / 2, rtol=1e-4)  # 3 u dt / (m l^2)
    assert rlx.envs.make("gymnax:Swimmer-misc", num_urchins=3).spec.observation.shape == (12,)


@pytest.mark.parametrize("theta, tip", [(0.0, (0, 0, 1)), (np.pi / 2, (-1, 0, 0)), (np.pi, (0, 0, -1))])
def test_pendulum_can_be_watched(theta, tip):
    env: Any = rlx.envs.make("gymnax:Pendulum-v1")
    (rod,) = env.scene()["geoms"]
    state = env.reset(jax.random.key(0))
    (pose,) = np.asarray(jax.jit(env.pose)(state.replace(inner=state.inner.replace(theta=jnp.float32(theta)))))
    length = rod["position"][2] + rod["size"][1]
    np.testing.assert_allclose(pose[:3] + turn(pose[3:], [0.0, 0.0, length]), tip, atol=1e-6)


def turn(quaternion: np.ndarray, vector: Any) -> np.ndarray:
    """The vector, turned by a unit quaternion w, x, y, z."""
    w, axis = quaternion[0], quaternion[1:]
    return vector + 2 * np.cross(axis, np.cross(axis, vector) + w * np.asarray(vector))


def test_names_are_the_libraries():
    import brax.envs
    import gymnax
    from gymnax.environments.spaces import Box

    assert set(rlx.envs.BRAX) == set(brax.envs._envs) - {"fast"}  # Brax's own test double
    assert {*rlx.envs.GYMNAX, *rlx.envs.DISCRETE, *rlx.envs.UNTRIED} == set(gymnax.registered_envs)
    for name in set(gymnax.registered_envs) - {"MNISTBandit-bsuite"}:  # it downloads
        env, params = gymnax.make(name)
        assert isinstance(env.action_space(params), Box) == (name in rlx.envs.GYMNAX)
    names = rlx.envs.names()
    assert names["brax:ant"] == ("spring", "positional", "generalized", "mjx")
    assert names["gymnax:Pendulum-v1"] == () and "brax:swimmer" not in names


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "brax:antt"}, "no environment 'brax:antt'; the nearest is 'brax:ant'"),
        ({"name": "Pendulum-v1"}, "no environment 'Pendulum-v1'; the nearest is 'gymnax:Pendulum-v1'"),
        ({"name": ""}, "no environment ''"),
        ({"name": None}, "no environment None"),
        ({"name": "gymnax:Pong-misc"}, "Pong-misc has not been tried with rlx; choose from .*CartPole-v1"),
        ({"name": "brax:swimmer"}, "brax:swimmer is broken: .*jax.numpy.clip"),
        ({"name": "brax:ant", "backend": "sprig"}, "no backend 'sprig'; the nearest is 'spring' of"),
        ({"name": "gymnax:Pendulum-v1", "backend": "spring"}, "one physics only: leave out the backend 'spring'"),
        ({"name": "gymnax:Pendulum-v1", "episode_length": 0}, "episode_length must be an integer of at least 1, not 0"),
        ({"name": "gymnax:Pendulum-v1", "episode_length": True}, "episode_length must be .* not True"),
        ({"name": "gymnax:Pendulum-v1", "gravity": 1}, "Pendulum-v1 has no setting 'gravity'; it has .*max_speed"),
        ({"name": "gymnax:Pendulum-v1", "max_steps_in_episode": 9}, "no setting 'max_steps.*and episode_length"),
        ({"name": "gymnax:Reacher-misc", "num_joints": 4}, "gymnax:Reacher-misc refuses .*: Cannot concatenate"),
        ({"name": "brax:ant", "weight": 1}, "brax:ant has no setting 'weight'; it has .*ctrl_cost_weight"),
        ({"name": "brax:ant", "use_contact_forces": True}, "brax:ant refuses .*not implemented"),
    ],
)
def test_bad_requests_are_one_clear_line(arguments, message):
    with pytest.raises(RlxError, match=message) as error:
        rlx.envs.make(**arguments)
    assert "\n" not in str(error.value)


def test_broken_pairs_and_another_name_of_the_package_are_refused(monkeypatch):
    monkeypatch.setitem(rlx.envs.BROKEN, "brax:ant", {"mjx": "it explodes"})
    with one_line("brax:ant is broken on mjx: it explodes; use spring or positional or generalized"):
        rlx.envs.make("brax:ant", backend="mjx")
    path = pathlib.Path(rlx.envs.__file__)
    spec = importlib.util.spec_from_file_location("envs", path)
    assert spec is not None and spec.loader is not None
    with pytest.raises(ImportError, match=r"import rlx\.envs, not envs"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.slow
def test_imports_are_late_and_silent():
    late = "{'brax', 'gymnax', 'mujoco', 'distrax'} & set(sys.modules)"
    light = "import sys, rlx.envs, rlx.losses, rlx.networks, rlx.normalize; rlx.envs.names()"
    code = f"{light}; print({late}); import rlx.envs.brax_env"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
