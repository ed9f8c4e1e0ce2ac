"""What a run will need, estimated from shapes before anything is compiled or allocated."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.interpreters.partial_eval import dce_jaxpr

from rlx import normalize, parallel, replay
from rlx.envs.randomization import nominal_params
from rlx.errors import RlxError
from rlx.train.acting import RECORDED
from rlx.train.learning import actor_rows, init_replay, minibatches, row_shapes
from rlx.train.task import Source, Tables, Task

# XLA's working memory against the values that are alive at once in the traced function: of a step of simulated physics
# it fuses most away, of an update it keeps matrices in a second layout. Tests hold both against compiled programs.
STEP_SHARE = 0.75
UPDATE_SHARE = 2
BLOCK_COPIES = 3  # of what is collected in an iteration: as it is scanned, as it is stored, and one to spare
BATCH_COPIES = 3  # of minibatches: gathered, widened, normalised
AGENT_COPIES = 3  # of the agent and its optimisers: the state, the next one, and one handed out
SPARED = 0.2  # of the free memory, where as much as fits is to be taken: what is free changes


class Estimate(NamedTuple):
    """Bytes on a device."""

    replay: int  # and the data set
    environments: int  # states, starts, what is collected in an iteration, and the working memory of a step
    learning: int  # agent, optimisers, minibatches, and the working memory of an update

    @property
    def total(self) -> int:
        return sum(self)


def size(shapes: Any) -> int:
    """Bytes of a pytree of shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def peak(function: Callable[..., Any], *shapes: Any, axes: parallel.Axes = ()) -> int:
    """Bytes of the values that `function` makes and that are alive at its busiest moment, were nothing fused."""
    for axis in axes:
        function = jax.vmap(function, in_axes=None, axis_name=axis, axis_size=1)
    traced = jax.make_jaxpr(function)(*shapes).jaxpr
    live, _ = dce_jaxpr(traced, [True] * len(traced.outvars))  # physics computes much that nothing reads
    return _peak(live)


def _peak(jaxpr: Jaxpr) -> int:
    last = {v: i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.invars if not isinstance(v, Literal)}
    last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars if not isinstance(v, Literal)}
    made: dict[Any, int] = {}
    most = 0
    for i, eqn in enumerate(jaxpr.eqns):
        made |= {v: size(v.aval) for v in eqn.outvars}
        most = max(most, sum(made.values()) + max(map(_peak, _inner(eqn.params)), default=0))
        made = {v: amount for v, amount in made.items() if last.get(v, i) > i}
    return most


def _inner(params: dict[str, Any]) -> list[Jaxpr]:
    """The jaxprs inside an equation: loop bodies, branches, calls."""
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, (ClosedJaxpr, Jaxpr)))
    closed = [leaf.jaxpr for leaf in leaves if isinstance(leaf, ClosedJaxpr)]
    return closed + [leaf for leaf in leaves if isinstance(leaf, Jaxpr)]


def estimate(task: Task, members: int, groups: Sequence[Sequence[jax.Device]], data: Tables | None = None) -> Estimate:
    """The most that a device will hold, for `groups` that collect, learn values and learn policies.

    Where the groups are one and the same, its devices hold all of it; else each holds what its role needs. Devices that
    learn hold a copy of the data sets.
    """
    parts = [role(task, members, len(group)) for role, group in zip((_collect, _value, _policy), groups, strict=True)]
    if list(groups[0]) != list(groups[1]):
        learners = [part._replace(replay=part.replay + size(data)) for part in parts[1:]]
        return max(parts[0], *learners, key=lambda part: part.total)
    replay, environments, learning = zip(*parts, strict=True)
    return Estimate(sum(replay) + size(data), sum(environments), max(learning))


def _shares(task: Task, members: int, devices: int) -> tuple[float, float]:
    """What a device holds: this many members times shards, and this many copies of an agent."""
    return members * task.plan.shards / devices, members / (devices if task.config.spread == "seeds" else 1)


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def _agent(task: Task) -> Any:
    return jax.eval_shape(task.agent.init, _key())


