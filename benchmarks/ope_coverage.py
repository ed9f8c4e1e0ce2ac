"""How often 95 % intervals of off-policy estimates hold the true value, on synthetic data of which it is known.

    python -m benchmarks.ope_coverage

Episodes of 3 to 5 steps, normal actions around 0 with deviation 0.5, reward = action plus noise; the policy's mean is
m, so that J = m sum_t gamma^t P(T > t). Prints Markdown: the share of intervals that hold J, and their median
width over that of the bootstrap.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import jax
import numpy as np

from rlx.ope import estimators, intervals

GAMMA, STD, STEPS = 0.9, 0.5, 5


def batches(sets: int, episodes: int, mean: float) -> Any:
    """`[sets, episodes, STEPS]`: Q and V are right up to a factor of 0.8."""
    rng = np.random.default_rng(0)
    shape = sets, episodes, STEPS
    action = rng.normal(0, STD, size=shape)
    mask = np.arange(STEPS) < rng.integers(3, STEPS + 1, size=(sets, episodes, 1))
    log_ratio = (action**2 - (action - mean) ** 2) / (2 * STD**2)
    alive = np.array([1, 1, 1, 2 / 3, 1 / 3])  # P(T > t)
    later = np.array([(GAMMA ** np.arange(STEPS - t) * alive[t:]).sum() / alive[t] for t in range(STEPS)])
    v = np.broadcast_to(0.8 * mean * later, shape)
    q = 0.8 * (action + mean * (later - 1))
    reward = action + rng.normal(0, 0.2, size=shape)
    return jax.vmap(estimators.make_batch)(reward, mask, log_ratio, q, v), mean * later[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--episodes", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--means", type=float, nargs="+", default=[0.05, 0.3], help="the policy's m")
    parser.add_argument("--bootstraps", type=int, default=1000, help="samples of a bootstrap")
    values = parser.parse_args()
    print(f"| m | episodes | effective | interval | {' | '.join(estimators.WEIGHTED)} |")
    print("| ---: | ---: | ---: | --- |" + " ---: |" * len(estimators.WEIGHTED))
    for mean, count in itertools.product(values.means, values.episodes):
        batch, true = batches(values.sets, count, mean)
        counts = intervals.bootstrap_counts(count, values.bootstraps)

        def of_one(batch: Any, counts: Any = counts) -> Any:
            def every(weights: jax.Array) -> dict[str, jax.Array]:
                return {name: estimators.ESTIMATORS[name](batch, GAMMA, weights) for name in estimators.WEIGHTED}

            terms = {name: estimators.TERMS[name](batch, GAMMA) for name in ("TIS", "PDIS", "DR")}
            size = estimators.effective_sample_size(estimators.log_weights(batch)[:, -1])
            return intervals.bootstrap(every, counts), terms, size

        (_, low, high), terms, size = jax.device_get(jax.jit(lambda b: jax.lax.map(of_one, b))(batch))
        ends = {"bootstrap": {name: np.stack([low[name], high[name]], axis=1) for name in estimators.WEIGHTED}}
        for kind, interval in intervals.OF_TERMS.items():
            ends[kind] = {name: np.array([interval(row)[1:] for row in rows]) for name, rows in terms.items()}
        for kind, of_kind in ends.items():
            cells = [cell(of_kind.get(name), ends["bootstrap"][name], true) for name in estimators.WEIGHTED]
            print(f"| {mean} | {count} | {np.mean(size):.0f} | {kind} | " + " | ".join(cells) + " |")


def cell(ends: np.ndarray | None, bootstrap: np.ndarray, true: float) -> str:
    """The share of intervals `[sets, 2]` that hold the true value, and their median width over the bootstrap's."""
    if ends is None:
        return "-"
    held = np.mean((ends[:, 0] <= true) & (true <= ends[:, 1]))
    wider = np.median(np.ptp(ends, axis=1) / np.ptp(bootstrap, axis=1))
    return f"{100 * held:.1f} %, {wider:.1f}"


if __name__ == "__main__":
    main()
