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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx import normalize, parallel, replay
from rlx.envs.base import VectorEnv, VectorState
from rlx.evaluate import Evaluation, evaluate
from rlx.replay import Replay, Row
from rlx.rollout import Act, Diverged, Episodes, add_noise, collect, derive, noise_scales
from rlx.train import nonfinite
from rlx.train.config import Plan, TrainConfig
from rlx.train.nonfinite import Alarms, Learned, zeros_like
from rlx.types import Agent, Env, EnvState, Key, Metrics, State, Transition

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


class Source(NamedTuple):
    """What minibatches are drawn from: what was collected, a data set, or a share of each."""

    ring: Replay | None
    data: Replay | None = None


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
    enough = min(plan.warmup_iterations * task.config.rollout_length, plan.slots)
    return (iteration >= plan.warmup_iterations) & (ring.cursor.size >= enough)


def observed(task: Task, statistics: normalize.Statistics, observation: jax.Array) -> jax.Array:
    """The observation as agents see it: normalised and clipped where the run normalises, `[..., O]`."""
    if not task.config.normalize_observations:
        return observation
    return normalize.normalize(statistics, observation, task.config.observation_clip)


def observed_batch(task: Task, statistics: normalize.Statistics, batch: Transition) -> Transition:
    """A raw minibatch, or the fields of it that the actor half reads, as agents see it."""
    seen: dict[str, Any] = {
        name: observed(task, statistics, x)
        for name, x in (("observation", batch.observation), ("next_observation", batch.next_observation))
        if x is not None
    }
    return batch._replace(**seen)


def env_index(task: Task) -> jax.Array:
    """The global numbers of this shard's environments, [E]."""
    return parallel.index(task.axes) * task.plan.shard_envs + jnp.arange(task.plan.shard_envs)


def make_pool(task: Task, key: Key, iteration: jax.Array) -> EnvState:
    """This shard's pool of initial states, `[P, ...]`, new at every iteration that it is asked for."""
    return task.batch.make_pool(derive(key, POOL, iteration, parallel.index(task.axes)))


def init_env(task: Task, key: Key, pool: EnvState) -> VectorState:
    """This shard's environments at the start of an episode."""
    return task.batch.init(pool, jax.vmap(lambda e: derive(key, INIT_ENV, e))(env_index(task)))


def row_shapes(task: Task) -> Row:
    """Shapes of what one environment step puts into replay."""
    spec = task.env.spec
    scalar, flag = jax.ShapeDtypeStruct((), spec.observation.dtype), jax.ShapeDtypeStruct((), jnp.bool_)
    shapes: tuple[Any, ...] = (spec.observation, spec.action, scalar, flag, flag, spec.observation)
    return Row(*shapes)


