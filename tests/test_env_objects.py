"""Environments of Brax, gymnax and Playground as objects, and things that are none."""

import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.struct import PyTreeNode

import rlx
from rlx import envs
from rlx.errors import RlxError
from tests.walk import Walk


class Physics(PyTreeNode):
    """A state without Brax's pipeline."""

    place: jax.Array


def brax_env(dictionary: bool = False) -> Any:
    from brax import envs as brax

    class Slide(brax.Env):
        """Slides by its action and the noise and the drift that `info` carries; done past 2."""

        observation_size, action_size, backend = 1, 1, "none"

        def reset(self, rng: jax.Array) -> Any:
            zero = jnp.zeros(())
            info = {"rng": rng, "steps": 0, "drift": jax.random.uniform(rng), "unread": jnp.zeros(7)}
            obs = {"state": jnp.zeros(1)} if dictionary else jnp.zeros(1)
            return brax.State(Physics(jnp.zeros(1)), obs, zero, zero, {"m": zero}, info)

        def step(self, state: Any, action: jax.Array) -> Any:
            noise = jax.random.normal(state.info["rng"], (1,))
            place = state.pipeline_state.place + action + state.info["drift"] + 0.01 * noise
            info = state.info | {"steps": state.info["steps"] + 1}
            obs = jnp.append(place, info["steps"])[:1] + 0 * info["steps"]
            done = (place[0] > 2).astype(jnp.float32)
            return state.replace(pipeline_state=Physics(place), obs=obs, reward=place[0], done=done, info=info)

    return Slide()


def test_a_brax_environment_is_wrapped_with_its_info() -> None:
    inside = brax_env()
    env = envs.wrap(inside)
    assert env.spec.episode_length == 1000 and envs.name_of(inside) == "Slide" and env.scene() is None  # type: ignore[attr-defined]
    start, x = env.reset(jax.random.key(0)), 0.0
    drift = jax.random.uniform(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 3)
    state = start
    for i, key in enumerate(keys, 1):
        state, step = env.step(state, jnp.full(1, 0.1), key)
        x = x + 0.1 + float(drift) + 0.01 * float(jax.random.normal(key, (1,))[0])  # the step's key takes rng's place
        np.testing.assert_allclose(step.next_observation, [x], rtol=1e-5)
        assert state.time == i and step.terminated == (x > 2)
    assert sum(leaf.size for leaf in jax.tree.leaves(start.inner)) < 7, "what no step reads is not carried"
    envs.check(envs.wrap(inside, 6))


def test_brax_wrappers_for_training_are_refused() -> None:
    from brax.envs.wrappers.training import EpisodeWrapper

    with pytest.raises(RlxError, match="Slide is inside Brax's EpisodeWrapper"):
        envs.wrap(EpisodeWrapper(brax_env(), 10, 1))


def test_a_gymnax_environment_is_wrapped_with_its_parameters() -> None:
    import gymnax

    inside, params = gymnax.make("Pendulum-v1")
    assert envs.wrap(inside).spec == envs.make("gymnax:Pendulum-v1").spec
    env = envs.wrap((inside, params.replace(m=3.0)), 7)
    same = envs.make("gymnax:Pendulum-v1", m=3.0)
    state, key = env.reset(jax.random.key(0)), jax.random.key(1)
    ours, theirs = (e.step(state, jnp.ones(1), key)[1] for e in (env, same))
    np.testing.assert_array_equal(ours.next_observation, theirs.next_observation)
    assert env.spec.episode_length == 7
    discrete = envs.wrap(gymnax.make("CartPole-v1")[0])
    assert discrete.spec.num_actions == discrete.spec.action_size == 2


def test_what_libraries_have_registered_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import brax.envs
    import gymnax.registration

    monkeypatch.setattr(brax.envs, "_envs", dict(brax.envs._envs))
    monkeypatch.setattr(gymnax.registration, "_registry", dict(gymnax.registration._registry))
    monkeypatch.setattr(gymnax.registration, "registered_envs", list(gymnax.registration.registered_envs))
    brax.envs.register_environment("slide", lambda: brax_env())
    gymnax.registration.register("Mine-v0", type(gymnax.make("Pendulum-v1")[0]))
    assert envs.make("brax:slide", episode_length=9).spec.episode_length == 9
    assert envs.make("gymnax:Mine-v0", g=1.0).spec.observation_size == 3
    with pytest.raises(RlxError, match="has no setting 'mass'"):
        envs.make("brax:slide", mass=1)


def test_playground_environments_are_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.test_playground import Slider

    monkeypatch.setitem(sys.modules, "mujoco_playground._src.mjx_env", SimpleNamespace(MjxEnv=Slider))
    monkeypatch.setattr(Slider, "_config", SimpleNamespace(episode_length=3), raising=False)
    assert envs.wrap(Slider()).spec.episode_length == 3


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (Walk, r"Walk is a class: give an object of it, as in Walk\(\)"),
        (envs.to_gymnasium(Walk()), "GymnasiumEnv is a Gymnasium environment"),
        (3, "int is no environment"),
    ],
)
def test_fit_says_what_is_no_environment(thing: Any, message: str) -> None:
    with pytest.raises(RlxError, match=message):
        rlx.fit("sac", thing)
