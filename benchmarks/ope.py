"""Off-policy estimates against the truth: ten checkpoints of SAC a task, data of three of them.

    python -m benchmarks.ope --out benchmarks/results

Works in stages and keeps what each has made in --work, so a run that was stopped goes on; the rows of all data sets
and their page go to --out, as ope.json and ope.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import ope_page, tables
from rlx import data, envs, ope
from rlx.commands import main as cli
from rlx.data.dataset import take
from rlx.ope import checks, estimators, trajectories
from rlx.runs import origin
from rlx.train.compile import keep_compiled_programs

LENGTH, GAMMA, CANDIDATES = 100, 0.97, 10
NETWORKS = "--actor-hidden-sizes 64 64 --critic-hidden-sizes 64 64"


class Measured(NamedTuple):
    """A task, how SAC is trained on it, and what its three behaviour policies collect."""

    env: str
    backend: str | None
    training: str
    transitions: int  # of each behaviour policy
    sets: dict[int, int]  # episodes of a data set: how many such sets
    true_episodes: int = 4096  # simulated for the truth


TASKS = {
    "pendulum": Measured(
        "gymnax:Pendulum-v1",
        None,
        "--total-env-steps 3000 --eval-every 300 --log-every 300 --num-envs 4 --warmup-env-steps 300 --ratio 4:4",
        1_010_000,
        {100: 5, 1_000: 2, 10_000: 1},
    ),
    "inverted_pendulum": Measured(
        "brax:inverted_pendulum",
        "generalized",
        "--total-env-steps 9216 --eval-every 896 --log-every 896",
        230_000,
        {100: 5, 1_000: 2},
    ),
    "hopper": Measured(
        "brax:hopper",
        "spring",
        "--total-env-steps 60000 --eval-every 6000 --log-every 6000 --wrappers action_repeat:1 --gamma 0.997",
        230_000,
        {100: 5, 1_000: 2},
        true_episodes=1024,
    ),
}
QUALITIES = {"poor": 2, "medium": 5, "good": 9}  # the behaviour policy's place among the candidates, worst first
VALUES = {"offline_steps": 4_000, "critic_hidden_sizes": (64, 64), "critic_lr": 1e-3, "tau": 0.1}
VALUES |= {"num_critics": 1, "batch_size": 128, "samples": 2}
CLUSTERS, WINDOWS = (20, 50, 100), (1, 5, 20)  # of STAR


def run_of(task: str, work: Path) -> Path:
    """The task's training run, made if it is missing."""
    measured = TASKS[task]
    if not (work / task / "summary.json").exists():
        line = f"train sac --env {measured.env} {measured.training} {NETWORKS} --env-args episode_length={LENGTH}"
        line += f" --quiet --overwrite --run-dir {work} --run-name {task}"
        line += f" --backend {measured.backend}" if measured.backend else ""
        if cli.main(line.split()):
            raise SystemExit(2)
    return work / task


def truth_of(task: str, run: Path, work: Path) -> dict[str, Any]:
    """Mean discounted returns and lengths of simulated episodes of each candidate, by its step."""
    path = work / f"{task}-truth.json"
    if not path.exists():
        policies = ope.from_run(run, "all")[-CANDIDATES:]
        simulated = envs.make(TASKS[task].env, TASKS[task].backend, LENGTH)
        values = ope.simulate(policies, simulated, TASKS[task].true_episodes, GAMMA).mean(axis=1)
        path.write_text(json.dumps({p.name.partition("@")[2]: float(x) for p, x in zip(policies, values, strict=True)}))
    known: dict[str, Any] = json.loads(path.read_text())
    return known


def check_same(task: str, known: dict[str, float], true: dict[str, float], path: Path) -> None:
    """Stops where rows on file are of other policies, as training on another processor makes them."""
    if known.keys() != true.keys() or not np.allclose(list(known.values()), list(true.values()), rtol=1e-3):
        raise SystemExit(f"{path}: its policies of {task} have other true values than those trained here; choose --out")


def behaviour_of(true: dict[str, float], quality: str) -> str:
    """The step of the checkpoint that collects data of this quality."""
    return sorted(true, key=lambda step: true[step])[QUALITIES[quality]]


