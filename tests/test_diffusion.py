"""Diffusion: the schedule's figures, the loss, and samplers whose answer is known."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import diffusion
from tests.commands import one_line
from tests.loss_tools import three_ways

FIVE = diffusion.vp_schedule(5)
POINT = jnp.array([0.3, -0.8])


def perfect(x: jax.Array, time: jax.Array) -> jax.Array:
    """The noise in x if all data were POINT."""
    alpha_bar = jnp.asarray(FIVE.alpha_bar)[time][..., None]
    return (x - jnp.sqrt(alpha_bar) * POINT) / jnp.sqrt(1 - alpha_bar)


def zero(x: jax.Array, time: jax.Array) -> jax.Array:
    return jnp.zeros_like(x)


def test_figures_of_the_schedule() -> None:
    """The sum over the steps is the integral of one rate: exp(-(beta_min + beta_max) / 2)."""
    np.testing.assert_allclose(FIVE.beta, [0.196, 0.459, 0.636, 0.755, 0.835], atol=5e-4)
    assert FIVE.alpha_bar[-1] == pytest.approx(0.0064, abs=5e-5)
    np.testing.assert_allclose(FIVE.alpha_bar, np.cumprod(1 - FIVE.beta), rtol=1e-5)
    for num_steps in (1, 5, 100):
        schedule = diffusion.vp_schedule(num_steps)
        assert schedule.num_steps == num_steps
        assert schedule.alpha_bar[-1] == pytest.approx(np.exp(-5.05), rel=1e-5)
    with one_line("0 diffusion steps: there must be at least 1"):
        diffusion.vp_schedule(0)
    with one_line("6 DDIM steps: choose 1 to the schedule's 5"):
        diffusion.ddim(FIVE, zero, jnp.zeros((1, 1)), 6)


def test_added_noise_keeps_the_variance() -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 7, 3)).astype(np.float32)
    time = rng.integers(0, 5, 7)
    a = FIVE.alpha_bar[time][:, None]
    for actual in three_ways(partial(diffusion.add_noise, FIVE), x, time, noise):
        np.testing.assert_allclose(actual, np.sqrt(a) * x + np.sqrt(1 - a) * noise, rtol=1e-5, atol=1e-6)


def test_loss_of_a_perfect_and_of_a_silent_network() -> None:
    """Silence leaves the noise itself: the sum of A squares, 2 on average. All times are drawn."""
    data = jnp.broadcast_to(POINT, (4000, 2))
    seen: list[Any] = []

    def watched(x: jax.Array, time: jax.Array) -> jax.Array:
        seen.append(time)
        return perfect(x, time)

    assert diffusion.epsilon_loss(FIVE, watched, data, jax.random.key(0))[0] < 1e-9
    assert diffusion.epsilon_loss(FIVE, zero, data, jax.random.key(0))[0] == pytest.approx(2, rel=0.05)
    assert np.unique(np.asarray(seen[0])).tolist() == [0, 1, 2, 3, 4]


def test_weighted_loss_and_what_it_is_computed_from() -> None:
    """Rows weighted by their time; time, noise and prediction come back, and give back the data."""
    data, weights = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (50, 2)), jnp.float32), np.arange(1.0, 6.0)

    def loss(x: jax.Array) -> tuple[jax.Array, diffusion.Prediction]:
        weight = lambda t: jnp.asarray(weights)[t]  # noqa: E731
        return diffusion.epsilon_loss(FIVE, lambda x, t: 0.5 * x, x, jax.random.key(0), weight)

    for value, p in three_ways(loss, data):
        np.testing.assert_allclose(p.predicted, 0.5 * p.noisy, rtol=1e-6)
        np.testing.assert_allclose(p.noisy, diffusion.add_noise(FIVE, data, p.time, p.noise), rtol=1e-5)
        expected = (weights[np.asarray(p.time)] * ((0.5 * p.noisy - p.noise) ** 2).sum(-1)).mean()
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(diffusion.remove_noise(FIVE, p.noisy, p.time, p.noise), data, atol=1e-4)
    with pytest.raises(AssertionError):
        diffusion.epsilon_loss(FIVE, zero, data, jax.random.key(0), lambda t: jnp.asarray(weights))


def test_loss_of_whole_numbers() -> None:
    """Data of integers is that of the same floats: noise is no integer."""
    data = jnp.array([[1, 0], [-1, 1], [0, 0]])
    losses = [diffusion.epsilon_loss(FIVE, perfect, x, jax.random.key(0))[0] for x in (data, data.astype(jnp.float32))]
    assert losses[0].dtype == jnp.float32 and losses[0] == losses[1] > 0


def test_a_perfect_denoiser_gives_back_the_data() -> None:
    actual = jax.jit(lambda key: diffusion.ddpm(FIVE, perfect, (50, 2), key))(jax.random.key(0))
    np.testing.assert_allclose(actual, np.broadcast_to(POINT, (50, 2)), atol=1e-5)
    noise = jax.random.normal(jax.random.key(1), (50, 2))
    for num_steps in (1, 3, 5):
        actual = diffusion.ddim(FIVE, perfect, noise, num_steps)
        np.testing.assert_allclose(actual, np.broadcast_to(POINT, (50, 2)), atol=1e-5)


def test_ddpm_step_by_step() -> None:
    """Against the textbook's loop on the noise that it drew: x is clipped at each step, and the last adds nothing."""
    key = jax.random.key(3)
    start_key, noise_key = jax.random.split(key)
    x = np.asarray(jax.random.normal(start_key, (200, 1)))
    draws = [np.asarray(jax.random.normal(k, (200, 1))) for k in jax.random.split(noise_key, 5)]
    clipped = 0
    for t, noise in zip(range(4, -1, -1), draws, strict=True):
        beta, a = FIVE.beta[t], FIVE.alpha_bar[t]
        x = (x - beta / np.sqrt(1 - a) * np.tanh(x + t)) / np.sqrt(1 - beta)
        x = x + (np.sqrt(beta) * noise if t else 0)
        clipped += (abs(x) > 0.9).sum()
        x = np.clip(x, -0.9, 0.9)
    assert clipped
    actual = diffusion.ddpm(FIVE, lambda x, time: jnp.tanh(x + time), (200, 1), key, bound=0.9)
    np.testing.assert_allclose(actual, x, rtol=1e-4, atol=1e-4)


def test_ddim_visits_times_evenly_and_the_last() -> None:
    """Where the named noise is its time, the sum tells which times were visited: x_0 is linear in them."""
    a = np.append(1, FIVE.alpha_bar.astype(np.float64))

    def by_hand(times: list[int]) -> float:
        x = 0.1
        for t, earlier in zip(times, [*times[1:], -1], strict=True):
            denoised = (x - np.sqrt(1 - a[t + 1]) * t) / np.sqrt(a[t + 1])
            x = np.sqrt(a[earlier + 1]) * denoised + np.sqrt(1 - a[earlier + 1]) * t
        return x

    for num_steps, times in {1: [4], 2: [4, 1], 5: [4, 3, 2, 1, 0]}.items():
        actual = diffusion.ddim(FIVE, lambda x, t: jnp.full_like(x, t), jnp.full((1,), 0.1), num_steps)
        np.testing.assert_allclose(actual[0], by_hand(times), rtol=1e-4)
