"""Brax environments against the library stepped by hand."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx.types import EnvState, Step
from tests.stepping import is_weak, keys_of, scan, types_of

LIMIT = 5  # of time
POLE_KEYS, POLE_STEPS = 3, 12


@pytest.fixture(scope="module")
def pole() -> Any:
    return rlx.envs.make("brax:inverted_pendulum", backend="generalized", episode_length=LIMIT)


@pytest.fixture(scope="module")
def poles(pole) -> tuple[EnvState, Step]:
    """Two poles, one left alone and one pushed, from a pool of three starts."""
    vector = rlx.envs.vectorise(pole, 2, POLE_KEYS)
    pool = jax.jit(vector.make_pool)(jax.random.key(0))
    actions = jnp.broadcast_to(jnp.array([[0.0], [1.0]]), (POLE_STEPS, 2, 1))
    start = jax.jit(vector.init)(pool, keys_of(1, 2))
    _, steps = jax.jit(scan, static_argnums=0)(vector, start, actions, pool, jax.random.key(2))
    return pool, jax.tree.map(np.asarray, steps)


@pytest.fixture(scope="module")
def by_hand(pole) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Brax's own observations, rewards and flags `[LIMIT + 1, start, action 0 or 1, ...]`, from the pool's starts."""
    brax = pole._env
    starts = jax.jit(jax.vmap(brax.reset))(jax.random.key_data(keys_of(0, POLE_KEYS)))
    states = [jax.tree.map(lambda x: jnp.stack([x, x], axis=1), starts)]
    step = jax.jit(jax.vmap(jax.vmap(brax.step, (0, 0)), (0, None)))
    for _ in range(LIMIT):
        states.append(step(states[-1], jnp.array([[0.0], [1.0]])))
    stack = [np.stack([getattr(s, name) * np.ones((POLE_KEYS, 2)) for s in states]) for name in ("reward", "done")]
    return np.stack([s.obs for s in states]), stack[0], stack[1]


@pytest.mark.slow
def test_brax_keeps_the_true_last_observation(poles, by_hand):
    """Each episode equals Brax stepped by hand, its last observation included, and ends as it should."""
    pool, steps = poles
    observations, rewards, done = by_hand
    seen: list[tuple[int, str]] = []
    for env in (0, 1):
        first, time = None, 0
        for t in range(POLE_STEPS):
            if first is not None:
                time += 1
                np.testing.assert_allclose(steps.next_observation[t, env], observations[time, first, env], atol=1e-5)
                assert steps.reward[t, env] == rewards[time, first, env] == 1
                terminated = bool(done[time, first, env])
                assert steps.terminated[t, env] == terminated
                assert steps.truncated[t, env] == (time == LIMIT and not terminated)
                assert steps.metrics["episode_length"][t, env] == steps.metrics["episode_return"][t, env] == time
            if steps.terminated[t, env] or steps.truncated[t, env]:
                seen += [(env, "terminated" if steps.terminated[t, env] else "truncated")] if first is not None else []
                (rows,) = np.nonzero((np.asarray(pool.observation) == steps.observation[t, env]).all(axis=1))
                first, time = rows[0], 0
            else:
                np.testing.assert_array_equal(steps.observation[t, env], steps.next_observation[t, env])
    assert {(0, "truncated"), (1, "terminated")} == set(seen)


def test_brax_types_never_change(pole):
    """Otherwise a scan would fail and every program would be compiled twice. Typed keys of any generator are taken."""
    for impl in ("threefry2x32", "rbg"):
        state = jax.eval_shape(pole.reset, jax.random.key(0, impl=impl))
        after, step = jax.eval_shape(pole.step, state, jnp.zeros(1), jax.random.key(0))
        assert types_of(after) == types_of(state)
        assert not any(map(is_weak, jax.tree.leaves((state, step))))
        assert (state.observation.shape, state.observation.dtype) == ((4,), jnp.float32)


@pytest.mark.slow
def test_brax_takes_actions_of_any_type(pole):
    """Reduced precision and NumPy's float64 give the types and, but for rounding, the numbers of float32."""
    state = pole.reset(jax.random.key(0))
    _, exact = pole.step(state, jnp.full((1,), 0.5), jax.random.key(1))
    for action in (jnp.full((1,), 0.5, jnp.bfloat16), np.full((1,), 0.5)):
        after, step = pole.step(state, action, jax.random.key(1))
        assert types_of(after) == types_of(state)
        np.testing.assert_allclose(step.observation, exact.observation, atol=1e-6)


@pytest.mark.slow
def test_brax_can_be_watched(pole, poles):
    """The scene is plain JSON and the links stand where MuJoCo's own kinematics puts them."""
    import mujoco

    pool, _ = poles
    scene = json.loads(json.dumps(pole.scene()))
    assert scene["dt"] == pytest.approx(0.04)
    assert {(geom["shape"], geom["link"]) for geom in scene["geoms"]} == {("capsule", link) for link in (-1, 0, 1)}
    model = pole._env.sys.mj_model
    data = mujoco.MjData(model)
    for row in range(POLE_KEYS):
        state = jax.tree.map(lambda leaf, row=row: leaf[row], pool)
        data.qpos[:] = state.observation[:2]
        mujoco.mj_kinematics(model, data)
        pose = np.asarray(pole.pose(state))
        np.testing.assert_allclose(pose, np.concatenate([data.xpos, data.xquat], axis=1)[1:], atol=1e-6)


def test_brax_rescales_what_needs_it(tmp_path, monkeypatch):
    """Environments whose actuators do not range over [-1, 1] are exactly those that map their actions themselves."""
    import inspect

    import brax.envs
    import mujoco

    from rlx.envs.geoms import quietly

    monkeypatch.chdir(tmp_path)
    files = {"halfcheetah": "half_cheetah"}
    for name in rlx.envs.BRAX:
        kind = brax.envs._envs[name]
        path = pathlib.Path(brax.envs.__file__).parent / "assets" / f"{files.get(name, name)}.xml"
        with quietly():
            ranges = mujoco.MjModel.from_xml_path(str(path)).actuator_ctrlrange
        maps = "Scale action from [-1,1] to actuator limits" in inspect.getsource(kind.step)
        assert maps or np.array_equal(ranges, np.broadcast_to([-1.0, 1.0], ranges.shape)), name
    assert not any(tmp_path.iterdir())  # MuJoCo would leave a log of its warnings here


@pytest.mark.slow
def test_swimmer_is_still_broken():
    """When this fails, take it out of the table."""
    import brax.envs

    env = brax.envs.get_environment("swimmer", backend="generalized")
    state = jax.eval_shape(env.reset, jax.random.key(0))
    with pytest.raises(TypeError, match="clip"):
        jax.eval_shape(env.step, state, jnp.zeros(2))
