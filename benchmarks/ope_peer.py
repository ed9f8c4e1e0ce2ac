"""Estimates beside SCOPE-RL's, from the same data of fixed length and the same deterministic policies.

    benchmarks/peers/install.sh scope
    python -m benchmarks.ope_peer

Ten candidates with ten bootstrap samples each, in seconds of the processor. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.ope import estimators, intervals, kernels

ROOT = Path(__file__).resolve().parents[1]
PEER = ROOT / ".cache/peers/scope/bin/python"
GAMMA, BANDWIDTH, EXPLORATION = 0.97, 0.3, 0.4
COMPARED = ("TIS", "SNTIS", "PDIS", "SNPDIS", "DM", "DR", "WDR", "MIS", "MDR")


def make_inputs(candidates: int, count: int, steps: int, size: int, repeats: int, bootstraps: int) -> dict[str, Any]:
    """Data and models of `candidates` policies, `[C, N, T, ...]`: any numbers will do."""
    rng = np.random.default_rng(0)
    action = rng.normal(0, EXPLORATION, size=(count, steps, size))
    target = rng.normal(0, 0.2, size=(candidates, 1, 1, size)) + 0.05 * rng.normal(
        size=(candidates, count, steps, size)
    )
    q, v = rng.normal(size=(2, candidates, count, steps))
    density = np.exp(-0.5 * (action / EXPLORATION) ** 2) / (EXPLORATION * np.sqrt(2 * np.pi))
    return {
        "action": action,
        "reward": rng.normal(size=(count, steps)),
        "pscore": density,
        "target": target,
        "q": q,
        "v": v,
        "marginal": rng.uniform(0.5, 1.5, size=(candidates, count, steps)),
        "terms": rng.uniform(0, 1, size=count),
        "gamma": GAMMA,
        "bandwidth": BANDWIDTH,
        "bootstraps": bootstraps,
        "repeats": repeats,
    }


@jax.jit
def estimate(action: Any, reward: Any, pscore: Any, target: Any, q: Any, v: Any, marginal: Any, counts: Any) -> Any:
    """Estimates of every candidate, and the ends of their intervals, from the same arrays as the peer's."""

    def of_one(arguments: Any) -> Any:
        target, q, v, marginal = arguments
        log_ratio = kernels.log_kernel(action, target, BANDWIDTH, bounded=False) - jnp.log(pscore).sum(axis=-1)
        marginal = marginal * GAMMA ** jnp.arange(reward.shape[1])  # rlx's weights are discounted
        ones = jnp.ones(reward.shape, bool)
        batch = estimators.make_batch(reward, ones, log_ratio, q, v, marginal)
        return intervals.bootstrap(
            lambda weights: {name: estimators.ESTIMATORS[name](batch, GAMMA, weights) for name in COMPARED}, counts
        )

    return jax.lax.map(of_one, (target, q, v, marginal))


def peer(inputs: dict[str, Any]) -> dict[str, Any]:
    """What SCOPE-RL makes of them."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "inputs.npz", Path(folder) / "found.json"
        np.savez(source, **inputs)
        script = str(ROOT / "benchmarks/peers/scope_cases.py")
        subprocess.run(
            [str(PEER), "-W", "ignore", script, str(source), str(out)], check=True, stderr=subprocess.DEVNULL
        )
        found: dict[str, Any] = json.loads(out.read_text())
    return found


def compare(count: int, steps: int, size: int, repeats: int, bootstraps: int, candidates: int = 10) -> None:
    inputs = make_inputs(candidates, count, steps, size, repeats, bootstraps)
    arrays = [
        jnp.asarray(inputs[k], jnp.float32) for k in ("action", "reward", "pscore", "target", "q", "v", "marginal")
    ]
    counts = intervals.bootstrap_counts(count, bootstraps)
    start = time.process_time()
    found = jax.device_get(estimate(*arrays, counts))
    compiling, seconds = time.process_time() - start, []
    for _ in range(repeats):
        start = time.process_time()
        jax.device_get(estimate(*arrays, counts))
        seconds.append(time.process_time() - start)
    theirs = peer(inputs)
    print(f"\n{candidates} candidates, {count:,} episodes of {steps} steps, {size} numbers in an action:\n")
    print("| estimator | rlx | SCOPE-RL | largest difference over candidates |")
    print("| --- | ---: | ---: | ---: |")
    for name in COMPARED:
        mine, other = found[0][name], np.array(theirs["estimates"][name])[:, 0]
        print(f"| {name} | {mine[0]:.5g} | {other[0]:.5g} | {np.abs(mine - other).max():.2g} |")
    mine_s, their_s = float(np.median(seconds)), float(np.median(theirs["seconds"]))
    print(
        f"\n{bootstraps} bootstraps: rlx {mine_s:.3f} s (first call, compiling, {compiling:.1f} s), SCOPE-RL"
        f" {their_s:.2f} s: {their_s / mine_s:.0f} times\n"
    )
    terms = inputs["terms"]
    for kind, name in (("t", "ttest"), ("bernstein", "bernstein"), ("hoeffding", "hoeffding")):
        mine_i, (low, high) = intervals.OF_TERMS[kind](terms), theirs["intervals"][name][1:]
        print(f"- {kind}: rlx {mine_i.low:.4g} to {mine_i.high:.4g}, SCOPE-RL {low:.4g} to {high:.4g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--bootstraps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    settings = parser.parse_args()
    if not PEER.exists():
        raise SystemExit("SCOPE-RL is not installed: benchmarks/peers/install.sh scope")
    for size in (1, 3):
        compare(settings.episodes, settings.steps, size, settings.repeats, settings.bootstraps)


if __name__ == "__main__":
    main()
