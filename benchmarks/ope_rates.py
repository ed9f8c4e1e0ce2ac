"""Errors of off-policy estimates against the number of steps (H56) and of episodes (H57), where the truth is known.

    python -m benchmarks.ope_rates

Prints Markdown; a minute or two.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import data, ope
from rlx.ope import deterministic, estimators, learning
from rlx.train.compile import keep_compiled_programs

GAMMA, NOISE, EXPLORATION = 0.95, 0.3, 0.5
ESTIMATORS = ("PDIS", "SNPDIS", "DR", "WDR", "MIS", "DM", "MDR")
SHORT = 3  # steps of the episodes whose return distribution is learnt


def dynamics(state: Any, action: Any) -> Any:
    return 0.9 * state + 0.5 * action


def reward(state: Any, action: Any) -> Any:
    return -(state**2) - 0.1 * action**2


def true_value(gain: Any, steps: int) -> Any:
    """J of the policy a = -gain s, by the recursion of the state's variance from 1; differentiable."""
    variance, total = 1.0, 0.0
    for t in range(steps):
        total += GAMMA**t * reward(1.0, -gain) * variance
        variance = dynamics(1.0, -gain) ** 2 * variance + NOISE**2
    return total


def episodes(key: Any, number: int, steps: int) -> deterministic.Episodes:
    """Of the policy a ~ N(-0.2 s, 0.5^2): an observation is the state and the time."""
    start, explore, noise = jax.random.split(key, 3)

    def step(state: jax.Array, draws: jax.Array) -> tuple[jax.Array, Any]:
        action = -0.2 * state + EXPLORATION * draws[0]
        after = dynamics(state, action) + NOISE * draws[1]
        return after, (state, action, after)

    draws = jnp.stack([jax.random.normal(k, (steps, number)) for k in (explore, noise)], axis=1)
    _, (state, action, after) = jax.lax.scan(step, jax.random.normal(start, (number,)), draws)
    state, action, after = state.T, action.T, after.T
    time = jnp.broadcast_to(jnp.arange(steps), state.shape)
    log_prob = jax.scipy.stats.norm.logpdf(action, -0.2 * state, EXPLORATION)
    seen, following = jnp.stack([state, time], axis=-1), jnp.stack([after, time + 1], axis=-1)
    going_on = jnp.where(time == steps - 1, 0.0, 1.0)
    ones = jnp.ones(state.shape, bool)
    return deterministic.Episodes(seen, following, action[..., None], reward(state, action), ones, going_on, log_prob)


def linear_model(number: int, steps: int, right: bool) -> deterministic.Model:
    """Polynomials at each time. Without the product of state and action Q is wrong."""

    def at_each_time(observation: Any, *powers: Any) -> jax.Array:
        time = jax.nn.one_hot(observation[..., 1], steps)
        return jnp.concatenate([time * power[..., None] for power in powers], axis=-1)

    def of_state(observation: Any) -> jax.Array:
        s = observation[..., 0]
        return at_each_time(observation, jnp.ones(s.shape), s, s**2)

    def of_action(observation: Any, action: Any) -> jax.Array:
        s, a = observation[..., 0], action[..., 0]
        return at_each_time(observation, jnp.ones(s.shape), s, s**2, a, a**2, *([s * a] if right else []))

    return deterministic.Model(of_state, of_action, 0.5 * number**-0.2, bounded=False)


def errors(number: int, steps: int, sets: int, gain: float = 0.6) -> dict[str, float]:
    """Mean squared errors over data sets, with the right class of Q, and with a wrong one where it matters."""

    @jax.jit
    def estimate(key: Any) -> dict[str, jax.Array]:
        made = episodes(key, number, steps)
        found: dict[str, jax.Array] = {}
        for right, names in ((True, ESTIMATORS), (False, ("DR", "WDR", "DM", "MDR"))):
            model = linear_model(number, steps, right)
            batch = deterministic.fit(lambda x: -gain * x[..., :1], made, model, GAMMA)
            values = {name: estimators.ESTIMATORS[name](batch, GAMMA, jnp.ones(number)) for name in names}
            found |= {name + ("" if right else ", wrong Q"): x for name, x in values.items()}
        return found

    found = jax.lax.map(estimate, jax.random.split(jax.random.key(0), sets))
    true = true_value(gain, steps)
    return {name: float(jnp.mean(jnp.square(x - true))) for name, x in found.items()}


