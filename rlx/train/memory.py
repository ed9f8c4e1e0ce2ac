"""What a run will need, estimated from shapes before anything is compiled or allocated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from rlx import parallel
from rlx.train.driver import Driver
from rlx.train.roles import Task
from rlx.types import RlxError

# Working copies of an environment's state that a step of simulated physics holds at once, and of a layer's output that
# one update holds (online, target and actor passes, their gradients); tests hold both against compiled programs.
ENV_COPIES = 6
LAYER_COPIES = 8


class Estimate(NamedTuple):
    """Bytes on each device."""

    replay: int
    environments: int  # states, pool of starts and the working copies of a step
    learning: int  # agent, optimisers, minibatches and the working copies of an update

    @property
    def total(self) -> int:
        return sum(self)


def size(shapes: Any) -> int:
    """Bytes of a pytree of shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def estimate(task: Task, state: Any, members: int, devices: int) -> Estimate:
    """What the programs of a run will hold on each device, `state` being the driver's state as shapes `[D, ...]`."""
    agent = size(state.agent) // devices
    env, pool = size(state.env) // devices, size(state.pool) // devices
    config, plan, spec = task.config, task.plan, task.env.spec
    row = 4 * (2 * spec.observation_size + spec.action_size + 3)
    rows = max(plan.critic_updates, plan.actor_updates) * plan.shard_batch
    outputs = sum(math.prod(x.shape[:-2]) * x.shape[-1] for x in jax.tree.leaves(state.agent) if x.ndim > 1) // devices
    local = members * plan.shards // (devices if config.spread == "data" else 1)
    minibatches = 3 * rows * row * local * config.n_step
    activations = LAYER_COPIES * 4 * outputs * plan.shard_batch * local // max(members, 1)
    block = 3 * row * config.num_envs * config.rollout_length * local // plan.shards
    return Estimate(size(state.replay) // devices, ENV_COPIES * env + 2 * pool + block, 3 * agent + minibatches + activations)


def check(driver: Driver, devices: Sequence[jax.Device]) -> Estimate:
    """The estimate of a run. Raises RlxError, with the numbers and the flag to change, if a device cannot hold it."""
    state = driver.shapes
    found = estimate(driver.task, state, driver.members, len(devices))
    room = parallel.memory_bytes(devices[0])
    if devices[0].platform == "cpu" and room is not None:
        room //= len(devices)  # the devices of a CPU share one memory
    if room is not None and found.total > room:
        parts = found._asdict()
        worst = max(parts, key=lambda name: parts[name])
        flag = {"replay": "--replay-capacity", "environments": "--num-envs", "learning": "--batch-size"}[worst]
        detail = ", ".join(f"{name} {amount / 2**30:.1f}" for name, amount in parts.items())
        raise RlxError(f"needs {found.total / 2**30:.1f} GiB a device ({detail}) but {room / 2**30:.1f} GiB are free: lower {flag}")
    return found
