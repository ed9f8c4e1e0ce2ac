"""Acting: the collector's part of an iteration, and evaluation of the greedy policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp

from rlx import normalize, parallel
from rlx.envs.base import VectorState
from rlx.evaluate import Evaluation, evaluate
from rlx.replay import Row
from rlx.rollout import Act, Diverged, Episodes, add_noise, collect, derive, held_keys, noise_scales
from rlx.train.task import ACT, COLLECT, HOLD, INIT_ENV, POOL, Task, observed
from rlx.types import EnvState, Key, Spec, fix_types

RECORDED = 3  # episodes of an evaluation that can be watched


def env_index(task: Task) -> jax.Array:
    """The global numbers of this shard's environments, [E]."""
    return parallel.index(task.axes) * task.plan.shard_envs + jnp.arange(task.plan.shard_envs)


def make_pool(task: Task, key: Key, iteration: jax.Array, env_params: Any = None) -> EnvState:
    """This shard's pool of initial states, `[P, ...]`, new at every iteration that it is asked for."""
    return task.batch.make_pool(derive(key, POOL, iteration, parallel.index(task.axes)), env_params)


def init_env(task: Task, key: Key, pool: EnvState, hypers: Any = None) -> VectorState:
    """This shard's environments at the start of an episode; `hypers` are the agent's, where rewards are normalised."""
    state = task.batch.init(pool, jax.vmap(lambda e: derive(key, INIT_ENV, e))(env_index(task)))
    returns = None
    if task.config.normalize_rewards:
        zeros = jnp.zeros(task.plan.shard_envs)
        returns = normalize.Returns(zeros, zeros + hypers.gamma)
    return state.replace(carry=fresh_acting_state(task, task.plan.shard_envs), returns=returns)


def init_statistics(task: Task) -> normalize.Statistics:
    """The statistics before the first step."""
    returns = normalize.init_returns() if task.config.normalize_rewards else None
    return normalize.init(task.env.spec.observation_size).replace(returns=returns)


def add_block(
    task: Task, statistics: normalize.Statistics, env: VectorState, rows: Row
) -> tuple[normalize.Statistics, VectorState]:
    """The statistics with those of a block, and the environments with their discounted returns after it."""
    merged = normalize.update(statistics, rows.observation, task.axes or None)
    if env.returns is None:
        return merged, env
    ended = rows.terminated | rows.truncated
    merged, returns = normalize.add_rewards(merged, env.returns, rows.reward, ended, task.axes or None)
    return merged, env.replace(returns=returns)


def fresh_carry(task: Task, number: int) -> Any:
    """The state of acting greedily that episodes begin with, `[number, ...]`; None for an agent without."""
    return repeated(task.agent.carry, number)


def fresh_acting_state(task: Task, number: int) -> Any:
    """The state of exploring that episodes begin with, `[number, ...]`: the carry or that of the noise, or None."""
    return repeated(task.agent.carry or task.agent.noise, number)


def repeated(make: Callable[[], Any] | None, number: int) -> Any:
    if make is None:
        return None
    return jax.tree.map(lambda x: jnp.repeat(x[None], number, axis=0), fix_types(jax.tree.map(jnp.asarray, make())))


def random_action(spec: Spec, key: Key, observation: jax.Array) -> jax.Array:
    """Uniform actions `[E, A]` at observations `[E, O]`: of discrete ones, among those that are possible."""
    number = len(observation)
    if spec.action_mask:
        logits = jnp.log(spec.possible_actions(observation))
        return jax.nn.one_hot(jax.random.categorical(key, logits), spec.num_actions)
    if spec.num_actions:
        return jax.nn.one_hot(jax.random.randint(key, (number,), 0, spec.num_actions), spec.num_actions)
    return jax.random.uniform(key, (number, spec.action_size), spec.action.dtype, -1.0, 1.0)


def random_log_prob(spec: Spec, observation: jax.Array) -> jax.Array:
    """The log-density of uniform actions at observations `[E, O]`, [E] or []."""
    if spec.action_mask:
        return -jnp.log(spec.possible_actions(observation).sum(axis=-1))
    return -jnp.log(spec.num_actions) if spec.num_actions else -spec.action_size * jnp.log(2.0)