def data_of(task: str, quality: str, step: str, run: Path, work: Path) -> Any:
    """Transitions of one checkpoint, collected if they are missing."""
    folder = work / f"{task}-{quality}-v0"
    if not folder.exists():
        line = f"collect {run} --kind medium --step {step} --num-transitions {TASKS[task].transitions} --out {folder}"
        if cli.main(line.split()):
            raise SystemExit(2)
    return data.read(folder)


def subset(dataset: Any, first: int, count: int) -> Any:
    """`count` complete episodes, from the complete one of number `first`."""
    complete = np.flatnonzero(trajectories.from_dataset(dataset).complete)[first : first + count]
    if len(complete) < count:
        raise SystemExit(f"{dataset.name} has only {first + len(complete)} complete episodes: collect more")
    return take(dataset, np.isin(dataset.episode, complete))


def estimated(task: str, quality: str, episodes: int, number: int, run: Path, dataset: Any) -> dict[str, Any]:
    """Estimates and effective episodes by estimator, from one data set."""
    start = time.process_time()
    chosen = subset(dataset, episodes * number, episodes)
    policies = ope.from_run(run, "all")[-CANDIDATES:]
    options: dict[str, Any] = {"gamma": GAMMA, "values": VALUES, "seed": number, "bootstraps": 1}
    padded = trajectories.from_dataset(chosen)
    returns = estimators.returns(estimators.make_batch(padded.reward, padded.mask), GAMMA)
    table = ope.evaluate(policies, chosen, clusters=CLUSTERS, window=WINDOWS, **options)
    sizes = {e: float(np.median([table.row(p, e).sample_size for p in table.policies])) for e in table.estimators}
    return {
        "task": task,
        "data": quality,
        "episodes": episodes,
        "set": number,
        "steps": chosen.size,
        "estimates": {name: table.estimates(name) for name in table.estimators},
        "change": max(abs(x) for x in table.change.values()) / checks.scale_of(np.asarray(returns)),
        "sizes": {name: size for name, size in sizes.items() if np.isfinite(size)},
        "seconds": round(time.process_time() - start, 1),
    }


def place(row: dict[str, Any]) -> tuple[int, ...]:
    """Where a row stands: by size, task, behaviour policy and set."""
    return row["episodes"], list(TASKS).index(row["task"]), list(QUALITIES).index(row["data"]), row["set"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--data", nargs="+", choices=QUALITIES, default=list(QUALITIES))
    parser.add_argument("--episodes", nargs="+", type=int, default=[100, 1_000, 10_000], help="of a data set")
    parser.add_argument("--sets", type=int, default=5, help="data sets of each size, at most")
    parser.add_argument("--work", type=Path, default=Path(".cache/bench/ope"), help="runs and data sets")
    parser.add_argument("--out", type=Path, default=Path(".cache/bench"), help="rows and the page")
    settings = parser.parse_args()
    keep_compiled_programs()
    settings.work.mkdir(parents=True, exist_ok=True)
    rows_path = settings.out / "ope.json"
    rows = json.loads(rows_path.read_text()) if rows_path.exists() else {"truth": {}, "rows": []}
    by = tables.origin_of({"date": f"{datetime.date.today()}", **origin.describe(), "processor": tables.processor()})
    made = {ope_page.key_of(row) for row in rows["rows"]}
    for episodes in settings.episodes:
        for task in settings.tasks:
            for quality in settings.data:
                sets = min(TASKS[task].sets.get(episodes, 0), settings.sets)
                missing = [i for i in range(sets) if (task, quality, episodes, i) not in made]
                if not missing:
                    continue
                run = run_of(task, settings.work)
                true = truth_of(task, run, settings.work)
                step = behaviour_of(true, quality)
                dataset = data_of(task, quality, step, run, settings.work)
                known = rows["truth"].setdefault(task, {"values": true, "behaviours": {}})
                check_same(task, known["values"], true, rows_path)
                known["behaviours"][quality] = step
                for number in missing:
                    row = estimated(task, quality, episodes, number, run, dataset) | {"made": by}
                    others = [other for other in rows["rows"] if ope_page.key_of(other) != ope_page.key_of(row)]
                    rows["rows"] = sorted([*others, row], key=place)
                    print({k: v for k, v in row.items() if k not in ("estimates", "sizes")}, flush=True)
                    rows_path.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"written to {ope_page.write(rows, settings.out)}")


if __name__ == "__main__":
    main()
