"""What the three roles do in an iteration, as pure functions of one logical shard; drivers decide where and in which
order.

An iteration collects one block of K vector steps, makes `critic_updates * K` critic and `actor_updates * K` actor
updates. Randomness hangs on (root key, role, iteration, logical shard or global environment, update), never on the
device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from rlx import normalize, parallel, replay
from rlx.envs.base import VectorEnv, VectorState
from rlx.evaluate import Evaluation, evaluate
from rlx.replay import Replay, Row
from rlx.rollout import Act, Diverged, Episodes, add_noise, collect, derive, noise_scales
from rlx.train import columns, nonfinite
from rlx.train.columns import Columns
from rlx.train.config import Plan, TrainConfig
from rlx.train.nonfinite import Alarms, Learned, zeros_like
from rlx.types import Agent, Env, EnvState, Key, Metrics, Read, State, Transition, fix_types

# the first index of every key
INIT_AGENT, INIT_ENV, POOL, COLLECT, ACT, SAMPLE, CRITIC, ACTOR, OFFLINE = range(9)

RECORDED = 3  # episodes of an evaluation that can be watched


class Task(NamedTuple):
    """All that a driver needs: the agent, the environment (alone and as one shard's batch) and the settings."""

    agent: Agent
    env: Env
    batch: VectorEnv  # one logical shard of environments
    config: TrainConfig
    plan: Plan
    axes: parallel.Axes  # what gradients and statistics are averaged over
    columns: Columns = Columns()  # of replay rows, beside the fields

    @property
    def reads(self) -> dict[str, Read]:
        """The extras of a minibatch."""
        return columns.reads(self.agent, self.columns.recorded)

    @property
    def reach(self) -> int:
        """Vector steps from the first row of a sample to the last one that it depends on, both included."""
        return replay.reach(self.reads, self.config.n_step, self.agent.window)


Tables = tuple[Replay, ...]  # data sets, each a full ring of one column


class Source(NamedTuple):
    """What minibatches are drawn from: what was collected, data sets, or a share of each."""

    ring: Replay | None
    data: Tables | None = None


class Totals(NamedTuple):
    """What a driver reports, added up over iterations (see `total`); the host divides."""

    metrics: Metrics  # of the iterations that learned, each a mean over its updates
    learned: jax.Array  # [] iterations that learned
    episodes: Episodes
    lags: dict[str, jax.Array] = {}  # noqa: RUF012 -- of the pipeline: iterations by staleness 0, 1, 2, more, of each input [4]
    alarms: Alarms = {}  # noqa: RUF012 -- of each quantity that is watched


def learns(task: Task, ring: Replay, iteration: jax.Array) -> jax.Array:
    """Whether the warm-up is over, [] bool: by the clock, and by what the ring holds (a resumed one may be empty)."""
    plan = task.plan
    enough = max(task.reach, min(plan.warmup_iterations * task.config.rollout_length, plan.slots))
    return (iteration >= plan.warmup_iterations) & (ring.cursor.size >= enough)


def data_statistics(task: Task, data: Tables) -> normalize.Statistics:
    """The statistics of the data sets' observations, together."""
    statistics = normalize.init(task.env.spec.observation_size)
    for table in data:
        statistics = normalize.update(statistics, table.rows.observation)
    return statistics


def observed(task: Task, statistics: normalize.Statistics, observation: jax.Array) -> jax.Array:
    """The observation as agents see it: normalised and clipped where the run normalises, `[..., O]`."""
    if not task.config.normalize_observations:
        return observation
    return normalize.normalize(statistics, observation, task.config.observation_clip)


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
    return batch._replace(**normalized, extras=extras)


def env_index(task: Task) -> jax.Array:
    """The global numbers of this shard's environments, [E]."""
    return parallel.index(task.axes) * task.plan.shard_envs + jnp.arange(task.plan.shard_envs)


def watch(statistics: normalize.Statistics) -> dict[str, jax.Array]:
    """Whether the statistics of the observations are not finite, [] float32, for the report of bad numbers."""
    return {"observation statistics": (~nonfinite.finite((statistics.mean, statistics.variance))).astype(jnp.float32)}


def make_pool(task: Task, key: Key, iteration: jax.Array) -> EnvState:
    """This shard's pool of initial states, `[P, ...]`, new at every iteration that it is asked for."""
    return task.batch.make_pool(derive(key, POOL, iteration, parallel.index(task.axes)))


def init_env(task: Task, key: Key, pool: EnvState) -> VectorState:
    """This shard's environments at the start of an episode."""
    state = task.batch.init(pool, jax.vmap(lambda e: derive(key, INIT_ENV, e))(env_index(task)))
    return state.replace(carry=fresh_carry(task, task.plan.shard_envs))


def fresh_carry(task: Task, number: int) -> Any:
    """The acting state that episodes begin with, `[number, ...]`; None for an agent without."""
    if task.agent.carry is None:
        return None
    fresh = fix_types(jax.tree.map(jnp.asarray, task.agent.carry()))
    return jax.tree.map(lambda x: jnp.repeat(x[None], number, axis=0), fresh)


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
    kept: dict[str, Any] = {name: leaf if name in names else None for name, leaf in rows._asdict().items()}
    kept["extras"] = {name: leaf for name, leaf in rows.extras.items() if name in names}
    return Row(**kept)


def init_replay(task: Task, row: Any) -> Replay:
    """This shard's empty ring for rows of the given shapes."""
    config = task.config
    return replay.init(
        row, task.plan.slots, task.plan.shard_envs, config.rollout_length, jnp.dtype(config.replay_dtype)
    )


def behave(task: Task, policy: Any, statistics: normalize.Statistics) -> Act:
    """How the agent acts while it explores, with the noise of each environment on top."""
    config, index = task.config, env_index(task)
    sigma = noise_scales(index, config.num_envs, config.noise_min, config.noise_max)

    def act(observation: jax.Array, key: Key, env_keys: Key, *carry: Any) -> tuple[Any, ...]:
        action, info, *carried = task.agent.act(policy, observed(task, statistics, observation), key, *carry)
        if config.noise_max > 0:
            # the info would be of another action
            return add_noise(action, sigma, jax.vmap(lambda k: derive(k, ACT))(env_keys)), {}, *carried
        return action, info, *carried

    return act


def make_block(
    task: Task,
    policy: Any,
    statistics: normalize.Statistics,
    env: VectorState,
    pool: EnvState,
    key: Key,
    iteration: jax.Array,
) -> tuple[VectorState, Row, Episodes, Diverged]:
    """The collector's iteration: one block `[K, E, ...]`, with random actions during the warm-up of an untrained
    agent."""
    config, explore = task.config, behave(task, policy, statistics)
    tells = bool(task.columns.shapes or task.agent.records or task.agent.carry)  # more than actions
    random_iterations = task.plan.warmup_iterations
    if tells:  # while the ring fills, act's info should be of the actions taken, unless random ones are asked for
        random_iterations = math.ceil(config.warmup_env_steps / task.plan.iteration_env_steps)
    # a trained agent acts for itself
    warm = (iteration < random_iterations) & (task.plan.prior[0] == 0)
    shape = (task.plan.shard_envs, task.env.spec.action_size)

    def act(observation: jax.Array, key: Key, env_keys: Key, *carry: Any) -> tuple[Any, ...]:
        def random() -> jax.Array:
            return jax.random.uniform(key, shape, task.env.spec.action.dtype, -1.0, 1.0)

        if not tells:
            return jax.lax.cond(warm, random, lambda: explore(observation, key, env_keys)[0]), {}
        action, info, *carried = explore(observation, key, env_keys, *carry)
        if "log_prob" in info:  # of the action that is taken
            info = info | {"log_prob": jnp.where(warm, -shape[1] * jnp.log(2.0), info["log_prob"])}
        return jnp.where(warm, random(), action), info, *carried

    def keep(info: dict[str, jax.Array], shown: dict[str, jax.Array]) -> Any:
        if task.agent.records:
            return info, shown
        return {name: (info | shown)[name] for name in task.columns.shapes}

    shard, index = parallel.index(task.axes), env_index(task)
    env_key, act_key = derive(key, COLLECT, iteration), derive(key, ACT, iteration, shard)
    given = (env, pool, config.rollout_length, index, env_key, act_key, keep, fresh_carry(task, shape[0]))
    env, rows, *seen = collect(task.batch, act, *given)
    episodes, diverged = parallel.sum(tuple(seen), task.axes)
    rows = rows._replace(reward=rows.reward + config.reward_shift)
    return env, record(task, policy, statistics, rows) if task.agent.records else rows, episodes, diverged


def record(task: Task, policy: Any, statistics: normalize.Statistics, rows: Row) -> Row:
    """A block whose extras are `act`'s info and what the environment showed, with the columns to store in their place,
    those of `Agent.records` included."""
    assert task.agent.records is not None
    info, shown = cast(Any, rows.extras)
    first, following = (observed(task, statistics, x) for x in (rows.observation, rows.next_observation))
    extras = {name: shown[name] for name in task.env.spec.extras}
    as_seen = rows._replace(observation=first, next_observation=following, extras=extras)
    available = info | shown | task.agent.records(policy, as_seen, info)
    return rows._replace(extras={name: available[name] for name in task.columns.shapes})


def minibatches(
    task: Task, source: Source, statistics: normalize.Statistics, gamma: jax.Array, key: Key, count: int
) -> Transition:
    """This shard's share of `count` minibatches as agents see them, `[count, B, ...]`."""
    return observed_batch(task, statistics, sample(task, source, gamma, key, count))


def sample(
    task: Task, source: Source, gamma: jax.Array, key: Key, count: int, actor_half_only: bool = False
) -> Transition:
    """This shard's share of `count` raw minibatches, drawn in one gather, `[count, B, ...]`.

    Of every minibatch `plan.shard_offline` rows are each data set's, if there are any. With `actor_half_only` it has
    what the actor half reads.
    """
    plan, (fields, reads) = task.plan, actor_half(task) if actor_half_only else (replay.FIELDS, task.reads)
    tags = [name for name, read in reads.items() if read.column == columns.SOURCE]
    stored = {name: read for name, read in reads.items() if name not in tags}

    def part(number: int, ring: Replay, key: Key, rows: int) -> Transition:
        given = (task.config.n_step, gamma, stored, fields, task.agent.window)
        batch = replay.sample(ring, key, (count, rows), *given)
        shape = (count, rows, task.agent.window) if task.agent.window else (count, rows)
        return batch._replace(extras=batch.extras | {name: jnp.full(shape, number) for name in tags})

    tables = list(enumerate(zip(source.data or (), plan.shard_offline, strict=False), start=1))
    offline = sum(rows for _, (_, rows) in tables)
    batches = []
    if source.ring is not None and offline < plan.shard_batch:
        batches.append(part(0, source.ring, key, plan.shard_batch - offline))
    for number, (table, rows) in tables:
        if rows:
            own_key = derive(key, OFFLINE) if number == 1 else derive(key, OFFLINE, number)
            batches.append(part(number, table, own_key, rows))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *batches) if len(batches) > 1 else batches[0]


