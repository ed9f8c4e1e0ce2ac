"""What `tests.kill` kills: a run of every driver, small enough to be made hundreds of times."""

from pathlib import Path
from typing import Any, NamedTuple


class Case(NamedTuple):
    """What is killed."""

    agent: str
    driver: str
    devices: int
    flags: str


SMALL = (
    "--env gymnax:Pendulum-v1 --batch-size 8 --eval-episodes 2 --pool-size 4 --seed 3 --quiet"
    " --actor-hidden-sizes 16 --critic-hidden-sizes 16"
)
ONLINE = (
    f"{SMALL} --num-envs 4 --total-env-steps 2400 --warmup-env-steps 200 --replay-capacity 1000"
    " --log-every 100 --checkpoint-every 100 --eval-every 400"
)
OFFLINE = (
    f"{SMALL} --total-env-steps 0 --offline-steps 2400 --log-every 100 --checkpoint-every 100 --eval-every 400"
    " --dataset {dataset}"
)
CASES = (
    Case("sac", "fused", 1, f"{ONLINE} --ratio 1:1"),
    Case("pql", "pipelined", 3, f"{ONLINE} --ratio 2:1 --driver pipelined --split 1,1,1"),
    Case("iql", "offline", 1, OFFLINE),
)


def find_case(agent: str, driver: str) -> Case:
    return next(case for case in CASES if (case.agent, case.driver) == (agent, driver))


def prepare(case: Case, root: Path) -> list[str]:
    """The command's arguments; makes the data set where there is one to learn from."""
    if "{dataset}" in case.flags:
        write_dataset(root / "dataset")
    flags = case.flags.format(dataset=root / "dataset")
    return ["rlx", "train", case.agent, *flags.split(), "--run-dir", str(root)]


def write_dataset(folder: Path, seed: int = 0, rows: int = 400, episode: int = 100, **info: Any) -> Path:
    """A few hundred random steps shaped like the pendulum's, in episodes of this length; `info` describes the set."""
    import numpy as np

    from rlx import data

    rng = np.random.default_rng(seed)
    states = rng.uniform(-1, 1, size=(rows + 1, 3)).astype(np.float32)
    dataset = data.make_dataset(
        {"name": "pendulum"} | info,
        observation=states[:-1],
        action=rng.uniform(-1, 1, size=(rows, 1)).astype(np.float32),
        reward=rng.normal(size=rows).astype(np.float32),
        terminated=np.zeros(rows, bool),
        truncated=np.arange(rows) % episode == episode - 1,
        next_observation=states[1:],
    )
    data.write(dataset, folder)
    return folder
