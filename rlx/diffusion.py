"""Denoising diffusion and flow matching, whatever the network: the noise schedule, losses, samplers.

Time t counts from 0, the least noise, to T - 1, the most. The network is any `epsilon(x [..., A], t) -> [..., A]` that
predicts the noise in x; t is int32, `[...]` or a scalar. Conditions (an observation, say) are its own business.
Flows run the other way, from noise at time 0 to data at time 1, along `velocity(x [..., A], t [..., 1]) -> [..., A]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rlx.errors import RlxError
from rlx.types import Key, Metrics, Params

Epsilon = Callable[[jax.Array, jax.Array], jax.Array]
LogDensity = Callable[[jax.Array, jax.Array], jax.Array]
Velocity = Callable[[jax.Array, jax.Array], jax.Array]
Scalar = jax.Array | float


class Schedule(NamedTuple):
    """How fast data turns into noise: x_t = sqrt(alpha_bar_t) x + sqrt(1 - alpha_bar_t) noise (arXiv 2006.11239)."""

    beta: np.ndarray  # [T], variance added at each step
    alpha_bar: np.ndarray  # [T], product of 1 - beta so far: the share of the data's variance that is left

    @property
    def num_steps(self) -> int:
        return len(self.beta)


def vp_schedule(num_steps: int, beta_min: float = 0.1, beta_max: float = 10.0) -> Schedule:
    """The variance-preserving process whose rate grows from `beta_min` to `beta_max`, cut into T steps.

    arXiv 2011.13456, eq. 32, integrated over each step as in arXiv 2112.07804. Raises RlxError for no steps.
    """
    if num_steps < 1:
        raise RlxError(f"{num_steps} diffusion steps: there must be at least 1")
    t = np.arange(1, num_steps + 1)
    log_alpha = -beta_min / num_steps - (beta_max - beta_min) * (2 * t - 1) / (2 * num_steps**2)
    return Schedule(-np.expm1(log_alpha).astype(np.float32), np.exp(np.cumsum(log_alpha)).astype(np.float32))


def add_noise(schedule: Schedule, x: jax.Array, time: jax.Array, noise: jax.Array) -> jax.Array:
    """`x` as it is after step `time`, `[..., A]` with `time` `[...]` (arXiv 2006.11239, eq. 4)."""
    chex.assert_equal_shape([x, noise])
    chex.assert_shape(time, x.shape[:-1])
    alpha_bar = jnp.asarray(schedule.alpha_bar)[time][..., None]
    return jnp.sqrt(alpha_bar) * x + jnp.sqrt(1 - alpha_bar) * noise


def remove_noise(schedule: Schedule, noisy: jax.Array, time: jax.Array, noise: jax.Array) -> jax.Array:
    """The x from which `add_noise` makes `noisy`; with predicted noise, the data that the network has in mind."""
    chex.assert_equal_shape([noisy, noise])
    chex.assert_shape(time, noisy.shape[:-1])
    alpha_bar = jnp.asarray(schedule.alpha_bar)[time][..., None]
    return (noisy - jnp.sqrt(1 - alpha_bar) * noise) / jnp.sqrt(alpha_bar)


def time_of_noise(schedule: Schedule, deviation: Scalar) -> jax.Array:
    """The first time at which the noise deviates by `deviation` or more beside the data as it was, int32 [].

    At time t, x_t / sqrt(alpha_bar_t) is x with noise of deviation sqrt(1 / alpha_bar_t - 1). The last time where all
    deviate by less.
    """
    known = jnp.asarray(np.sqrt(1 / schedule.alpha_bar - 1))
    return jnp.minimum(jnp.searchsorted(known, deviation), schedule.num_steps - 1).astype(jnp.int32)


def noise_of_density(schedule: Schedule, log_density: LogDensity) -> Epsilon:
    """The noise that the slope of a log-density of noisy data means: -sqrt(1 - alpha_bar_t) grad log p_t(x).

    `log_density(x [..., A], t) -> [...]`, up to a constant (arXiv 2011.13456; as a network's slope in 2407.09024).
    """

    def epsilon(x: jax.Array, time: jax.Array) -> jax.Array:
        slope = jax.grad(lambda x: log_density(x, time).sum())(x)
        scale = jnp.sqrt(1 - jnp.asarray(schedule.alpha_bar)[time])
        return -jnp.expand_dims(scale, range(scale.ndim, x.ndim)) * slope

    return epsilon


class Prediction(NamedTuple):
    """What a noise-prediction loss is computed from."""

    time: jax.Array  # [B] int32
    noise: jax.Array  # [B, A]
    noisy: jax.Array  # [B, A], the data with this noise at this time
    predicted: jax.Array  # [B, A], the network's estimate of the noise


def epsilon_loss(
    schedule: Schedule,
    epsilon: Epsilon,
    x: jax.Array,
    key: Key,
    weight: Callable[[jax.Array], jax.Array] | None = None,
) -> tuple[jax.Array, Prediction]:
    """Noise-prediction loss at a random time for each row of data `[B, A]`: sum over A, mean over B.

    arXiv 2006.11239, eq. 14, with the sum over A of arXiv 2304.10573. `weight(time [B]) -> [B]` weighs the rows.
    """
    chex.assert_rank(x, 2)
    time_key, noise_key = jax.random.split(key)
    time = jax.random.randint(time_key, x.shape[:1], 0, schedule.num_steps)
    noise = jax.random.normal(noise_key, x.shape, jnp.result_type(x, float))
    noisy = add_noise(schedule, x, time, noise)
    predicted = epsilon(noisy, time)
    error = jnp.sum(jnp.square(predicted - noise), axis=-1)
    if weight is not None:
        weights = weight(time)
        chex.assert_equal_shape([weights, error])
        error = weights * error
    return jnp.mean(error), Prediction(time, noise, noisy, predicted)


def objective(
    schedule: Schedule, epsilon: Callable[[Params], Epsilon], x: jax.Array, key: Key
) -> Callable[[Params], tuple[jax.Array, Metrics]]:
    """`params -> (loss, {"score_loss": loss})`, `epsilon_loss` of the noise that `epsilon(params)` predicts."""

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        value = epsilon_loss(schedule, epsilon(params), x, key)[0]
        return value, {"score_loss": value}

    return loss


def ddpm(schedule: Schedule, epsilon: Epsilon, shape: tuple[int, ...], key: Key, bound: Scalar = 1.0) -> jax.Array:
    """Samples data of `shape` `[..., A]` by ancestral sampling with variance beta (arXiv 2006.11239, algorithm 2).

    x is clipped to +-`bound` after every step; the last step adds no noise. A perfect `epsilon` of a single point gives
    back the point. All is in the schedule's type, float32.
    """
    beta, alpha_bar = schedule.beta, schedule.alpha_bar
    scale = 1 / np.sqrt(1 - beta)
    # per step: x <- clip(scale x - removed * epsilon + added * noise)
    removed, added = scale * beta / np.sqrt(1 - alpha_bar), np.sqrt(beta) * (np.arange(len(beta)) > 0)
    start_key, noise_key = jax.random.split(key)

    def step(x: jax.Array, inputs: Any) -> tuple[jax.Array, None]:
        time, scale, removed, added, key = inputs
        x = scale * x - removed * epsilon(x, time) + added * jax.random.normal(key, shape, beta.dtype)
        return jnp.clip(x, -bound, bound).astype(beta.dtype), None

    steps = (np.arange(schedule.num_steps, dtype=np.int32), scale, removed, added.astype(beta.dtype))
    backwards = (*(jnp.asarray(s[::-1]) for s in steps), jax.random.split(noise_key, schedule.num_steps))
    return jax.lax.scan(step, jax.random.normal(start_key, shape, beta.dtype), backwards)[0]


def ddim(
    schedule: Schedule, epsilon: Epsilon, noise: jax.Array, num_steps: int | None = None, bound: Scalar = jnp.inf
) -> jax.Array:
    """Turns `noise` `[..., A]` into data without further randomness (arXiv 2010.02502, eq. 12 with sigma = 0).

    `num_steps` of the schedule's times are visited, evenly spaced and the last included: all of them by default. x has
    the type of `noise` and is clipped to +-`bound` after every step. Raises RlxError for more steps than the schedule
    has, or none.
    """
    num_steps = schedule.num_steps if num_steps is None else num_steps
    if not 1 <= num_steps <= schedule.num_steps:
        raise RlxError(f"{num_steps} DDIM steps: choose 1 to the schedule's {schedule.num_steps}")
    times = np.arange(1, num_steps + 1) * schedule.num_steps // num_steps - 1
    now = schedule.alpha_bar[times]
    after = np.concatenate([np.ones(1, now.dtype), now[:-1]])
    # per step: x <- sqrt(after / now) x + moved * epsilon
    scale = np.sqrt(after / now)
    moved = np.sqrt(1 - after) - scale * np.sqrt(1 - now)

    def step(x: jax.Array, inputs: Any) -> tuple[jax.Array, None]:
        time, scale, moved = inputs
        return jnp.clip(scale * x + moved * epsilon(x, time), -bound, bound).astype(noise.dtype), None

    backwards = tuple(jnp.asarray(s[::-1]) for s in (times.astype(np.int32), scale, moved))
    return jax.lax.scan(step, noise, backwards)[0]


def flow_loss(velocity: Velocity, x: jax.Array, key: Key, weight: jax.Array | None = None) -> jax.Array:
    """Flow-matching loss of straight lines from noise to data `[B, A]`, each at a random time: mean over everything.

    arXiv 2210.02747, section 4.1, with sigma_min 0, as in arXiv 2502.02538. With a `weight` `[B, A]`, the mean is of
    weighted errors; numbers of weight 0 teach nothing, but the velocity sees them.
    """
    chex.assert_rank(x, 2)
    noise_key, time_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, x.shape, x.dtype)
    time = jax.random.uniform(time_key, (len(x), 1), x.dtype)
    error = jnp.square(velocity((1 - time) * noise + time * x, time) - (x - noise))
    if weight is not None:
        chex.assert_equal_shape([weight, error])
        error = weight * error
    return jnp.mean(error)


def flow(velocity: Velocity, noise: jax.Array, num_steps: int, bound: Scalar = 1.0) -> jax.Array:
    """Turns `noise` `[..., A]` into data by T Euler steps, from time 0 on; clipped to +-`bound` at the end.

    The velocity that the loss has for a single point leads there. Raises RlxError for no steps.
    """
    if num_steps < 1:
        raise RlxError(f"{num_steps} flow steps: there must be at least 1")

    def step(x: jax.Array, time: jax.Array) -> tuple[jax.Array, None]:
        return x + velocity(x, jnp.full((*x.shape[:-1], 1), time)) / num_steps, None

    times = jnp.arange(num_steps, dtype=noise.dtype) / num_steps
    return jnp.clip(jax.lax.scan(step, noise, times)[0], -bound, bound)
