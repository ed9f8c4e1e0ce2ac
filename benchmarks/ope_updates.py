"""How many updates fitted Q evaluation needs: the error of DM, and its last change, against updates.

    python -m benchmarks.ope_updates --task hopper

After `benchmarks.ope`, whose runs and data sets it reads; from one data set of each quality. Prints Markdown.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ope as measured
from rlx import ope
from rlx.ope import estimators, learning, policies, selection, trajectories
from rlx.train.compile import keep_compiled_programs


def study(dataset: Any, candidates: list[Any], updates: int, settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """DM of every candidate after three quarters of the updates and after all, `[C]` both."""
    start = trajectories.from_dataset(dataset).row[:, 0]
    observation, of_start = dataset.rows.observation[start], dataset.time[start]
    options = dict(settings) | {"offline_steps": updates}
    samples = options.pop("samples")
    fitted = learning.fit_values(dataset, candidates, measured.GAMMA, measured.LENGTH, samples, 0, **options)
    drawn = [policies.actions(policy, observation, samples, 1) for policy in candidates]

    def values(fitted: learning.Values) -> np.ndarray:
        return np.array([fitted.mean(i, observation, of_start, x).mean() for i, x in enumerate(drawn)])

    return values(fitted.before), values(fitted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", choices=measured.TASKS, default="hopper")
    parser.add_argument("--data", nargs="+", choices=measured.QUALITIES, default=list(measured.QUALITIES))
    parser.add_argument("--updates", nargs="+", type=int, default=[1_000, 2_000, 4_000, 8_000, 16_000])
    parser.add_argument("--taus", nargs="+", type=float, default=[0.1, 0.01])
    parser.add_argument("--bounds", nargs="+", type=int, choices=(0, 1), default=[0, 1], help="of returns in targets")
    parser.add_argument("--layer-norm", nargs="+", type=int, choices=(0, 1), default=[0, 1])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--work", type=Path, default=Path(".cache/bench/ope"), help="runs and data sets")
    settings = parser.parse_args()
    keep_compiled_programs()
    run = measured.run_of(settings.task, settings.work)
    true = measured.truth_of(settings.task, run, settings.work)
    values = np.array(list(true.values()))
    candidates = ope.from_run(run, "all")[-measured.CANDIDATES :]
    print(
        "| data | tau | bounds | LayerNorm | updates | relative MSE | bias | rank correlation | last change | seconds |"
    )
    print("| --- | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for quality in settings.data:
        step = measured.behaviour_of(true, quality)
        collected = measured.data_of(settings.task, quality, step, run, settings.work)
        dataset = measured.subset(collected, 0, settings.episodes)
        episodes = trajectories.from_dataset(dataset)
        returns = estimators.returns(estimators.make_batch(episodes.reward, episodes.mask), measured.GAMMA)
        variants = settings.taus, settings.bounds, settings.layer_norm, settings.updates
        for tau, bounded, norm, updates in itertools.product(*variants):
            begun = time.process_time()
            changed = {"tau": tau, "layer_norm": bool(norm)} | ({} if bounded else {"least": -1e9, "most": 1e9})
            before, after = study(dataset, candidates, updates, measured.VALUES | changed)
            change = np.abs(after - before).max() / np.asarray(returns).std()
            cells = f"{selection.relative_mse(after, values):.2g} | {(after - values).mean() / values.std():+.2f}"
            cells += f" | {selection.rank_correlation(after, values):.2f} | {change:.2f}"
            cells += f" | {time.process_time() - begun:.0f}"
            yes = " | ".join("yes" if one else "no" for one in (bounded, norm))
            print(f"| {quality} | {tau} | {yes} | {updates:,} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