def learn_critic(
    task: Task,
    critic: Any,
    policy: Any,
    source: Source,
    statistics: normalize.Statistics,
    key: Key,
    iteration: jax.Array,
) -> tuple[Any, Learned]:
    """The value learner's iteration: `critic_updates` for each of the K vector steps, against one frozen policy."""
    shard, count, skip = parallel.index(task.axes), task.plan.critic_updates, skips(task)
    update_critic = nonfinite.watched("critic", task.agent.update_critic, skip)

    def burst(critic: Any, k: jax.Array) -> tuple[Any, Learned]:
        sample_key = derive(key, SAMPLE, CRITIC, iteration, shard, k)
        batches = minibatches(task, source, statistics, critic.hypers.gamma, sample_key, count)

        def update(critic: Any, given: tuple[Transition, jax.Array]) -> tuple[Any, Learned]:
            batch, i = given
            return update_critic(critic, policy, batch, derive(key, CRITIC, iteration, shard, k, i))

        return _scan(update, critic, batches, count)

    critic, learned = jax.lax.scan(burst, critic, jnp.arange(task.config.rollout_length))
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
    """The policy learner's iteration: `actor_updates` for each of the K vector steps, against one frozen value.

    `sample(key, count)` gives `count` raw minibatches of what the actor half reads, `[count, B, ...]`.
    """
    shard, count, skip = parallel.index(task.axes), task.plan.actor_updates, skips(task)
    update_actor = nonfinite.watched("actor", task.agent.update_actor, skip)

    def burst(actor: Any, k: jax.Array) -> tuple[Any, Learned]:
        data = sample(derive(key, SAMPLE, ACTOR, iteration, shard, k), count)

        def update(actor: Any, given: tuple[Any, jax.Array]) -> tuple[Any, Learned]:
            raw, i = given
            batch = observed_batch(task, statistics, raw)
            return update_actor(actor, value, batch, derive(key, ACTOR, iteration, shard, k, i))

        return _scan(update, actor, data, count)

    actor, learned = jax.lax.scan(burst, actor, jnp.arange(task.config.rollout_length))
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

        def group(state: State, given: tuple[Transition, jax.Array]) -> tuple[State, Learned]:
            batch, g = given

            def critic_step(critic: Any, given: tuple[Transition, jax.Array]) -> tuple[Any, Learned]:
                row, i = given
                return update_critic(critic, policy, row, derive(key, CRITIC, iteration, shard, k, g, i))

            def actor_step(actor: Any, given: tuple[Transition, jax.Array]) -> tuple[Any, Learned]:
                row, i = given
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

    state, learned = jax.lax.scan(burst, state, jnp.arange(task.config.rollout_length))
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


