"""Exploration noise with a state: how long it is held, and whose scale is drawn when."""

import jax
import jax.numpy as jnp
import numpy as np

from rlx import policies
from tests.loss_tools import near, three_ways


def test_noise_is_held_for_steps_that_each_environment_draws() -> None:
    """Lengths k of 1 to 4 have probability proportional to k^-2, and environments change at steps of their own."""
    envs, steps = 64, 400
    start = jax.tree.map(lambda x: jnp.stack([x] * envs), policies.no_noise_yet(2))

    def step(noise: policies.HeldNoise, key: jax.Array) -> tuple[policies.HeldNoise, tuple[jax.Array, jax.Array]]:
        new = policies.hold(noise, key, 4)
        return new, (new.draw, noise.steps_left == 0)

    _, (draws, drawn) = jax.jit(lambda keys: jax.lax.scan(step, start, keys))(
        jax.random.split(jax.random.key(0), steps)
    )
    changed = (np.diff(draws, axis=0) != 0).all(-1)
    np.testing.assert_array_equal(changed, drawn[1:])
    assert not changed.all(axis=1).any() and drawn[0].all()
    lengths = np.concatenate([np.diff(np.flatnonzero(drawn[:, e])) for e in range(envs)])
    shares, wanted = np.bincount(lengths, minlength=5)[1:] / len(lengths), np.arange(1, 5.0) ** -2
    np.testing.assert_allclose(shares, wanted / wanted.sum(), atol=0.02)
    np.testing.assert_allclose(np.asarray(draws)[np.asarray(drawn)].std(), 1, rtol=0.03)


def test_a_step_of_held_noise_by_hand() -> None:
    noise = policies.HeldNoise(jnp.array([[1.0], [2.0]]), jnp.array([2, 0], jnp.int32))
    for result in (
        policies.hold(noise, jax.random.key(0), 1),
        jax.jit(policies.hold, static_argnums=2)(noise, jax.random.key(0), 1),
    ):
        assert result.draw[0] == 1 and result.draw[1] != 2 and result.steps_left.tolist() == [1, 0]
    for action in three_ways(policies.squash, np.float32([0.1]), np.float32([-1.0]), np.float32([0.5])):
        near(action, np.tanh(0.1 + 0.5 * np.exp([-1.0])))


def test_a_scale_is_drawn_once_an_episode() -> None:
    """Where there is one it stays; where an episode begins it is uniform between the bounds."""
    scale = jnp.concatenate([jnp.full(4000, -1.0), jnp.full(4000, 0.3)])
    noisy, new = jax.jit(policies.with_own_noise)(jnp.zeros((8000, 1)), scale, jnp.array([0.2, 0.6]), jax.random.key(0))
    drawn = np.asarray(new[:4000])
    np.testing.assert_allclose([drawn.min(), drawn.mean(), drawn.max()], [0.2, 0.4, 0.6], atol=0.01)
    np.testing.assert_array_equal(new[4000:], np.float32(0.3))
    np.testing.assert_allclose(np.std(noisy[4000:]), 0.3, rtol=0.05)
    assert jnp.abs(noisy).max() <= 1