def _collect(task: Task, members: int, devices: int) -> Estimate:
    shards, agents = _shares(task, members, devices)
    plan, config, spec = task.plan, task.config, task.env.spec
    keys = jax.ShapeDtypeStruct((plan.shard_envs,), _key().dtype)
    pool = jax.eval_shape(task.batch.make_pool, _key())
    states = jax.eval_shape(task.batch.init, pool, keys)
    one = jax.eval_shape(task.env.reset, _key())
    working = size(one) + STEP_SHARE * peak(task.env.step, one, spec.action, _key())
    block = size(row_shapes(task)) * plan.shard_envs * config.rollout_length
    training = size(states) + 2 * size(pool) + BLOCK_COPIES * block + working * plan.shard_envs
    if plan.offline:
        training = 0
    film = spec.episode_length * min(RECORDED, config.eval_episodes) * size(one)
    halves = 1 if nominal_params(task.env) is None else 2  # with randomised and with nominal physics
    evaluating = film + (working + size(one)) * halves * config.eval_episodes
    return Estimate(0, int(shards * training + agents * evaluating), int(agents * size(_agent(task))))


def _value(task: Task, members: int, devices: int) -> Estimate:
    agent = _agent(task)
    batches = _batches(task, task.plan.critic_updates)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batches)
    policy = jax.eval_shape(task.agent.acting_params, agent)
    working = peak(task.agent.update_critic, agent.critic, policy, batch, _key(), axes=task.axes)
    return _learner(task, members, devices, row_shapes(task), size(batches), working)


def _policy(task: Task, members: int, devices: int) -> Estimate:
    agent, count = _agent(task), task.plan.actor_updates
    data = jax.eval_shape(task.agent.actor_batch, _batches(task, count))
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), data)
    value = jax.eval_shape(task.agent.critic_params, agent.critic)
    working = peak(task.agent.update_actor, agent.actor, value, batch, _key(), axes=task.axes)
    pipelined = task.config.driver == "pipelined" and not task.plan.offline
    row = actor_rows(task, row_shapes(task)) if pipelined else {}  # fused, both halves learn from one ring
    return _learner(task, members, devices, row, size(data), working)


def _batches(task: Task, count: int) -> Any:
    """Shapes of `count` minibatches of a shard."""
    slots, envs = task.reach + task.config.rollout_length, 1  # as if it were a small ring, whatever it is drawn from
    if task.config.epochs:
        slots, envs = task.plan.slots, task.plan.shard_envs
    ring = jax.eval_shape(lambda: replay.init(row_shapes(task), slots, envs))
    statistics = jax.eval_shape(lambda: normalize.init(task.env.spec.observation_size))
    gamma = jax.ShapeDtypeStruct((), jnp.float32)
    task = task._replace(plan=task.plan._replace(shard_offline=()))
    draw = partial(minibatches, task, count=count)
    return jax.eval_shape(draw, Source(ring), statistics, gamma, _key())


def _learner(task: Task, members: int, devices: int, row: Any, batches: int, working: int) -> Estimate:
    shards, agents = _shares(task, members, devices)
    ring = 0 if task.plan.offline else size(jax.eval_shape(lambda: init_replay(task, row)))
    windows = BATCH_COPIES * batches * (1 + task.config.n_step / 4)  # rewards and flags of every step in a window
    learning = AGENT_COPIES * agents * size(_agent(task)) + shards * (windows + UPDATE_SHARE * working)
    return Estimate(int(shards * ring), 0, int(learning))


def check(task: Task, members: int, groups: Sequence[Sequence[jax.Device]], data: Tables | None = None) -> Estimate:
    """The estimate of a run. Raises RlxError, with the numbers and the flag to change, if a device cannot hold it."""
    estimated = estimate(task, members, groups, data)
    room = parallel.memory_bytes(groups[0])
    if room is not None and estimated.total > room:
        parts = estimated._asdict()
        worst = max(parts, key=lambda name: parts[name])
        flag = {"replay": "--replay-capacity", "environments": "--num-envs", "learning": "--batch-size"}[worst]
        remedy = "lower it"
        if worst == "learning" and AGENT_COPIES * _shares(task, members, len(groups[0]))[1] * size(_agent(task)) > room:
            flag, remedy = "networks", "make them smaller"  # no minibatch would fit
        detail = ", ".join(f"{name} {amount / 2**30:.1f}" for name, amount in parts.items())
        raise RlxError(
            f"{flag}: the run needs {estimated.total / 2**30:.1f} GiB a device ({detail})"
            f" but {room / 2**30:.1f} GiB are free; {remedy}"
        )
    return estimated


def most_members(
    task: Task, unit: int, most: int, groups: Sequence[Sequence[jax.Device]], data: Tables | None = None
) -> int:
    """How many members, a multiple of `unit` and no more than `most`, the devices hold at once; at least `unit`."""
    room = parallel.memory_bytes(groups[0])
    if room is None:
        return most
    counts = range(unit, most + 1, unit)
    within = (1 - SPARED) * room
    fitting = bisect.bisect_right(counts, within, key=lambda count: estimate(task, count, groups, data).total)
    return unit * max(1, fitting)