def actor_rows(task: Task, rows: Row) -> Any:
    """What the actor half reads of raw rows or of their shapes, for the policy learner's ring: `Agent.actor_batch`."""

    def select(rows: Row) -> Any:
        discount = 1.0 - rows.terminated.astype(rows.reward.dtype)
        transition = Transition(rows.observation, rows.action, rows.reward, discount, rows.next_observation)
        return task.agent.actor_batch(transition)

    return jax.eval_shape(select, rows) if isinstance(rows.reward, jax.ShapeDtypeStruct) else select(rows)


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

    def act(observation: jax.Array, key: Key, env_keys: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
        action, info = task.agent.act(policy, observed(task, statistics, observation), key)
        if config.noise_max > 0:
            return add_noise(action, sigma, jax.vmap(lambda k: derive(k, ACT))(env_keys)), {}
        return action, info

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
    warm = (iteration < task.plan.warmup_iterations) & (
        task.plan.prior_iterations == 0
    )  # a trained agent acts for itself
    shape = (task.plan.shard_envs, task.env.spec.action_size)

    def act(observation: jax.Array, key: Key, env_keys: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
        def random() -> jax.Array:
            return jax.random.uniform(key, shape, task.env.spec.action.dtype, -1.0, 1.0)

        return jax.lax.cond(warm, random, lambda: explore(observation, key, env_keys)[0]), {}

    shard, index = parallel.index(task.axes), env_index(task)
    env_key, act_key = derive(key, COLLECT, iteration), derive(key, ACT, iteration, shard)
    env, rows, *seen = collect(task.batch, act, env, pool, config.rollout_length, index, env_key, act_key)
    episodes, diverged = parallel.sum(tuple(seen), task.axes)
    return env, rows._replace(reward=rows.reward + config.reward_shift), episodes, diverged


def minibatches(
    task: Task, source: Source, statistics: normalize.Statistics, gamma: jax.Array, key: Key, count: int
) -> Transition:
    """This shard's share of `count` minibatches as agents see them, `[count, B, ...]`."""
    return observed_batch(task, statistics, draw(task, source, gamma, key, count))


def draw(task: Task, source: Source, gamma: jax.Array, key: Key, count: int) -> Transition:
    """This shard's share of `count` raw minibatches, drawn in one gather, `[count, B, ...]`.

    Of every minibatch `plan.shard_offline` rows are the data set's, if there is one.
    """
    plan, n = task.plan, task.config.n_step
    offline = 0 if source.data is None else plan.shard_offline
    batches = []
    if source.ring is not None and offline < plan.shard_batch:
        batches.append(replay.sample(source.ring, key, (count, plan.shard_batch - offline), n, gamma))
    if source.data is not None and offline > 0:
        batches.append(replay.sample(source.data, derive(key, OFFLINE), (count, offline), n, gamma))
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

        return jax.lax.scan(update, critic, (batches, jnp.arange(count)))

    critic, learned = jax.lax.scan(burst, critic, jnp.arange(task.config.rollout_length))
    return critic, nonfinite.summary(learned, skip).inspected("critic", critic)


def learn_actor(
    task: Task,
    actor: Any,
    value: Any,
    draw: Callable[[Key, int], Any],
    statistics: normalize.Statistics,
    key: Key,
    iteration: jax.Array,
) -> tuple[Any, Learned]:
    """The policy learner's iteration: `actor_updates` for each of the K vector steps, against one frozen value.

    `draw(key, count)` gives the raw data of `count` minibatches, what `Agent.actor_batch` selects, `[count, B, ...]`.
    """
    shard, count, skip = parallel.index(task.axes), task.plan.actor_updates, skips(task)
    update_actor = nonfinite.watched("actor", task.agent.update_actor, skip)

    def burst(actor: Any, k: jax.Array) -> tuple[Any, Learned]:
        data = draw(derive(key, SAMPLE, ACTOR, iteration, shard, k), count)

        def update(actor: Any, given: tuple[Any, jax.Array]) -> tuple[Any, Learned]:
            raw, i = given
            batch = observed_batch(task, statistics, raw)
            return update_actor(actor, value, batch, derive(key, ACTOR, iteration, shard, k, i))

        return jax.lax.scan(update, actor, (data, jnp.arange(count)))

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
            critic, of_critic = jax.lax.scan(critic_step, state.critic, (first, jnp.arange(critics)))
            value = task.agent.critic_params(critic)
            last = jax.tree.map(lambda x: x[width - actors :], batch)
            actor, of_actor = jax.lax.scan(actor_step, state.actor, (last, jnp.arange(actors)))
            joined = Learned(of_critic.metrics | of_actor.metrics, of_critic.bad | of_actor.bad)
            return State(critic=critic, actor=actor), nonfinite.summary(joined, skip)

        return jax.lax.scan(group, state, (batches, jnp.arange(groups)))

    state, learned = jax.lax.scan(burst, state, jnp.arange(task.config.rollout_length))
    learned = nonfinite.summary(learned, skip)
    return state, learned.inspected("critic", state.critic).inspected("actor", state.actor)


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


def greedy_action(task: Task, snapshot: dict[str, Any], observation: jax.Array, key: Key) -> jax.Array:
    """The greedy action of a policy snapshot (agent and statistics) at raw observations: `[..., O]` to `[..., A]`."""
    policy = task.agent.acting_params(snapshot["agent"])
    return task.agent.act_greedy(policy, observed(task, snapshot["statistics"], observation), key)[0]


def evaluate_policy(task: Task, learned: dict[str, Any], record: int = RECORDED) -> Evaluation:
    """The greedy policy over the configuration's fixed episodes, the first `record` of them recorded.

    `learned` holds the agent's state and the observations' statistics.
    """
    config, key = task.config, jax.random.key(task.config.eval_seed)
    act = partial(greedy_action, task, learned)
    return evaluate(task.env, act, config.eval_episodes, key, record=min(record, config.eval_episodes))