def horizons(numbers: list[int], lengths: list[int], sets: int) -> None:
    """log10 of the mean squared error of each estimator, by episodes and their steps."""
    for number, steps in itertools.product(numbers, lengths):
        found = errors(number, steps, sets)
        if (number, steps) == (numbers[0], lengths[0]):
            print("| episodes | steps | " + " | ".join(found) + " |")
            print("| ---: | ---: |" + " ---: |" * len(found))
        cells = " | ".join(f"{np.log10(x):.2f}" for x in found.values())
        print(f"| {number} | {steps} | {cells} |", flush=True)


def two_sided(rng: np.random.Generator, count: int, mean: float) -> tuple[np.ndarray, np.ndarray]:
    """Actions `[count, 3]` and rewards: the action plus 0.5 or -0.5."""
    action = rng.normal(mean, 0.3, size=(count, SHORT)).astype(np.float32)
    return action, action + rng.choice([-0.5, 0.5], size=action.shape)


def distance(count: int, seed: int, draws: int = 4096) -> float:
    """W1 between FLE's distribution of the return and simulated returns of the policy."""
    rng = np.random.default_rng(seed)
    action, rewards = two_sided(rng, count, 0.0)
    time = np.tile(np.arange(SHORT), count)
    seen = np.stack([np.ones(len(time)), time], axis=1)
    dataset = data.make_dataset(
        {"name": "two-sided", "episode_length": SHORT},
        observation=seen,
        action=action.reshape(-1, 1),
        reward=rewards.reshape(-1),
        terminated=np.zeros(len(time), bool),
        truncated=time == SHORT - 1,
        next_observation=seen + np.array([0, 1]),
    )

    def sample(mean: Any, observation: Any, key: Any) -> jax.Array:
        return mean + 0.3 * jax.random.normal(key, (len(observation), 1))

    def log_prob(mean: Any, observation: Any, action: Any) -> jax.Array:
        return jax.scipy.stats.norm.logpdf(action[:, 0], mean, 0.3)

    policy = ope.Policy("ahead", sample, log_prob, jnp.float32(0.2))
    settings: dict[str, Any] = {"offline_steps": 2000, "critic_hidden_sizes": (32, 32), "critic_lr": 3e-3, "tau": 0.02}
    settings |= {"num_components": 4, "num_critics": 1, "batch_size": 256}
    fitted = learning.fit_values(dataset, [policy], GAMMA, SHORT, seed=seed, **settings)
    actions = rng.normal(0.2, 0.3, size=(draws, 1, 1)).astype(np.float32)
    starts = np.tile(np.array([[1.0, 0.0]], np.float32), (draws, 1))
    mine = fitted.returns(0, starts, np.zeros(draws), actions, seed)[:, 0, 0]
    simulated = two_sided(np.random.default_rng(1000), 100 * draws, 0.2)[1] @ GAMMA ** np.arange(SHORT)
    levels = (np.arange(draws) + 0.5) / draws
    return float(np.abs(np.sort(mine) - np.quantile(simulated, levels)).mean())


def distributions(counts: list[int], seeds: int) -> None:
    """W1 of FLE to simulation, by episodes."""
    print("| episodes | W1 of FLE to simulated returns, mean of " + f"{seeds} data sets | each |")
    print("| ---: | ---: | --- |")
    for count in counts:
        found = [distance(count, seed) for seed in range(seeds)]
        print(f"| {count} | {np.mean(found):.3f} | {', '.join(f'{x:.3f}' for x in found)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=("horizon", "distribution", "both"), default="both")
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 5, 10, 20, 40])
    parser.add_argument("--episodes", type=int, nargs="+", default=[200], help="of data sets, for the horizon")
    parser.add_argument("--sets", type=int, default=16, help="data sets of each size, for the horizon")
    parser.add_argument("--seeds", type=int, default=3, help="data sets of each size, for the distribution")
    settings = parser.parse_args()
    keep_compiled_programs()
    if settings.part != "distribution":
        horizons(settings.episodes, settings.steps, settings.sets)
    if settings.part != "horizon":
        distributions([10, 100, 1000], settings.seeds)


if __name__ == "__main__":
    main()
