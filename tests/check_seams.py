"""Run by test_seams in a process of its own, on four devices: the reader's runs on groups of devices against those in
one program; prints the cases that agree."""

import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlx import agents, build, config, data, envs
from rlx.train.pipelined import Pipelined
from tests import reader
from tests.test_seams import FULL, SETTINGS

ITERATIONS = 10
MIXED = {"dataset": "a,b", "dataset_shares": "0.25,0.75", "offline_fraction": 0.5}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "n-step, recorded and carried": ("2,1,1", FULL | {"n_step": 3, "records": True, "carries": True}),
    "mixed windows": ("2,1,1", MIXED | {"window": 4}),
    "offline n-step": ("2,1,1", FULL | MIXED | {"n_step": 2, "offline_steps": 40, "total_env_steps": 0}),
}


def run(split: str, changes: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    """The training state after some iterations, and means over minibatches of what each half noticed."""
    settings = SETTINGS | changes | {"driver": "pipelined", "split": split, "num_shards": 2}
    settings |= {"batch_size": 16, "replay_capacity": 128}
    names = settings.get("dataset", "")
    settings["dataset"] = ",".join(str(folder / name) for name in names.split(",")) if names else ""
    driver: Any = build.make_driver(
        build.setup(config.resolve("reader", "stub:walk", **settings)), settings["total_env_steps"] == 0
    )
    assert isinstance(driver, Pipelined) == (split != "1")
    state = driver.init()
    with jax.transfer_guard("disallow"):
        state, totals = driver.advance(state, driver.zeros(), ITERATIONS)
    means = {name: x / driver.read(totals).learned for name, x in driver.read(totals).metrics.items()}
    return driver.training_state(state, totals)["state"], means


def close(x: Any, y: Any) -> None:
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def main() -> None:
    agents.REGISTRY["reader"] = "tests.reader"
    envs.make = lambda *args: reader.Costly()
    with tempfile.TemporaryDirectory() as name:
        for seed, place in enumerate("ab"):
            data.write(reader.dataset(seed=seed), Path(name, place))
        for case, (split, changes) in CASES.items():
            one, apart = run("1", changes, Path(name)), run(split, changes, Path(name))
            jax.tree.map(close, apart, one)
            wrong = {k for k, x in apart[1].items() if not k.endswith(("mean", "source", "masked")) and x.any()}
            assert not wrong, (case, wrong)
            tags = {"mixed windows": 0.5 * 1.75, "offline n-step": 1.75}.get(case, 0.0)  # mean number of the source
            assert np.allclose([apart[1]["critic_source"], apart[1]["actor_source"]], tags), case
            print(case)


if __name__ == "__main__":
    main()
