"""What a run will need, estimated from shapes before anything is compiled or allocated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from rlx import parallel
from rlx.train.roles import Task, actor_rows, init_replay, row_shapes
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


def estimate(task: Task, members: int, split: tuple[int, int, int]) -> Estimate:
    """What the programs will hold on each device; `split` devices collect, learn values and learn policies.

    Where one group of devices does everything its size stands three times.
    """
    config, plan, spec = task.config, task.plan, task.env.spec
    collectors, values, policies = split
    key = jax.eval_shape(lambda: jax.random.key(0))
    keys = jax.ShapeDtypeStruct((plan.shard_envs,), key.dtype)
    pool = jax.eval_shape(task.batch.make_pool, key)
    env = jax.eval_shape(task.batch.init, pool, keys)
    agent = jax.eval_shape(task.agent.init, key)
    row = row_shapes(task)
    rings = size(jax.eval_shape(lambda: init_replay(task, row))) / values
    if config.driver == "pipelined":
        rings += size(jax.eval_shape(lambda: init_replay(task, actor_rows(task, row)))) / policies
    everything = members * plan.shards
    if config.driver == "fused" and config.spread == "seeds":  # members over the devices, all their shards with them
        members = members // collectors
    block = 3 * size(row) * plan.shard_envs * config.rollout_length
    minibatches = 3 * size(row) * max(plan.critic_updates, plan.actor_updates) * plan.shard_batch * config.n_step
    outputs = sum(math.prod(x.shape[:-2]) * x.shape[-1] for x in jax.tree.leaves(agent) if x.ndim > 1)
    activations = LAYER_COPIES * 4 * outputs * plan.shard_batch
    return Estimate(
        replay=int(rings * everything),
        environments=int((ENV_COPIES * size(env) + 2 * size(pool) + block) * everything / collectors),
        learning=int(3 * size(agent) * members + (minibatches + activations) * everything / min(values, policies)),
    )


def check(task: Task, members: int, groups: Sequence[Sequence[jax.Device]]) -> Estimate:
    """The estimate of a run on the groups that collect, learn values and learn policies. Raises RlxError, with the numbers and the flag to change, if a device cannot hold it."""
    collectors, values, policies = map(len, groups)
    found = estimate(task, members, (collectors, values, policies))
    room = parallel.memory_bytes(groups[0])
    if room is not None and found.total > room:
        parts = found._asdict()
        worst = max(parts, key=lambda name: parts[name])
        flag = {"replay": "--replay-capacity", "environments": "--num-envs", "learning": "--batch-size"}[worst]
        detail = ", ".join(f"{name} {amount / 2**30:.1f}" for name, amount in parts.items())
        raise RlxError(
            f"{flag}: the run needs {found.total / 2**30:.1f} GiB a device ({detail}) but {room / 2**30:.1f} GiB are free;"
            " lower it"
        )
    return found
