"""Run by test_pipelined in a process of its own: a heavy iteration on three devices; prints JSON. The linear agent with
minibatches so large that every role works for a while: how long dispatching the iteration took, which roles were still
at work when it returned, and how long the work took."""

import json
import time
from dataclasses import replace

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

from rlx import parallel  # noqa: E402
from rlx.train.pipelined import Pipelined  # noqa: E402
from tests import linear  # noqa: E402
from tests.check_iteration import CONFIG  # noqa: E402


def main() -> None:
    config = replace(
        CONFIG, num_envs=512, pool_size=32, rollout_length=60, batch_size=8192, ratio="4:8",
        replay_capacity=2 * 60 * 512, warmup_env_steps=512 * 60, total_env_steps=10_000_000,
    )  # fmt: skip
    task = linear.make_task(config, 1)
    seeds, hypers = np.asarray([0]), linear.Hypers(gamma=np.asarray([linear.GAMMA]))
    driver = Pipelined(task, parallel.split_devices((1, 1, 1)), seeds, hypers)
    state, _ = driver.advance(driver.init(), driver.zeros(), 3)  # compiled, and past the warm-up
    jax.block_until_ready(state)
    begun = time.perf_counter()
    state, reports = driver.iteration(state, driver.no_totals)
    dispatched = time.perf_counter()
    at_work = [not all(leaf.is_ready() for leaf in jax.tree.leaves(report)) for report in reports]
    jax.block_until_ready(state)
    done = time.perf_counter()
    print(json.dumps({"dispatch_s": dispatched - begun, "work_s": done - begun, "at_work": at_work}))


if __name__ == "__main__":
    main()
