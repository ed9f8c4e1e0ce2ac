"""Off-policy estimates against the truth on Pendulum: ten checkpoints of SAC, data of three behaviour policies.

    python -m benchmarks.ope_pendulum

Works in stages and keeps what each has made in --out, so a run that was stopped goes on; prints Markdown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from rlx import envs, ope
from rlx.commands import main as cli
from rlx.ope import selection
from rlx.runs import checkpoint
from rlx.train.compile import keep_compiled_programs

ENV, GAMMA, TRUE_EPISODES, K = "gymnax:Pendulum-v1", 0.97, 4096, 3
TRAIN = f"train sac --env {ENV} --total-env-steps 3000 --eval-every 300 --num-envs 4 --warmup-env-steps 300 --ratio 4:4"
TRAIN += " --actor-hidden-sizes 64 64 --critic-hidden-sizes 64 64 --quiet --overwrite --run-name sac"
VALUES = {"offline_steps": 10_000, "critic_hidden_sizes": (64, 64), "critic_lr": 1e-3}
BEHAVIOURS = {"poor": 2, "medium": 4, "good": 9}  # checkpoints, from 0


def truth(policies: list[ope.Policy], out: Path) -> dict[str, float]:
    """Mean discounted returns of simulated episodes, by policy."""
    path = out / "truth.json"
    if not path.exists():
        returns = ope.simulate(policies, envs.make(ENV), TRUE_EPISODES, GAMMA)
        path.write_text(json.dumps({p.name: float(x.mean()) for p, x in zip(policies, returns, strict=True)}))
    values: dict[str, float] = json.loads(path.read_text())
    return values


def estimated(policies: list[ope.Policy], run: Path, name: str, episodes: int, seed: int, out: Path) -> Any:
    """Estimates and effective episodes by estimator, from one data set."""
    path = out / f"{name}-{episodes}-{seed}.json"
    if not path.exists():
        step, folder = checkpoint.steps(run / "checkpoints")[BEHAVIOURS[name]], out / f"{name}-{episodes}-{seed}-v0"
        collect = f"collect {run} --step {step} --num-transitions {200 * episodes} --seed {seed} --out {folder}"
        if not folder.exists() and cli.main(collect.split()):
            raise SystemExit(2)
        table = ope.evaluate(policies, folder, gamma=GAMMA, values=VALUES, seed=seed)
        rows = {
            e: [(table.row(p, e).value.estimate, table.row(p, e).sample_size) for p in table.policies]
            for e in table.estimators
        }
        path.write_text(json.dumps({"rows": rows, "behaviour": table.behaviour.estimate, "step": step}))
    return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(".cache/bench/ope"))
    parser.add_argument("--data", nargs="+", choices=BEHAVIOURS, default=list(BEHAVIOURS))
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    settings = parser.parse_args()
    keep_compiled_programs()
    settings.out.mkdir(parents=True, exist_ok=True)
    run = settings.out / "sac"
    if not (run / "summary.json").exists() and cli.main([*TRAIN.split(), "--run-dir", str(settings.out)]):
        raise SystemExit(2)
    policies = ope.from_run(run, "all")[-10:]
    true = truth(policies, settings.out)
    names = [policy.name for policy in policies]
    print("truth: " + ", ".join(f"{name.partition('@')[2]}: {true[name]:.1f}" for name in names) + "\n")
    print(f"| data | J | estimator | root MSE | relative MSE | rank corr. | regret@1 | SharpeRatio@{K} | effective |")
    print("| --- | ---: | --- |" + " ---: |" * 6)
    values = np.array([true[name] for name in names])
    for name in settings.data:
        sets = [estimated(policies, run, name, settings.episodes, seed, settings.out) for seed in range(settings.seeds)]
        behaviour = true[f"{run.name}@{sets[0]['step']}"]
        for estimator in sets[0]["rows"]:
            estimates = [np.array(one["rows"][estimator]) for one in sets]
            measures = (
                np.sqrt([selection.mean_squared_error(x[:, 0], values) for x in estimates]),
                [selection.relative_mse(x[:, 0], values) for x in estimates],
                [selection.rank_correlation(x[:, 0], values) for x in estimates],
                [selection.regret(x[:, 0], values) for x in estimates],
                [selection.sharpe_ratio(x[:, 0], values, K, behaviour) for x in estimates],
                [np.median(x[:, 1]) for x in estimates],
            )
            cells = ["-" if np.isnan(np.mean(x)) else f"{np.mean(x):.2f}" for x in measures]
            print(f"| {name} | {behaviour:.1f} | {estimator} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
