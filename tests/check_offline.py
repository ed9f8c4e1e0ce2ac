"""A program of its own, because devices must be forced before jax starts: offline on two groups against one program."""

import json
from typing import Any

import jax
import numpy as np

from rlx import build, config, envs, parallel
from rlx.train.pipelined import Pipelined
from tests.test_offline import SETTINGS, walked
from tests.walk import Walk

ITERATIONS = 6


def make(agent: str, split: str) -> Any:
    settings = SETTINGS | {"driver": "pipelined", "split": split, "num_shards": 2, "num_seeds": 2, "n_step": 2}
    known = {name: value for name, value in settings.items() if name in config.settings(agent)}
    resolved = config.resolve(agent, "walk", dataset="unread", **known)
    run_setup = build.Setup(resolved, Walk(), walked(), (walked().size,))
    driver = build.make_driver(run_setup, offline=True)
    assert isinstance(driver, Pipelined) == (split != "1")
    return driver


def run(driver: Any, begins: Any = None) -> tuple[Any, Any]:
    """Agent, statistics and totals after some iterations, the first half made by the driver `begins` if given."""
    begins = begins or driver
    state, totals = begins.init(), begins.zeros()
    with jax.transfer_guard("disallow"):
        state, totals = begins.advance(state, totals, ITERATIONS // 2)
    saved = jax.tree.map(np.array, begins.training_state(state, totals))
    shapes = jax.tree.map(lambda x: (x.shape, str(x.dtype)), saved)
    for maker in (begins, driver):
        assert shapes == jax.tree.map(lambda x: (x.shape, str(x.dtype)), maker.training_state_shapes)
    if begins is not driver:
        state, totals = driver.place_training_state(saved)
    state, totals = driver.advance(state, totals, ITERATIONS - ITERATIONS // 2)
    return driver.fetch(driver.policy_snapshot(state)), driver.read(totals)


def main() -> None:
    envs.make = lambda *arguments: Walk()
    assert parallel.device_count() == 3
    for agent in ("iql", "td3_bc"):
        one, split = make(agent, "1"), make(agent, "1,1,1")
        expected, outcome, same = run(one), run(split), run(split, begins=make(agent, "1,1,1"))
        jax.tree.map(np.testing.assert_array_equal, same, outcome)
        for result in (outcome, run(one, begins=split), run(split, begins=one)):
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), result, expected)
        assert outcome[0]["agent"].critic.step.tolist() == [3 * ITERATIONS] * 2
        assert outcome[0]["agent"].actor.step.tolist() == [2 * ITERATIONS] * 2
    print(json.dumps({"checked": True}))


if __name__ == "__main__":
    main()
