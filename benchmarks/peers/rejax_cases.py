"""rejax's SAC and PPO, their own updates and training iterations, as a worker."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rejax import PPO, SAC
from rejax.buffers import Minibatch
from worker import again, say, serve


def make(args: argparse.Namespace) -> tuple[Any, Any]:
    """The algorithm and its first state."""
    algorithm = SAC.create(
        env=f"brax/{args.env}",
        env_params={"backend": "spring"},
        num_envs=args.num_envs,
        batch_size=args.batch,
        buffer_size=2**17,
        fill_buffer=2048,
        num_epochs=1,
        learning_rate=3e-4,
        gamma=0.99,
        normalize_observations=True,
        hidden_layer_sizes=(256, 256),
        skip_initial_evaluation=True,
    )
    return algorithm, jax.jit(algorithm.init_state)(jax.random.PRNGKey(0))


def update(args: argparse.Namespace) -> None:
    """Its `update` of critics, actor and temperature, and a step of the targets."""
    algorithm, state = make(args)
    o, a = algorithm.obs_space.shape[0], algorithm.action_dim
    keys = jax.random.split(jax.random.key(0), 4)
    batch = Minibatch(
        obs=jax.random.normal(keys[0], (args.batch, o)),
        action=jnp.tanh(jax.random.normal(keys[1], (args.batch, int(a)))),
        reward=jax.random.normal(keys[2], (args.batch,)),
        next_obs=jax.random.normal(keys[3], (args.batch, o)),
        done=jnp.zeros(args.batch, bool),
    )
    parts = ("actor_ts", "critic_ts", "critic_target_params", "alpha_ts", "rng")
    learned = {name: getattr(state, name) for name in parts}
    rest = state.replace(replay_buffer=None, env_state=None, last_obs=None)

    def step(learned: Any, batch: Any) -> Any:
        state = algorithm.update(rest.replace(**learned), batch)
        target = algorithm.maybe_update_target_params(state.critic_ts.params, state.critic_target_params, 1, 0)
        return {name: getattr(state, name) for name in parts} | {"critic_target_params": target}

    function = jax.jit(step, donate_argnums=0)
    serve(*again(function, jax.block_until_ready, jax.tree.map(jnp.copy, learned), batch))


def iterations(args: argparse.Namespace) -> tuple[Any, Any]:
    """`n` of its training iterations in one program, and a state past the warm-up."""
    algorithm, state = make(args)
    many = jax.jit(
        lambda state, n: jax.lax.fori_loop(0, n, lambda _, s: algorithm.train_iteration(s), state), donate_argnums=0
    )
    return many, state


def fused(args: argparse.Namespace) -> None:
    """Its training iterations: a vector step and an update each."""
    many, state = iterations(args)
    begun = time.perf_counter()
    held = [jax.block_until_ready(many(state, 2048 // args.num_envs + 2))]
    compile_s = time.perf_counter() - begun

    def run(units: int) -> None:
        held.append(jax.block_until_ready(many(held.pop(), units)))

    serve(run, round(compile_s, 2))


def blocks(args: argparse.Namespace) -> None:
    """PPO's training iterations with `--settings`, a block of environment steps each; several seeds are vmapped."""
    algorithm = PPO.create(env=args.env, skip_initial_evaluation=True, **json.loads(args.settings))
    keys = jax.random.split(jax.random.PRNGKey(0), args.seeds)
    one = algorithm.train_iteration
    made = (lambda state: one(state)) if args.seeds == 1 else jax.vmap(one)
    init = algorithm.init_state if args.seeds == 1 else jax.vmap(algorithm.init_state)
    state = jax.jit(init)(keys[0] if args.seeds == 1 else keys)
    run, compile_s = again(jax.jit(made, donate_argnums=0), jax.block_until_ready, state)
    serve(run, compile_s, block=algorithm.num_envs * algorithm.num_steps)


def start(args: argparse.Namespace) -> None:
    """Until the warm-up and `--steps` iterations that learn are over; without its evaluation, which would add to it."""
    many, state = iterations(args)
    jax.block_until_ready(many(state, 2048 // args.num_envs + args.steps))
    say(first_epoch=True)
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=("update", "fused", "blocks", "start"))
    parser.add_argument("--env", default="inverted_pendulum")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--num-envs", type=int, default=128)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--settings", default="{}", help="of PPO, as JSON")
    args = parser.parse_args()
    {"update": update, "fused": fused, "blocks": blocks, "start": start}[args.case](args)


if __name__ == "__main__":
    main()