def keep_hypers(agent: State, own: State) -> State:
    """`agent` under the hyper-parameters of `own`."""
    critic = agent.critic.replace(hypers=own.critic.hypers)
    return State(critic=critic, actor=agent.actor.replace(hypers=own.actor.hypers))


def greedy_action(task: Task, snapshot: dict[str, Any], observation: jax.Array, key: Key, *carry: Any) -> Any:
    """The greedy action of a policy snapshot (agent and statistics) at raw observations: `[..., O]` to `[..., A]`.

    Of an agent with an acting state, which is `carry`: the action and the next state.
    """
    policy = task.agent.acting_params(snapshot["agent"])
    seen = observed(task, snapshot["statistics"], observation)
    action, _, *carried = task.agent.act_greedy(policy, seen, key, *carry)
    return (action, *carried) if carried else action


def evaluate_policy(task: Task, learned: dict[str, Any], record: int = RECORDED) -> Evaluation:
    """The greedy policy over the configuration's fixed episodes, the first `record` of them recorded.

    `learned` holds the agent's state and the observations' statistics.
    """
    config, key = task.config, jax.random.key(task.config.eval_seed)
    act, episodes = partial(greedy_action, task, learned), config.eval_episodes
    carry = fresh_carry(task, episodes)
    return evaluate(task.env, act, episodes, key, min(record, episodes), carry, config.max_magnitude)