def noise_keys(task: Task, key: Key, start: jax.Array) -> Callable[[jax.Array], Key] | None:
    """Keys of this shard's exploration noise after `start` vector steps; None where every step draws it anew."""
    hold = task.config.noise_hold
    return None if hold <= 1 else held_keys(derive(key, HOLD), start, env_index(task), hold)


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
    agent = task.agent
    stores_info = bool(task.columns.shapes or agent.records or agent.carry or agent.noise)  # more than actions
    random_iterations = task.plan.warmup_iterations
    if stores_info:  # while the ring fills, act's info should be of the actions taken, unless random ones are asked for
        random_iterations = math.ceil(config.warmup_env_steps / task.plan.iteration_env_steps)
    if config.warmup_actions == "policy" or task.plan.prior[0]:  # a trained agent acts for itself
        random_iterations = 0
    warm = iteration < random_iterations
    spec, number = task.env.spec, task.plan.shard_envs

    def act(observation: jax.Array, key: Key, env_keys: Key, *carry: Any) -> tuple[Any, ...]:
        random = partial(random_action, spec, key, observation)
        if not stores_info:
            return jax.lax.cond(warm, random, lambda: explore(observation, key, env_keys)[0]), {}
        action, info, *carried = explore(observation, key, env_keys, *carry)
        if "log_prob" in info:  # of the action that is taken
            info = info | {"log_prob": jnp.where(warm, random_log_prob(spec, observation), info["log_prob"])}
        return jnp.where(warm, random(), action), info, *carried

    def keep(info: dict[str, jax.Array], shown: dict[str, jax.Array]) -> Any:
        if task.agent.records:
            return info, shown
        return {name: (info | shown)[name] for name in task.columns.shapes}

    shard, index = parallel.index(task.axes), env_index(task)
    env_key, act_key = derive(key, COLLECT, iteration), derive(key, ACT, iteration, shard)
    held = noise_keys(task, key, iteration * config.rollout_length)
    fresh = fresh_acting_state(task, number)
    arguments = (env, pool, config.rollout_length, index, env_key, act_key, keep, fresh, held)
    env, rows, *reports = collect(task.batch, act, *arguments)
    episodes, diverged = parallel.sum(tuple(reports), task.axes)
    rows = rows._replace(reward=rows.reward + config.reward_shift)
    return env, record(task, policy, statistics, rows) if task.agent.records else rows, episodes, diverged


def record(task: Task, policy: Any, statistics: normalize.Statistics, rows: Row) -> Row:
    """A block whose extras are `act`'s info and what the environment showed, with the columns to store in their place,
    those of `Agent.records` included."""
    assert task.agent.records is not None
    info, shown = cast(Any, rows.extras)
    normalised, following = (observed(task, statistics, x) for x in (rows.observation, rows.next_observation))
    extras = {name: shown[name] for name in task.env.spec.extras}
    scaled = statistics.returns is not None
    reward = normalize.scale_reward(statistics, rows.reward, task.config.max_return) if scaled else rows.reward
    agent_rows = rows._replace(observation=normalised, next_observation=following, reward=reward, extras=extras)
    available = info | shown | task.agent.records(policy, agent_rows, info)
    return rows._replace(extras={name: available[name] for name in task.columns.shapes})


def greedy_action(task: Task, snapshot: dict[str, Any], observation: jax.Array, key: Key, *carry: Any) -> Any:
    """The greedy action of a policy snapshot (agent and statistics) at raw observations: `[..., O]` to `[..., A]`.

    Of an agent with an acting state, which is `carry`: the action and the next state.
    """
    policy = task.agent.acting_params(snapshot["agent"])
    normalised = observed(task, snapshot["statistics"], observation)
    action, _, *carried = task.agent.act_greedy(policy, normalised, key, *carry)
    return (action, *carried) if carried else action


def policy_action(task: Task, snapshot: dict[str, Any], observation: jax.Array, key: Key, *carry: Any) -> Any:
    """`greedy_action` of what policies read of observations alone, `[..., actor_size]`: all that a robot needs."""
    return greedy_action(task, snapshot, task.env.spec.of_actor(observation), key, *carry)


def evaluate_policy(task: Task, learned: dict[str, Any], env_params: Any = None, record: int = RECORDED) -> Evaluation:
    """The greedy policy over the configuration's fixed episodes, the first `record` of them recorded.

    `learned` holds the agent's state and the observations' statistics; `env_params` are the member's own.
    """
    config, key = task.config, jax.random.key(task.config.eval_seed)
    act, episodes = partial(greedy_action, task, learned), config.eval_episodes
    carry = fresh_carry(task, episodes)
    return evaluate(task.env, act, episodes, key, min(record, episodes), carry, config.max_magnitude, env_params)
