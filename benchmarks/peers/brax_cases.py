"""Brax's SAC and PPO, with the wheel's own networks, losses, optimisers and training loops, as a worker.

The wheel calls `jax.device_put_replicated`, which jax has removed: one line puts it back.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from worker import Stopwatch, again, say, scanned, serve, wanted

jax.device_put_replicated = lambda tree, devices: jax.tree.map(  # type: ignore[assignment, attr-defined, unused-ignore]
    lambda x: jnp.stack([jnp.asarray(x)] * len(devices)), tree
)

import optax  # noqa: E402
from brax import envs  # noqa: E402
from brax.training import acting, gradients  # noqa: E402
from brax.training.acme import running_statistics, specs  # noqa: E402
from brax.training.agents.sac import losses, networks, train  # noqa: E402
from brax.training.types import Transition  # noqa: E402

RATE = 3e-4


def update(args: argparse.Namespace) -> None:
    """One update of critics, actor, temperature and targets, its own losses and optimisers joined in one program.

    With `--scan` so many of them, over minibatches of their own, as its training loop has them.
    """
    o, a = args.sizes
    networks_of = networks.make_sac_networks(o, a, running_statistics.normalize)
    losses_of = losses.make_losses(networks_of, reward_scaling=1.0, discounting=0.99, action_size=a)
    optimiser = optax.adam(RATE)
    alpha_step, critic_step, actor_step = (gradients.gradient_update_fn(f, optimiser, None) for f in losses_of)
    keys = jax.random.split(jax.random.key(0), 8)
    actor, critic = networks_of.policy_network.init(keys[0]), networks_of.q_network.init(keys[1])
    alpha, statistics = jnp.zeros(()), running_statistics.init_state(specs.Array((o,), jnp.dtype("float32")))
    opt_states = tuple(optimiser.init(x) for x in (actor, critic, alpha))
    shape = (args.scan, args.batch) if args.scan else (args.batch,)
    observation, following = (jax.random.normal(key, (*shape, o)) for key in keys[2:4])
    batch = Transition(
        observation=observation,
        action=jnp.tanh(jax.random.normal(keys[4], (*shape, a))),
        reward=jax.random.normal(keys[5], shape),
        discount=jnp.ones(shape),
        next_observation=following,
        extras={"state_extras": {"truncation": jnp.zeros(shape)}, "policy_extras": {}},
    )

    def step(state: Any, batch: Transition, key: Any) -> Any:
        actor, critic, target, alpha, (of_actor, of_critic, of_alpha) = state
        keys = jax.random.split(key, 3)
        _, new_alpha, of_alpha = alpha_step(alpha, actor, statistics, batch, keys[0], optimizer_state=of_alpha)
        exp = jnp.exp(alpha)
        _, new_critic, of_critic = critic_step(
            critic, actor, statistics, target, exp, batch, keys[1], optimizer_state=of_critic
        )
        _, new_actor, of_actor = actor_step(actor, statistics, critic, exp, batch, keys[2], optimizer_state=of_actor)
        target = optax.incremental_update(new_critic, target, 0.005)
        return new_actor, new_critic, target, new_alpha, (of_actor, of_critic, of_alpha)

    own = jax.tree.map(jnp.copy, (actor, critic, critic, alpha, opt_states))
    made, key = (scanned(step), jax.random.split(keys[6], args.scan)) if args.scan else (step, keys[6])
    serve(*again(jax.jit(made, donate_argnums=0), jax.block_until_ready, own, batch, key))


class Over(Exception):
    """Nobody asks any more."""


def training(args: argparse.Namespace, epochs: int, steps: int, progress: Any) -> None:
    """Its `train`, in epochs of `steps` vector steps with one update each; evaluations are one environment's."""
    warmup = max(2048, args.num_envs) // args.num_envs * args.num_envs
    train.train(
        environment=envs.get_environment(args.env, backend="spring"),
        num_timesteps=warmup + epochs * steps * args.num_envs,
        episode_length=1000,
        num_envs=args.num_envs,
        num_eval_envs=1,
        learning_rate=RATE,
        discounting=0.99,
        batch_size=args.batch,
        num_evals=epochs + 1,
        normalize_observations=True,
        min_replay_size=warmup,
        max_replay_size=2**17,
        grad_updates_per_step=1,
        progress_fn=progress,
    )


