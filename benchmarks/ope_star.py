"""Why STAR errs: by its abstraction, or by its weights. After `benchmarks.ope`, whose runs and data sets it reads.

    python -m benchmarks.ope_star

For each number of clusters and each window: the relative MSE over candidates; the error for the policy that collected,
whose weights are all 1, so it is that of the abstraction alone; and the effective number of transitions in a cluster.
Prints Markdown.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import ope as measured
from rlx import ope
from rlx.ope import estimators, learning, policies, selection, star, trajectories
from rlx.train.compile import keep_compiled_programs


@jax.jit
def effective(weight: jax.Array, member: jax.Array) -> jax.Array:
    """The median over clusters of (sum w)^2 / sum w^2 of their transitions, from `[N, T]` and `[N, T, K]`."""
    total, squares = (jnp.einsum("nt,ntk->k", x, member) for x in (weight, jnp.square(weight)))
    return jnp.nanmedian(jnp.where(squares > 0, jnp.square(total) / squares, jnp.nan))


def study(task: str, quality: str, episodes: int, sets: int, settings: argparse.Namespace) -> dict[Any, np.ndarray]:
    """By clusters and window: relative MSE, error for the policy that collected, effective transitions."""
    run = measured.run_of(task, settings.work)
    true = measured.truth_of(task, run, settings.work)
    step, values = measured.behaviour_of(true, quality), np.array(list(true.values()))
    dataset = measured.data_of(task, quality, step, run, settings.work)
    candidates = ope.from_run(run, "all")[-measured.CANDIDATES :]
    found: dict[Any, list[Any]] = {}
    for number in range(sets):
        chosen = measured.subset(dataset, episodes * number, episodes)
        options: dict[str, Any] = {"gamma": measured.GAMMA, "values": False, "features": 0, "bootstraps": 1}
        table = ope.evaluate(candidates, chosen, clusters=settings.clusters, window=settings.windows, **options)
        padded, rows = trajectories.from_dataset(chosen), chosen.rows
        log_probs = [policies.log_probs(p, rows.observation, rows.action) for p in candidates]
        ratios = [padded.pad(x - rows.extras[trajectories.LOG_PROB]) for x in log_probs]
        batches = [estimators.make_batch(padded.reward, padded.mask, ratio) for ratio in ratios]
        for clusters in settings.clusters:
            member = jax.nn.one_hot(padded.pad(learning.abstract_states(chosen, clusters)), clusters)
            for window in settings.windows:
                estimates = np.array(table.estimates(f"STAR {clusters} {window}"))
                own = estimates[list(true).index(step)] - table.behaviour.estimate
                sizes = [effective(star.window_weights(batch, window), member) for batch in batches]
                measures = selection.relative_mse(estimates, values), own / values.std(), np.median(sizes)
                found.setdefault((clusters, window), []).append(measures)
    return {case: np.mean(measures, axis=0) for case, measures in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=measured.TASKS, default=list(measured.TASKS))
    parser.add_argument("--data", nargs="+", choices=measured.QUALITIES, default=list(measured.QUALITIES))
    parser.add_argument("--episodes", type=int, default=100, help="of a data set")
    parser.add_argument("--sets", type=int, default=3, help="data sets of each case")
    parser.add_argument("--clusters", nargs="+", type=int, default=[20, 50, 100, 200, 400])
    parser.add_argument("--windows", nargs="+", type=int, default=[1, 5, 20])
    parser.add_argument("--work", type=Path, default=Path(".cache/bench/ope"), help="runs and data sets")
    settings = parser.parse_args()
    keep_compiled_programs()
    print("| task | data | clusters | window | relative MSE | error for the collector, of a deviation | effective |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for task in settings.tasks:
        for quality in settings.data:
            cases = study(task, quality, settings.episodes, settings.sets, settings)
            for (clusters, window), (error, own, size) in cases.items():
                print(
                    f"| {task} | {quality} | {clusters} | {window} | {error:.2g} | {own:+.2f} | {size:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
