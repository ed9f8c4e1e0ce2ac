"""A program of its own, because devices must be forced before jax starts: offline on two groups against one program."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np

from rlx import config, envs, experiment, parallel
from rlx.train.offline_pipelined import OfflinePipelined
from tests.test_offline import SETTINGS, walked
from tests.walk import Walk

ITERATIONS = 6


def run(agent: str, split: str, again: bool = False) -> tuple[Any, Any]:
    """Agent, statistics and totals after some iterations; with `again`, through the host in the middle."""
    settings = SETTINGS | {"driver": "pipelined", "split": split, "num_shards": 2, "num_seeds": 2, "n_step": 2}
    known = {name: value for name, value in settings.items() if name in config.settings(agent)}
    resolved = config.resolve(agent, "walk", dataset="unread", **known)
    given = experiment.Setup(resolved, Walk(), walked())
    driver = experiment.make_driver(given, offline=True)
    assert isinstance(driver, OfflinePipelined) == (split != "1")
    state, totals = driver.init(), driver.zeros()
    with jax.transfer_guard("disallow"):
        state, totals = driver.advance(state, totals, ITERATIONS // 2)
    if again:
        whole = jax.tree.map(np.array, driver.training_state(state, totals))
        shapes = jax.tree.map(lambda x: (x.shape, str(x.dtype)), whole)
        assert shapes == jax.tree.map(lambda x: (x.shape, str(x.dtype)), driver.training_state_shapes)
        state, totals = driver.place_training_state(whole)
    state, totals = driver.advance(state, totals, ITERATIONS - ITERATIONS // 2)
    return driver.fetch(driver.policy_snapshot(state)), driver.read(totals)


def main() -> None:
    envs.make = lambda name, backend=None: Walk()  # type: ignore[assignment, misc]
    assert parallel.device_count() == 3
    for agent in ("iql", "td3_bc"):
        expected, found, again = run(agent, "1"), run(agent, "1,1,1"), run(agent, "1,1,1", again=True)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), found, expected)
        jax.tree.map(np.testing.assert_array_equal, again, found)
        assert found[0]["agent"].critic.step.tolist() == [3 * ITERATIONS] * 2
        assert found[0]["agent"].actor.step.tolist() == [2 * ITERATIONS] * 2
    print(json.dumps({"checked": True}))


if __name__ == "__main__":
    main()
