"""Learning: minibatches, and the updates of both halves in an iteration, on separate devices or in turn."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rlx import normalize, parallel, replay
from rlx.replay import Replay, Row
from rlx.rollout import derive
from rlx.train import columns, mirror, nonfinite
from rlx.train.nonfinite import Learned, zeros_like
from rlx.train.task import ACTOR, CRITIC, OFFLINE, SAMPLE, Source, Tables, Task, observed
from rlx.types import Key, Read, State, Transition


def row_shapes(task: Task) -> Row:
    """Shapes of what one environment step puts into replay."""
    return columns.fields(task.env.spec)._replace(extras=task.columns.shapes)


def actor_half(task: Task) -> tuple[tuple[str, ...], dict[str, Read]]:
    """The fields and the extras of a minibatch that the actor half reads."""
    names = task.agent.actor_reads
    fields = tuple(name for name in replay.FIELDS if name in names)
    return fields, {name: read for name, read in task.reads.items() if name in names}


def actor_rows(task: Task, rows: Row) -> Row:
    """The columns of rows, or of their shapes, that the policy learner's ring needs; the others are None."""
    fields, reads = actor_half(task)
    names = replay.columns(fields, reads, task.config.n_step, task.agent.window)
    columns: dict[str, Any] = {name: leaf if name in names else None for name, leaf in rows._asdict().items()}
    columns["extras"] = {name: leaf for name, leaf in rows.extras.items() if name in names}
    return Row(**columns)


def init_replay(task: Task, row: Any) -> Replay:
    """This shard's empty ring for rows of these shapes."""
    config = task.config
    return replay.init(
        row, task.plan.slots, task.plan.shard_envs, config.rollout_length, jnp.dtype(config.replay_dtype)
    )


def data_statistics(task: Task, data: Tables) -> normalize.Statistics:
    """The statistics of the data sets' observations, together."""
    statistics = normalize.init(task.env.spec.observation_size)
    for table in data:
        statistics = normalize.update(statistics, table.rows.observation)
    return statistics


def learns(task: Task, ring: Replay, iteration: jax.Array) -> jax.Array:
    """Whether the warm-up is over, [] bool: by the clock, and by what the ring holds (a resumed one may be empty)."""
    plan = task.plan
    enough = max(task.reach, min(plan.warmup_iterations * task.config.rollout_length, plan.slots))
    return (iteration >= plan.warmup_iterations) & (ring.cursor.size >= enough)


def observed_batch(task: Task, statistics: normalize.Statistics, batch: Transition) -> Transition:
    """A raw minibatch, or the fields of it that the actor half reads, as agents see it."""
    normalized: dict[str, Any] = {
        name: observed(task, statistics, x)
        for name, x in (("observation", batch.observation), ("next_observation", batch.next_observation))
        if x is not None
    }
    reads = task.reads
    extras = {
        name: observed(task, statistics, x) if name in reads and reads[name].normalize else x
        for name, x in batch.extras.items()
    }
    if statistics.returns is not None and batch.reward is not None:
        normalized["reward"] = normalize.scale_reward(statistics, batch.reward, task.config.max_return)
    return batch._replace(**normalized, extras=extras)


def minibatches(
    task: Task, source: Source, statistics: normalize.Statistics, gamma: jax.Array, key: Key, count: int
) -> Transition:
    """This shard's share of `count` minibatches as agents see them, `[count, B, ...]`."""
    return observed_batch(task, statistics, sample(task, source, gamma, key, count))


