"""How often 95 % intervals of off-policy estimates hold the true value, on synthetic data of which it is known.

    python -m benchmarks.ope_coverage

Episodes of 3 to 5 steps, normal actions around 0 with deviation 0.5, reward = action plus noise; the policy's mean is
0.05, so that J = 0.05 sum_t gamma^t P(T > t). Prints Markdown.
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.ope import estimators, intervals

GAMMA, STD, MEAN, STEPS = 0.9, 0.5, 0.05, 5


def batches(sets: int, episodes: int) -> Any:
    """`[sets, episodes, STEPS]`: Q and V are right up to a factor of 0.8."""
    rng = np.random.default_rng(0)
    shape = sets, episodes, STEPS
    action = rng.normal(0, STD, size=shape)
    mask = np.arange(STEPS) < rng.integers(3, STEPS + 1, size=(sets, episodes, 1))
    log_ratio = (action**2 - (action - MEAN) ** 2) / (2 * STD**2)
    alive = np.array([1, 1, 1, 2 / 3, 1 / 3])  # P(T > t)
    later = np.array([(GAMMA ** np.arange(STEPS - t) * alive[t:]).sum() / alive[t] for t in range(STEPS)])
    v = np.broadcast_to(0.8 * MEAN * later, shape)
    q = 0.8 * (action + MEAN * (later - 1))
    reward = action + rng.normal(0, 0.2, size=shape)
    return jax.vmap(estimators.make_batch)(reward, mask, log_ratio, q, v), MEAN * later[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--episodes", type=int, nargs="+", default=[200, 1000])
    values = parser.parse_args()
    print(f"| episodes | effective | interval | {' | '.join(estimators.WEIGHTED)} |")
    print("| ---: | ---: | --- |" + " ---: |" * len(estimators.WEIGHTED))
    for count in values.episodes:
        batch, true = batches(values.sets, count)
        counts = intervals.bootstrap_counts(count, 200)

        def of_one(batch: Any, counts: Any = counts) -> Any:
            def every(weights: jax.Array) -> dict[str, jax.Array]:
                return {name: estimators.ESTIMATORS[name](batch, GAMMA, weights) for name in estimators.WEIGHTED}

            terms = {name: estimators.TERMS[name](batch, GAMMA) for name in ("TIS", "PDIS", "DR")}
            size = estimators.effective_sample_size(estimators.log_weights(batch)[:, -1])
            return intervals.bootstrap(every, counts), terms, size

        (_, low, high), terms, size = jax.device_get(jax.jit(lambda b: jax.lax.map(of_one, b))(batch))
        held: dict[str, dict[str, float]] = {
            "bootstrap": {name: float(np.mean((low[name] <= true) & (true <= high[name]))) for name in low}
        }
        for kind, interval in intervals.OF_TERMS.items():
            ends = {name: np.array([interval(row)[1:] for row in rows]) for name, rows in terms.items()}
            held[kind] = {name: float(np.mean((x[:, 0] <= true) & (true <= x[:, 1]))) for name, x in ends.items()}
        for kind, shares in held.items():
            cells = [f"{100 * shares[name]:.1f} %" if name in shares else "-" for name in estimators.WEIGHTED]
            print(f"| {count} | {jnp.mean(size):.0f} | {kind} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
