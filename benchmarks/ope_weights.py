"""Marginal weights by several equations, and the errors of MIS and MDR with each. After `benchmarks.ope`.

    python -m benchmarks.ope_weights

By default on Pendulum, from 100 episodes of the poor policy, with the candidates of `benchmarks.ope`. Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import ope as measured
from rlx import ope
from rlx.ope import estimators, learning, marginal, policies, trajectories
from rlx.ope.marginal import least_squares, minimax_weights
from rlx.train.compile import keep_compiled_programs

FEATURES, ROUGH, SAMPLES = 200, 32, 4


class Features(NamedTuple):
    """Of n rows of E episodes: f(s, a), f - gamma E f(s', pi), and E f(s_0, pi)."""

    here: jax.Array  # [n, D]
    change: jax.Array  # [n, D]
    first: jax.Array  # [E, D]


def diagonal(f: Features, base: Any) -> jax.Array:
    """The sum of alpha f that solves the equations with a ridge on the diagonal of their matrix."""
    moments = f.change.T @ f.here / len(f.first)
    ridge = 1e-3 * jnp.mean(jnp.square(f.here)) * len(base) / len(f.first)
    return f.here @ jnp.linalg.solve(moments + ridge * jnp.eye(len(moments)), f.first.mean(axis=0))


def plain(f: Features, base: Any) -> jax.Array:
    del base
    return f.here @ least_squares(f.change.T @ f.here / len(f.first), f.first.mean(axis=0), 1e-7)


def offset(ridge: float) -> Callable[[Features, Any], jax.Array]:
    return lambda f, base: minimax_weights(f.here, f.change, f.first, base, ridge)


Form = tuple[float, Callable[[Features, Any], jax.Array]]  # how narrow the features are, and the weights
FORMS: dict[str, Form] = {
    "γᵗ: those of the data": (1.0, lambda f, base: base),
    "features, with a ridge on the diagonal": (1.0, diagonal),
    "the same, twice as narrow": (2.0, diagonal),
    "features by least squares, ridge 1e-7": (1.0, plain),
    "γᵗ (1 + features) by least squares, ridge 1e-3": (1.0, offset(1e-3)),
    "the same, ridge 1e-6: **these**": (1.0, offset(marginal.RIDGE)),
    "the same, ridge 1e-8": (1.0, offset(1e-8)),
}


def features_of(dataset: Any, policy: Any, narrow: float, number: int, seed: int) -> Features:
    """Random Fourier features of time, observation and action, as `rlx.ope.learning.marginal_weights` has them."""
    rows, time = dataset.rows, dataset.time
    states = learning.with_time(rows.observation, time, measured.LENGTH)
    later = learning.with_time(rows.next_observation, time + 1, measured.LENGTH)
    known = np.concatenate([states, rows.action], axis=1)
    mean, scale = known.mean(axis=0), np.maximum(known.std(axis=0), 1e-3)

    def average(state: np.ndarray, action: np.ndarray) -> jax.Array:
        x = [(np.concatenate([state, action[:, k]], axis=1) - mean) / scale for k in range(action.shape[1])]
        features = [marginal.fourier_features(narrow * one, jax.random.key(seed), number) for one in x]
        return jnp.mean(jnp.stack(features), axis=0)

    going_on = ~(rows.terminated | (time + 1 >= measured.LENGTH))
    here = average(states, rows.action[:, None])
    following = average(later, policies.actions(policy, rows.next_observation, SAMPLES, 0))
    start = time == 0
    first = average(states[start], policies.actions(policy, rows.observation[start], SAMPLES, 1))
    return Features(here, here - measured.GAMMA * going_on[:, None] * following, first)


def study(dataset: Any, candidates: list[Any], true: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
    """The root MSE of DM; by form and candidate sum d, the root of sum d^2, what is missed, and errors, `[C, 6]`."""
    rows, time, episodes = dataset.rows, dataset.time, trajectories.from_dataset(dataset)
    settings: dict[str, Any] = dict(measured.VALUES)
    samples = settings.pop("samples")
    fitted = learning.fit_values(dataset, candidates, measured.GAMMA, measured.LENGTH, samples, 0, **settings)
    base = jnp.asarray(measured.GAMMA**time, jnp.float32)
    found: dict[str, list[Any]] = {form: [] for form in FORMS}
    direct = []
    for i, policy in enumerate(candidates):
        drawn = policies.actions(policy, rows.observation, samples, 1)
        q, v = (fitted.mean(i, rows.observation, time, x).mean(axis=1) for x in (rows.action[:, None], drawn))
        direct.append(v[time == 0].mean() - true[i])
        of_width = {narrow: features_of(dataset, policy, narrow, FEATURES, 0) for narrow in (1.0, 2.0)}
        rough = features_of(dataset, policy, 4.0, ROUGH, 1)
        for form, (narrow, weights_of) in FORMS.items():
            d = np.asarray(weights_of(of_width[narrow], base))
            padded = [episodes.pad(x) for x in (q, v, d)]
            batch = estimators.make_batch(episodes.reward, episodes.mask, None, *padded)
            ones = jnp.ones(len(episodes.mask))
            mis, mdr = (float(estimators.ESTIMATORS[x](batch, measured.GAMMA, ones)) for x in ("MIS", "MDR"))
            of_rough = d @ rough.change / len(ones) - rough.first.mean(axis=0)
            missed = float(jnp.sqrt(jnp.mean(jnp.square(of_rough[1:])) * ROUGH / 2))  # cosines of amplitude 1
            sizes = d.sum() / len(ones), np.sqrt(np.square(d).sum() / len(ones))
            found[form].append((*sizes, mis - mdr, missed, mis - true[i], mdr - true[i]))  # for f = Q it is MIS - MDR
    return root_mean_square(np.array(direct)), {form: np.array(x) for form, x in found.items()}


def root_mean_square(x: np.ndarray) -> float:
    return float(np.sqrt(np.square(x).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", choices=measured.TASKS, default="pendulum")
    parser.add_argument("--data", choices=measured.QUALITIES, default="poor")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--work", type=Path, default=Path(".cache/bench/ope"), help="runs and data sets")
    settings = parser.parse_args()
    keep_compiled_programs()
    run = measured.run_of(settings.task, settings.work)
    true = measured.truth_of(settings.task, run, settings.work)
    step = measured.behaviour_of(true, settings.data)
    collected = measured.data_of(settings.task, settings.data, step, run, settings.work)
    dataset = measured.subset(collected, 0, settings.episodes)
    candidates = ope.from_run(run, "all")[-measured.CANDIDATES :]
    direct, found = study(dataset, candidates, np.array(list(true.values())))
    print(f"DM's root MSE is {direct:.1f}.\n")
    print("| weights | Σ d | √Σ d² | missed for Q̂ | missed for rough f | root MSE, MIS | root MSE, MDR |")
    print("| --- | --- | --- | --- | ---: | ---: | ---: |")
    for form, x in found.items():
        spans = [f"{low:.0f} to {high:.0f}" for low, high in zip(x.min(axis=0)[:3], x.max(axis=0)[:3], strict=True)]
        errors = f"{root_mean_square(x[:, 4]):.1f} | {root_mean_square(x[:, 5]):.1f}"
        print(f"| {form} | {' | '.join(spans)} | {root_mean_square(x[:, 3]):.2g} | {errors} |")


if __name__ == "__main__":
    main()
