"""Wrappers of environments against numbers by hand: plain, jitted and vmapped; their names, and what they refuse."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import envs
from rlx.envs import wrappers
from rlx.envs.base import advance, begin
from rlx.envs.sources import sources
from rlx.errors import RlxError
from rlx.types import EnvState, Key, Spec, Step

ONE = jax.ShapeDtypeStruct((1,), jnp.float32)
LIMIT = 5


class Line:
    """x' = x + a from x = 1, the reward is x', terminated beyond 9; observations are x and 10 x."""

    spec = Spec(jax.ShapeDtypeStruct((2,), jnp.float32), ONE, LIMIT, {"cost": jax.ShapeDtypeStruct((), jnp.float32)})

    def reset(self, key: Key) -> EnvState:
        return begin(jnp.ones(()), jnp.array([1.0, 10.0]))

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        x = state.inner + action[0]
        after, step = advance(state, x, jnp.stack([x, 10 * x]), x, x > 9, LIMIT)
        return after, step._replace(extras={"cost": -x})

    def scene(self) -> dict[str, Any]:
        return {"dt": 0.1, "geoms": []}

    def pose(self, state: EnvState) -> jax.Array:
        return jnp.broadcast_to(state.inner, (1, 7))


def follow(env: Any, actions: list[float], key: int = 0) -> tuple[np.ndarray, ...]:
    """Observations, rewards, terminated, truncated and time of an episode, the same plain, jitted and vmapped."""

    def episode(key: Key, actions: jax.Array) -> tuple[jax.Array, ...]:
        state, shown = env.reset(key), []
        seen = [state.observation]
        for i, action in enumerate(actions):
            state, step = env.step(state, action[None], jax.random.fold_in(key, i))
            seen.append(state.observation)
            shown.append((step.reward, step.terminated, step.truncated, state.time))
        return jnp.stack(seen), *(jnp.stack(column) for column in zip(*shown, strict=True))

    arguments = jax.random.key(key), jnp.asarray(actions, jnp.float32)
    plain = episode(*arguments)
    several = jax.jit(jax.vmap(episode, (0, None)))(jax.random.split(arguments[0], 2), arguments[1])
    for one, jitted, row in zip(plain, jax.jit(episode)(*arguments), several, strict=True):
        np.testing.assert_allclose(one, jitted, rtol=1e-6)
        assert row.shape == (2, *one.shape)
    envs.quick(env)
    return tuple(map(np.asarray, plain))


def test_history_holds_the_last_observations_the_oldest_first() -> None:
    seen, *_ = follow(wrappers.history(Line(), 3), [1, 1, 1])
    x = np.array([[1, 1, 1], [1, 1, 2], [1, 2, 3], [2, 3, 4]])
    np.testing.assert_array_equal(seen, np.stack([x, 10 * x], axis=-1).reshape(4, 6))


def test_history_keeps_named_parts_together() -> None:
    line = Line()
    line.spec = line.spec._replace(parts={"a": (0, 1), "b": (1, 2), "both": (0, 2)}, actor_parts=("b",))
    env = wrappers.history(line, 2)
    assert env.spec.parts == {"a": (0, 2), "b": (2, 4), "both": (0, 4)}
    np.testing.assert_array_equal(follow(env, [1, 1])[0], [[1, 1, 10, 10], [1, 2, 10, 20], [2, 3, 20, 30]])
    assert wrappers.time_observation(env).spec.parts["time"] == (4, 5)


def test_actions_take_effect_later() -> None:
    _, rewards, *_ = follow(wrappers.action_delay(Line(), 2), [1, 2, 3, 4])
    np.testing.assert_array_equal(rewards, [1, 1, 2, 4])


def test_actions_are_repeated_to_the_end_of_the_episode() -> None:
    """Limit 5: the third step holds one; from 1, 8 and 8 more are beyond 9, so the second counts for nothing."""
    env = wrappers.action_repeat(Line(), 2)
    assert env.spec.episode_length == 3 and env.scene() == {"dt": 0.2, "geoms": []}
    seen, rewards, terminated, truncated, time = follow(env, [1, 1, 0])
    np.testing.assert_array_equal(seen[:, 0], [1, 3, 5, 5])
    np.testing.assert_array_equal(rewards, [2 + 3, 4 + 5, 5])
    assert truncated.tolist() == [False, False, True] and not terminated.any() and time.tolist() == [1, 2, 3]
    _, rewards, terminated, *_ = follow(env, [9])
    assert rewards.tolist() == [10] and terminated.tolist() == [True]
    _, step = env.step(env.reset(jax.random.key(0)), jnp.ones(1), jax.random.key(1))
    assert step.extras["cost"] == -3


def test_changes_of_actions_are_measured_and_penalised() -> None:
    """Actions 1, 2, 4 change by 0 (the first), 1, 2, and the change by 0, 1, 1."""
    env = wrappers.action_rate(Line(), 0.5)
    np.testing.assert_allclose(follow(env, [1, 2, 4])[1], [2, 4 - 0.5 * 1, 8 - 0.5 * 4])
    state, shown = env.reset(jax.random.key(0)), []
    for action in (1.0, 2.0, 4.0):
        state, step = env.step(state, jnp.array([action]), jax.random.key(0))
        shown.append([float(step.extras[name]) for name in ("action_rate", "action_acceleration", "cost")])
    assert shown == [[0, 0, -2], [1, 1, -4], [2, 1, -8]]


def test_a_robots_contract_follows_wrappers() -> None:
    line = Line()
    line.interface = lambda: {"observation": {"units": ["m", "dm"]}, "control_dt": 0.1}  # type: ignore[attr-defined]
    inside = wrappers.action_rate(wrappers.action_repeat(line, 2), 0.0).interface()
    assert inside == {"observation": {"units": ["m", "dm"]}, "control_dt": 0.2}
    read = sources(wrappers.time_observation(wrappers.history(wrappers.history(line, 2), 2)))
    by_hand = [(0, 2), (1, 2), (0, 1), (1, 1), (0, 1), (1, 1), (0, 0), (1, 0), (2, 0)]
    assert [tuple(number) for number in read.numbers] == by_hand and read.time_limit == LIMIT


def test_rewards_are_scaled_and_clipped() -> None:
    env = wrappers.reward_clip(wrappers.reward_scale(Line(), -0.5), -2.0, -1.2)
    np.testing.assert_allclose(follow(env, [1, 1, 4])[1], [-1.2, -1.5, -2.0])


@pytest.mark.parametrize(("length", "at"), [(3, 3), (5, 5), (7, 7)])
def test_the_time_limit_takes_the_place_of_the_environments_own(length: int, at: int) -> None:
    env = wrappers.time_observation(wrappers.episode_length(Line(), length))
    seen, _, _, truncated, time = follow(env, [0] * length)
    assert truncated.tolist() == [False] * (at - 1) + [True] and time[-1] == length
    np.testing.assert_allclose(seen[:, 2], np.arange(length + 1) / length, rtol=1e-6)
    assert follow(env, [9])[2:4] == (True, False)


def test_noise_is_new_in_every_step_and_leaves_the_state_alone() -> None:
    seen, rewards, *_ = follow(wrappers.observation_noise(Line(), 0.1), [0, 0, 0])
    noise = seen - [1, 10]
    assert len(np.unique(noise)) == noise.size and 0.01 < np.abs(noise).mean() < 0.3
    np.testing.assert_array_equal(rewards, 1)
    draws = jax.vmap(lambda key: wrappers.observation_noise(Line(), 0.5).reset(key).observation[0])
    assert np.std(draws(jax.random.split(jax.random.key(0), 4000))) == pytest.approx(0.5, rel=0.05)


def test_names_apply_the_first_innermost() -> None:
    line = Line()
    assert wrappers.apply(line, ["none"]) is line
    env: Any = wrappers.apply(line, ["action_repeat:2", "none", "history:2", "reward_clip:-1:4"])
    seen, rewards, *_ = follow(env, [1, 1])
    np.testing.assert_array_equal(seen[-1], [3, 30, 5, 50])
    np.testing.assert_array_equal(rewards, [4, 4])
    assert envs.name_of(env) == "Line" and env.spec.extras == Line.spec.extras
    np.testing.assert_array_equal(env.pose(env.reset(jax.random.key(0))), np.ones((1, 7)))


def test_parameters_of_an_episode_reach_the_environment_inside() -> None:
    class Drawn(Line):
        params = jnp.float32(2.0)

        def reset(self, key: Key, params: Any = None) -> EnvState:
            return begin(self.params if params is None else params, jnp.zeros(2))

    env: Any = wrappers.action_delay(wrappers.history(Drawn(), 2), 1)
    assert env.params == 2.0
    assert env.reset(jax.random.key(0), jnp.float32(7.0)).inner.env.inner.env.inner == 7.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hist:3", "did you mean history"),
        ("history", "must be history:LENGTH"),
        ("history:x", "must be history:LENGTH"),
        ("history:3:4", "must be history:LENGTH"),
        ("history:0", "history must be an integer of at least 1"),
        ("observation_noise:-1", "at least 0"),
        ("reward_scale:nan", "must be a finite number"),
        ("reward_clip:1:0", "at least 1"),
    ],
)
def test_what_is_no_wrapper(text: str, message: str) -> None:
    with pytest.raises(RlxError, match=message):
        wrappers.apply(Line(), [text])


def test_every_wrapper_passes_the_check() -> None:
    """All at once, on an environment with noise and terminations."""
    from tests.walk import Walk

    texts = ["observation_noise:0.1", "action_delay:1", "action_repeat:2", "history:2", "time_observation"]
    check: Callable[[Any], None] = envs.check
    check(wrappers.apply(Walk(), [*texts, "reward_scale:2", "reward_clip:-1:1", "episode_length:9"]))