def sample(
    task: Task, source: Source, gamma: jax.Array, key: Key, count: int, actor_half_only: bool = False
) -> Transition:
    """This shard's share of `count` raw minibatches, drawn in one gather, `[count, B, ...]`; 2B rows with a mirror.

    Of every minibatch `plan.shard_offline` rows are each data set's, if there are any. With `actor_half_only` it has
    what the actor half reads.
    """
    plan, (fields, reads) = task.plan, actor_half(task) if actor_half_only else (replay.FIELDS, task.reads)
    tags = [name for name, read in reads.items() if read.column == columns.SOURCE]
    stored = {name: read for name, read in reads.items() if name not in tags}

    def part(number: int, ring: Replay, key: Key, rows: int) -> Transition:
        options = (task.config.n_step, gamma, stored, fields, task.agent.window, not task.config.epochs)
        batch = replay.sample(ring, key, (count, rows), *options)
        shape = (count, rows, task.agent.window) if task.agent.window else (count, rows)
        return batch._replace(extras=batch.extras | {name: jnp.full(shape, number) for name in tags})

    tables = list(enumerate(zip(source.data or (), plan.shard_offline, strict=False), start=1))
    offline = sum(rows for _, (_, rows) in tables)
    batches = []
    if source.ring is not None and offline < plan.shard_batch:
        batches.append(part(0, source.ring, key, plan.shard_batch - offline))
    for number, (table, rows) in tables:
        if rows:
            table_key = derive(key, OFFLINE) if number == 1 else derive(key, OFFLINE, number)
            batches.append(part(number, table, table_key, rows))
    batch = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *batches) if len(batches) > 1 else batches[0]
    return mirror.with_mirrored(task.config, batch, reads)


def learn_critic(
    task: Task,
    critic: Any,
    policy: Any,
    source: Source,
    statistics: normalize.Statistics,
    key: Key,
    iteration: jax.Array,
) -> tuple[Any, Learned]:
    """The value learner's iteration: bursts of `critic_updates`, against one frozen policy."""
    shard, count, skip = parallel.index(task.axes), task.plan.critic_updates, skips(task)
    update_critic = nonfinite.watched("critic", task.agent.update_critic, skip)

    def burst(critic: Any, k: jax.Array) -> tuple[Any, Learned]:
        sample_key = derive(key, SAMPLE, CRITIC, iteration, shard, k)
        batches = minibatches(task, source, statistics, critic.hypers.gamma, sample_key, count)

        def update(critic: Any, numbered: tuple[Transition, jax.Array]) -> tuple[Any, Learned]:
            batch, i = numbered
            return update_critic(critic, policy, batch, derive(key, CRITIC, iteration, shard, k, i))

        return _scan(update, critic, batches, count)

    critic, learned = jax.lax.scan(burst, critic, jnp.arange(task.plan.bursts))
    return critic, nonfinite.summary(learned, skip).inspected("critic", critic)


def learn_actor(
    task: Task,
    actor: Any,
    value: Any,
    sample: Callable[[Key, int], Transition],
    statistics: normalize.Statistics,
    key: Key,
    iteration: jax.Array,
) -> tuple[Any, Learned]:
    """The policy learner's iteration: bursts of `actor_updates`, against one frozen value.

    `sample(key, count)` gives `count` raw minibatches of what the actor half reads, `[count, B, ...]`.
    """
    shard, count, skip = parallel.index(task.axes), task.plan.actor_updates, skips(task)
    update_actor = nonfinite.watched("actor", task.agent.update_actor, skip)

    def burst(actor: Any, k: jax.Array) -> tuple[Any, Learned]:
        data = sample(derive(key, SAMPLE, ACTOR, iteration, shard, k), count)

        def update(actor: Any, numbered: tuple[Any, jax.Array]) -> tuple[Any, Learned]:
            raw, i = numbered
            batch = observed_batch(task, statistics, raw)
            return update_actor(actor, value, batch, derive(key, ACTOR, iteration, shard, k, i))

        return _scan(update, actor, data, count)

    actor, learned = jax.lax.scan(burst, actor, jnp.arange(task.plan.bursts))
    return actor, nonfinite.summary(learned, skip).inspected("actor", actor)


