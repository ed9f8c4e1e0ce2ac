"""The pipelined iteration in plain NumPy and Python lists, for the linear agent of `tests.linear`. Only random numbers
come from jax, by the keys that design and docstrings promise: (root, role, iteration, shard or environment, ...).
Everything else, the schedule above all, is written a second time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.train.task import ACT, ACTOR, COLLECT, CRITIC, INIT_AGENT, INIT_ENV, POOL, SAMPLE, Task
from tests import linear


def key(*indices: int) -> Any:
    """The key of seed `indices[0]`, folded with the rest."""
    derived = jax.random.key(indices[0])
    for i in indices[1:]:
        derived = jax.random.fold_in(derived, i)
    return derived


def run(task: Task, seed: int, iterations: int) -> dict[str, Any]:
    """Parameters after `iterations` iterations, and the replay of every shard as a list of rows."""
    config, plan = task.config, task.plan
    dynamics, push, cost = (np.asarray(x) for x in (linear.DYNAMICS, linear.PUSH, linear.COST))
    start = task.agent.init(key(seed, INIT_AGENT))
    w, k = np.asarray(start.critic.params), np.asarray(start.actor.params)
    pools = [
        np.stack([_uniform(pool_key) for pool_key in jax.random.split(key(seed, POOL, 0, s), plan.shard_pool)])
        for s in range(plan.shards)
    ]

    def draw(shard: int, draw_key: Any) -> np.ndarray:
        return pools[shard][int(jax.random.bits(draw_key, (), jnp.uint32)) % plan.shard_pool]

    owner = [e // plan.shard_envs for e in range(config.num_envs)]
    x = [draw(owner[e], key(seed, INIT_ENV, e)) for e in range(config.num_envs)]
    time = [0] * config.num_envs
    replay: list[list[Any]] = [[] for _ in range(plan.shards)]  # [shard][vector step][environment]

    for t in range(iterations):
        policy, value = k.copy(), w.copy()  # the snapshots of this iteration
        blocks: list[list[Any]] = [[] for _ in range(plan.shards)]
        for i in range(config.rollout_length):
            for s in range(plan.shards):
                rows = []
                act_key = jax.random.fold_in(key(seed, ACT, t, s), i)
                shape = (plan.shard_envs, linear.A)
                random = np.asarray(jax.random.uniform(act_key, shape, jnp.float64, -1.0, 1.0))
                for j in range(plan.shard_envs):
                    e = s * plan.shard_envs + j
                    env_key = jax.random.fold_in(jax.random.fold_in(key(seed, COLLECT, t), i), e)
                    sigma = config.noise_min + (config.noise_max - config.noise_min) * e / (config.num_envs - 1)
                    noise = np.asarray(jax.random.normal(jax.random.fold_in(env_key, ACT), (linear.A,), jnp.float64))
                    action = np.clip(policy @ x[e] + sigma * noise, -1, 1)
                    action = random[j] if t < plan.warmup_iterations else action
                    after = dynamics @ x[e] + push @ action
                    reward = cost @ x[e] - 0.1 * action @ action
                    time[e] += 1
                    terminated = bool(after[0] > linear.FATAL)
                    truncated = time[e] >= linear.TIME_LIMIT and not terminated
                    rows.append((x[e], action, reward, terminated, truncated, after))
                    x[e] = draw(s, env_key) if terminated or truncated else after
                    time[e] = 0 if terminated or truncated else time[e]
                blocks[s].append(rows)
        if t >= plan.warmup_iterations:
            for v in range(config.rollout_length):
                for u in range(plan.critic_updates):
                    gradients = []
                    for s in range(plan.shards):
                        batch = _critic_batch(task, replay[s], key(seed, SAMPLE, CRITIC, t, s, v), u)
                        gradients.append(_critic_gradient(w, policy, *batch))
                    w = w - linear.CRITIC_LR * np.mean(gradients, axis=0)
            for v in range(config.rollout_length):
                for u in range(plan.actor_updates):
                    gradients = []
                    for s in range(plan.shards):
                        states = _actor_batch(task, replay[s], key(seed, SAMPLE, ACTOR, t, s, v), u)
                        mean = states.mean(axis=0)
                        gradients.append(-np.outer(value[linear.SIZE :], mean))
                    k = k - linear.ACTOR_LR * np.mean(gradients, axis=0)
        for s in range(plan.shards):
            replay[s] = (replay[s] + blocks[s])[-plan.slots :]
    return {"w": w, "k": k, "replay": replay}


def _uniform(reset_key: Any) -> np.ndarray:
    return np.asarray(jax.random.uniform(reset_key, (linear.SIZE,), jnp.float64, -1, 1))


def _indices(task: Task, rows: list[Any], draw_key: Any, count: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    shape = (count, task.plan.shard_batch)
    of_time, of_env = np.asarray(jax.random.bits(draw_key, (2, *shape), jnp.uint32))
    return of_time % (len(rows) - (n - 1)), of_env % task.plan.shard_envs


def _critic_batch(task: Task, rows: list[Any], draw_key: Any, update: int) -> tuple[Any, ...]:
    """n-step transitions, window by window."""
    n = task.config.n_step
    starts, envs = _indices(task, rows, draw_key, task.plan.critic_updates, n)
    batch = []
    for start, env in zip(starts[update], envs[update], strict=True):
        folded, discount = 0.0, 1.0
        for m in range(n):
            _, _, reward, terminated, truncated, after = rows[start + m][env]
            folded += linear.GAMMA**m * reward
            discount = linear.GAMMA**m * (0.0 if terminated else 1.0)
            if terminated or truncated:
                break
        state, action = rows[start][env][:2]
        batch.append((state, action, folded, discount, after))
    return tuple(np.stack([np.asarray(row[i]) for row in batch]) for i in range(5))


def _actor_batch(task: Task, rows: list[Any], draw_key: Any, update: int) -> np.ndarray:
    """The first observations of such windows."""
    starts, envs = _indices(task, rows, draw_key, task.plan.actor_updates, task.config.n_step)
    return np.stack([rows[t][e][0] for t, e in zip(starts[update], envs[update], strict=True)])


def _critic_gradient(w: np.ndarray, policy: np.ndarray, s: Any, a: Any, r: Any, d: Any, after: Any) -> np.ndarray:
    next_q = np.concatenate([after, after @ policy.T], axis=1) @ w
    features = np.concatenate([s, a], axis=1)
    error = features @ w - (r + linear.GAMMA * d * next_q)
    return 2 * features.T @ error / len(error)
