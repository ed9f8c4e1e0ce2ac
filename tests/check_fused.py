"""Run by test_fused in a process of its own, on four devices: the linear agent's runs, however they are laid out. In
float64 and with plain descent, so that parameters after some iterations show every raw gradient; prints the layouts
that agree with one device to a relative 1e-9 (where float32 is at work, in statistics and reports: 1e-5)."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

from rlx import parallel  # noqa: E402
from rlx.train.fused import Fused  # noqa: E402
from tests import linear  # noqa: E402

SHARDS, ITERATIONS, SEEDS = 8, 12, (3, 4, 5, 6)
CONFIG = replace(linear.CONFIG, replay_capacity=96, pool_size=16)


def run(devices: int, seeds: tuple[int, ...], spread: str) -> dict[str, Any]:
    """What a run leaves behind, on the host: of every member `[M, ...]`, of every shard `[M, SHARDS, ...]`."""
    task = linear.make_task(replace(CONFIG, spread=spread), SHARDS)
    if spread == "seeds":
        axes = (parallel.SHARD,)
        task = task._replace(agent=linear.make_agent(axes), axes=axes)
    hypers = linear.Hypers(gamma=np.full(len(seeds), linear.GAMMA))
    driver = Fused(task, parallel.pick_devices(devices), np.asarray(seeds), hypers)
    state = driver.init()
    with jax.transfer_guard("disallow"):
        state, _ = driver.advance(state, driver.zeros(), ITERATIONS // 2)
        state = driver.refresh(state)
        state, totals = driver.advance(state, driver.zeros(), ITERATIONS // 2)
    alike = {"agent": state.agent, "totals": totals, "statistics": state.statistics}  # [D, M, ...]
    if spread == "data":
        jax.tree.map(lambda x: np.testing.assert_array_equal(x, np.broadcast_to(x[:1], x.shape)), jax.device_get(alike))

    def all_shards(x: Any) -> Any:
        """`[D, M, shards of a device, ...]` in the order of the global numbers, `[M, SHARDS, ...]`."""
        x = np.moveaxis(x, 0, 1) if spread == "data" else x
        return x.reshape(len(seeds), SHARDS, *x.shape[3:])

    shards = jax.tree.map(all_shards, jax.device_get((state.env, state.pool, state.replay.rows)))
    for drawn in (shards[1].observation, shards[2].reward):  # no shard repeats what another does
        assert len(np.unique(drawn)) == drawn.size
    return driver.fetch(alike) | {"environments, pool, replay": shards}


def same(result: dict[str, Any], expected: dict[str, Any]) -> None:
    def close(x: Any, y: Any, single: bool) -> None:
        np.testing.assert_allclose(x, y, rtol=1e-5 if single or x.dtype == np.float32 else 1e-9, atol=1e-12)

    for name in expected:
        jax.tree.map(partial(close, single=name == "statistics"), result[name], expected[name])


def main() -> None:
    one = run(1, SEEDS[:1], "data")
    same(run(4, SEEDS[:1], "data"), one)
    print("data over 4")
    apart = run(4, SEEDS, "seeds")
    for i in (0, 3):
        same(jax.tree.map(lambda x, i=i: x[i : i + 1], apart), run(1, SEEDS[i : i + 1], "data") if i else one)
        print(f"seed {i} of 4")


if __name__ == "__main__":
    main()