def learn(
    task: Task, state: State, source: Source, statistics: normalize.Statistics, key: Key, iteration: jax.Array
) -> tuple[State, Learned]:
    """The sequential iteration: critic and actor updates interleaved as evenly as the ratio allows, each seeing the
    last.

    With ratio 2:1, say, two critic steps and then one actor step on the second's minibatch, again and again.
    """
    plan, shard, skip = task.plan, parallel.index(task.axes), skips(task)
    groups = math.gcd(plan.critic_updates, plan.actor_updates)
    critics, actors = plan.critic_updates // groups, plan.actor_updates // groups
    width = max(critics, actors)
    update_critic = nonfinite.watched("critic", task.agent.update_critic, skip)
    update_actor = nonfinite.watched("actor", task.agent.update_actor, skip)

    def burst(state: State, k: jax.Array) -> tuple[State, Learned]:
        gamma = state.critic.hypers.gamma
        sample_key = derive(key, SAMPLE, CRITIC, iteration, shard, k)
        batches = minibatches(task, source, statistics, gamma, sample_key, groups * width)
        batches = jax.tree.map(lambda x: x.reshape(groups, width, *x.shape[1:]), batches)

        def group(state: State, numbered: tuple[Transition, jax.Array]) -> tuple[State, Learned]:
            batch, g = numbered

            def critic_step(critic: Any, numbered: tuple[Transition, jax.Array]) -> tuple[Any, Learned]:
                row, i = numbered
                return update_critic(critic, policy, row, derive(key, CRITIC, iteration, shard, k, g, i))

            def actor_step(actor: Any, numbered: tuple[Transition, jax.Array]) -> tuple[Any, Learned]:
                row, i = numbered
                data = task.agent.actor_batch(row)
                return update_actor(actor, value, data, derive(key, ACTOR, iteration, shard, k, g, i))

            policy = task.agent.acting_params(state)
            first = jax.tree.map(lambda x: x[:critics], batch)
            critic, of_critic = _scan(critic_step, state.critic, first, critics)
            value = task.agent.critic_params(critic)
            last = jax.tree.map(lambda x: x[width - actors :], batch)
            actor, of_actor = _scan(actor_step, state.actor, last, actors)
            joined = Learned(of_critic.metrics | of_actor.metrics, of_critic.bad | of_actor.bad)
            return State(critic=critic, actor=actor), nonfinite.summary(joined, skip)

        return jax.lax.scan(group, state, (batches, jnp.arange(groups)))

    state, learned = jax.lax.scan(burst, state, jnp.arange(task.plan.bursts))
    learned = nonfinite.summary(learned, skip)
    return state, learned.inspected("critic", state.critic).inspected("actor", state.actor)


def _scan(step: Callable[..., tuple[Any, Learned]], half: Any, batches: Any, count: int) -> tuple[Any, Learned]:
    """`count` updates of a half, one after the other; without any, nothing to report."""
    return jax.lax.scan(step, half, (batches, jnp.arange(count))) if count else (half, Learned({}, {}))


def skips(task: Task) -> bool:
    """Whether updates whose result is not finite are left out."""
    return task.config.on_nonfinite == "skip"


def after_warmup(
    learn: Callable[[Any], tuple[Any, Learned]], learner: Any, learning: jax.Array
) -> tuple[Any, Learned, jax.Array]:
    """`learn(learner)` where `learning`; else the learner as it is, and reports of zero.

    Also returns whether it learned, [] float32. Every shard decides alike, so `learn` may average over them. Off a CPU
    iterations of the warm-up learn, too, and throw it away: XLA for GPUs would copy each leaf of the state out of a
    branch, in every iteration, and warm-ups are short.
    """

    def wait(learner: Any) -> tuple[Any, Learned]:
        return learner, zeros_like(jax.eval_shape(learn, learner)[1])

    if parallel.on_cpu():
        learner, learned = jax.lax.cond(learning, learn, wait, learner)
    else:
        learner, learned = jax.tree.map(partial(jnp.where, learning), learn(learner), wait(learner))
    return learner, learned, learning.astype(jnp.float32)


def keep_hypers(agent: State, old: State) -> State:
    """`agent` under the hyper-parameters of `old`."""
    critic = agent.critic.replace(hypers=old.critic.hypers)
    return State(critic=critic, actor=agent.actor.replace(hypers=old.actor.hypers))
