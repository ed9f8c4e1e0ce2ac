"""Run by test_pipelined in a process of its own: the iteration on every split, against the NumPy oracle; prints
JSON."""

import json
import sys
from dataclasses import replace
from typing import Any

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

from rlx import parallel  # noqa: E402
from rlx.train.fused import Fused  # noqa: E402
from rlx.train.pipeline import LAGGED  # noqa: E402
from rlx.train.pipelined import Pipelined  # noqa: E402
from tests import linear, oracle  # noqa: E402

ITERATIONS, SEED, SHARDS = 50, 7, 2
CONFIG = replace(linear.CONFIG, driver="pipelined")


def make(split: tuple[int, ...]) -> Any:
    task = linear.make_task(CONFIG, SHARDS)
    seeds, hypers = np.asarray([SEED]), linear.Hypers(gamma=np.asarray([linear.GAMMA]))
    if len(split) == 1:
        return Fused(task, parallel.pick_devices(1), seeds, hypers, LAGGED)
    return Pipelined(task, parallel.split_devices(split), seeds, hypers)


def run(driver: Any, begins: Any = None) -> dict[str, Any]:
    """What comes of all iterations; of those that another driver `begins`, what it saves goes on here."""
    begins = begins or driver
    state = begins.init()
    with jax.transfer_guard("disallow"):
        state, first = begins.advance(state, begins.zeros(), 20)
        if begins is not driver:
            state, first = driver.place_training_state(begins.training_state(state, first))
        state, last = driver.advance(state, driver.zeros(), ITERATIONS - 20)
    values, policies = state.value_learner, state.policy_learner
    rows = parallel.fetch_rows(values.replay.rows)  # [D, M, shards of a device, T, E, ...]
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), rows)  # M is 1
    totals = [driver.read(totals) for totals in (first, last)]
    lags = {name: sum(t.lags[name][0] for t in totals).tolist() for name in totals[0].lags}
    return {
        "w": parallel.fetch(values.critic.params)[0],
        "k": parallel.fetch(policies.actor.params)[0],
        "steps": [int(parallel.fetch(half.step)[0]) for half in (values.critic, policies.actor)],
        "iterations": int(parallel.fetch(state.collector.iteration)),
        "rows": rows,
        "head": int(parallel.fetch(values.replay.cursor.head)),
        "learned": sum(float(t.learned[0]) for t in totals),
        "lags": lags,
        "told": [jax.tree.map(np.asarray, (t.metrics, t.episodes)) for t in totals],
    }


def ordered(actual: dict[str, Any]) -> Any:
    """The ring's rows from the oldest on, [shards, T, E, ...]."""
    return jax.tree.map(lambda x: np.roll(x, -actual["head"], axis=1), actual["rows"])


def main(splits: list[str]) -> None:
    wanted = oracle.run(linear.make_task(CONFIG, SHARDS), SEED, ITERATIONS)
    results = {}
    drivers = [make(tuple(int(size) for size in text.split(","))) for text in splits]
    for i, (text, driver) in enumerate(zip(splits, drivers, strict=True)):
        actual, again, moved = run(driver), run(driver), run(driver, begins=drivers[i - 1])
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12), moved, actual)
        same = jax.tree.map(np.array_equal, actual, again)
        ring = ordered(actual)
        for s, rows in enumerate(wanted["replay"]):
            columns = ring.observation, ring.action, ring.reward, ring.terminated, ring.truncated
            for field, column in enumerate(columns):
                expected = np.asarray([[row[field] for row in step] for step in rows])
                np.testing.assert_allclose(column[s], expected, rtol=1e-9, atol=1e-12)
        for name in ("w", "k"):
            np.testing.assert_allclose(actual[name], wanted[name], rtol=1e-9)
        results[text] = {
            "bits_repeat": all(jax.tree.leaves(same)),
            **{name: actual[name] for name in ("steps", "iterations", "learned", "lags")},
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1:])
