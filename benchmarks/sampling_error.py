"""Sampling error of what PROPS learns from, beside on-policy sampling: `python -m benchmarks.sampling_error`.

In a gridworld, whose states can be counted, KL(empirical || pi) is exact: of the actions that the ring holds in each
state against the policy that is about to learn from them, averaged over the ring. On-policy sampling is by the same
policies, each for a block, in environments of their own, as in the paper (arXiv 2311.08290, section 6).
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import build, config, networks
from rlx.envs.base import advance, begin
from rlx.train import acting, fused
from rlx.types import EnvState, Key, Spec, Step

SIDE, ACTIONS = 5, 4


class GridWorld:
    """A walk of at most 40 steps from a random cell to a corner; each step costs 0.1, the corner pays 1."""

    spec = Spec(
        observation=jax.ShapeDtypeStruct((SIDE * SIDE,), jnp.float32),
        action=jax.ShapeDtypeStruct((ACTIONS,), jnp.float32),
        episode_length=40,
        num_actions=ACTIONS,
    )

    def reset(self, key: Key) -> EnvState:
        cell = jax.random.randint(key, (), 0, SIDE * SIDE - 1)
        return begin(cell, jax.nn.one_hot(cell, SIDE * SIDE))

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        del key
        move = jnp.array([[0, 1], [0, -1], [1, 0], [-1, 0]])[jnp.argmax(action)]
        row, column = jnp.clip(jnp.stack([state.inner // SIDE, state.inner % SIDE]) + move, 0, SIDE - 1)
        cell = row * SIDE + column
        there = cell == SIDE * SIDE - 1
        reward = jnp.where(there, 1.0, -0.1)
        return advance(state, cell, jax.nn.one_hot(cell, SIDE * SIDE), reward, there, self.spec.episode_length)


def divergence(observation: jax.Array, action: jax.Array, probabilities: jax.Array) -> jax.Array:
    """KL of the actions' shares in each state from a policy's `[states, actions]`, averaged over one-hot rows, []."""
    counts = jnp.einsum("...s,...a->sa", observation, action)
    total = counts.sum(axis=1, keepdims=True)
    ratio = jnp.where(counts > 0, counts / jnp.maximum(total, 1) / probabilities, 1.0)
    return (counts * jnp.log(ratio)).sum() / counts.sum()


def measure(settings: dict[str, Any], seeds: int, iterations: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every seed and iteration that trains the policy the errors of the ring and of on-policy sampling, and the
    mean reward, `[seeds, iterations]` each."""
    resolved = config.resolve("props", "none", total_env_steps=10**6, normalize_observations=False, **settings)
    setup = build.setup(resolved, GridWorld())
    driver: Any = build.make_driver(setup)
    task, hypers = driver.task, jax.tree.map(lambda x: x[0, 0], driver.first[1])
    actor = networks.make_categorical_policy(
        GridWorld.spec, setup.config.network.actor_hidden_sizes, **setup.config.network.network_options()
    )
    blocks, every = task.config.history_blocks, setup.config.network.policy_every

    def iterate(carry: Any, nothing: None) -> tuple[Any, Any]:
        del nothing
        state, env, on_policy = carry
        policy = task.agent.acting_params(state.agent)
        plain, key = policy._replace(behaviour_params=policy.params), jax.random.key(state.seed + 1000)
        env, rows, *_ = acting.make_block(task, plain, state.statistics, env, state.pool, key, state.iteration)
        newest = rows.observation, rows.action
        on_policy = jax.tree.map(lambda held, new: jnp.concatenate([held[len(new) :], new]), on_policy, newest)
        state = fused.iteration(task, None, state)[0]
        ring = state.replay.rows
        probabilities = jax.nn.softmax(actor.apply(policy.params, jnp.eye(SIDE * SIDE)))
        errors = [divergence(x, a, probabilities) for x, a in ((ring.observation, ring.action), on_policy)]
        return (state, env, on_policy), (*errors, rows.reward.mean())

    def one(seed: jax.Array) -> Any:
        pool = acting.make_pool(task, jax.random.key(seed), jnp.int32(0))
        state = fused.init(task, seed, hypers, pool)
        env = acting.init_env(task, jax.random.key(seed + 1000), pool)
        ring = state.replay.rows
        return jax.lax.scan(iterate, (state, env, (ring.observation, ring.action)), None, length=iterations)[1]

    found = jax.jit(jax.vmap(one))(jnp.arange(seeds, dtype=jnp.uint32))
    props, on_policy, reward = (np.asarray(x)[:, blocks - 1 + every - 1 :: every] for x in found)
    return props, on_policy, reward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--policy-updates", type=int, default=24, help="blocks of 256 steps that the policy learns from"
    )
    parser.add_argument("--every", type=int, nargs="+", default=[1, 8], help="behaviour updates for each of the policy")
    parser.add_argument("--max-behaviour-kl", type=float, default=0.03)
    args = parser.parse_args()
    common: dict[str, Any] = {"num_envs": 8, "epochs": 16, "batch_size": 128, "actor_lr": 1e-3, "critic_lr": 1e-3}
    common |= {"max_behaviour_kl": args.max_behaviour_kl}
    common |= {"actor_hidden_sizes": (64, 64), "critic_hidden_sizes": (64, 64)}
    print("| behaviour updates a policy update | policy updates | PROPS | on-policy | lower in the mean | in runs |")
    print("| --- | --- | --- | --- | --- | --- |")
    for every in args.every:
        sizes = {"policy_every": every, "rollout_length": 32 // every, "history_blocks": 2 * every}
        props, on_policy, _ = measure(common | sizes, args.seeds, 2 * every - 1 + every * args.policy_updates)
        for part in np.array_split(np.arange(props.shape[1]), 3):
            a, b = props[:, part], on_policy[:, part]
            lower = f"{100 * (a.mean(0) < b.mean(0)).mean():.0f} % | {100 * (a < b).mean():.0f} %"
            print(
                f"| {every} | {part[0] + 1} to {part[-1] + 1} | {a.mean():.4f} | {b.mean():.4f} | {lower} |", flush=True
            )


if __name__ == "__main__":
    main()