def serve_epochs(units: int, train: Callable[[Any], None]) -> None:
    """Turns are epochs of its own loop, of `units` each: between two, `progress_fn` waits to be asked.

    Evaluations are left out.
    """
    watch = [Stopwatch()]
    ended: list[dict[str, float]] = []

    def after_epoch(self: Any, policy: Any, training_metrics: Any) -> Any:
        ended.append(watch[0].seconds())
        return training_metrics

    acting.Evaluator.run_evaluation = after_epoch
    asked: list[int] = []

    def progress(_: int, metrics: dict[str, Any]) -> None:
        if "training/sps" not in metrics:  # before the first epoch
            watch[0] = Stopwatch()
            return
        if len(asked) == 0 and not hasattr(progress, "ready"):
            progress.ready = True  # type: ignore[attr-defined]
            say(ready=True, compile_s=round(ended[-1]["wall_s"], 2))
        else:
            say(units=units, **ended[-1])
        if wanted() is None:
            raise Over
        asked.append(1)
        watch[0] = Stopwatch()

    try:
        train(progress)
    except Over:
        pass


def fused(args: argparse.Namespace) -> None:
    """SAC's vector steps with one update each, in epochs of `--steps`."""
    serve_epochs(args.steps, lambda progress: training(args, epochs=1000, steps=args.steps, progress=progress))


def blocks(args: argparse.Namespace) -> None:
    """PPO's environment steps with `--settings`: an epoch is a block of them and what is learned from it."""
    from brax.training.agents.ppo import train as ppo

    chosen = json.loads(args.settings)
    block = chosen["batch_size"] * chosen["num_minibatches"] * chosen["unroll_length"] * chosen.get("action_repeat", 1)
    common = {"episode_length": 1000, "num_eval_envs": 1, "normalize_observations": True}
    epochs = {"num_timesteps": 1000 * block, "num_evals": 1001}
    env = envs.get_environment(args.env, backend="spring")
    serve_epochs(block, lambda progress: ppo.train(environment=env, progress_fn=progress, **common | epochs | chosen))


def start(args: argparse.Namespace) -> None:
    """Until its first epoch of training is over; no evaluation is waited for."""

    def after_epoch(self: Any, *arguments: Any, **options: Any) -> Any:
        say(first_epoch=True)
        os._exit(0)

    evaluations = []

    def first_is_free(self: Any, *arguments: Any, **options: Any) -> Any:
        evaluations.append(1)
        return {} if len(evaluations) == 1 else after_epoch(self)

    acting.Evaluator.run_evaluation = first_is_free
    training(args, epochs=100, steps=args.steps, progress=lambda *_: None)


def learn(args: argparse.Namespace) -> None:
    """Trains by its SAC or PPO and says every evaluation of 32 greedy episodes."""
    from brax.training.agents.ppo import train as ppo
    from brax.training.agents.ppo.networks import make_ppo_networks

    def progress(steps: int, metrics: dict[str, Any]) -> None:
        say(env_steps=int(steps), value=float(metrics["eval/episode_reward"]), cpu_s=round(time.process_time(), 1))

    common = {"episode_length": 1000, "num_eval_envs": 32, "deterministic_eval": True, "normalize_observations": True}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "learn-sac": (train, {"num_timesteps": 2_000_000, "num_evals": 101, "discounting": 0.98, "tau": 0.02}),
        "learn-ppo": (ppo, {"num_timesteps": 50_000_000, "num_evals": 51, "discounting": 0.97, "reward_scaling": 10}),
    }
    kinds["learn-sac"][1].update({"min_replay_size": 8192, "max_replay_size": 2**18})
    kinds["learn-ppo"][1].update({"unroll_length": 5, "num_updates_per_batch": 4, "entropy_cost": 1e-2})
    module, own = kinds[args.case]
    settings = common | own | json.loads(args.settings)
    env = envs.get_environment(args.env, backend=settings.pop("backend", "spring"))
    make = networks.make_sac_networks if module is train else make_ppo_networks
    sizes = {name: settings.pop(name) for name in list(settings) if name.endswith("hidden_layer_sizes")}
    settings["network_factory"] = functools.partial(make, **sizes)
    module.train(environment=env, progress_fn=progress, seed=args.seed, **settings)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=("update", "fused", "blocks", "start", "learn-sac", "learn-ppo"))
    parser.add_argument("--env", default="inverted_pendulum")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--num-envs", type=int, default=128)
    parser.add_argument("--scan", type=int, default=0, help="updates in one program, of `update`; 0: one, and no loop")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs=2, default=[17, 6])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", default="{}", help="of its train function, as JSON")
    return parser.parse_args(arguments)


def main() -> None:
    args = parse()
    {"update": update, "fused": fused, "blocks": blocks, "start": start}.get(args.case, learn)(args)


if __name__ == "__main__":
    main()
