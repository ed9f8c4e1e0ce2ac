"""sbx's SAC, TQC and CrossQ: the compiled training step that its `train` calls, as a worker.

Its environments are Gymnasium's, stepped by the host, so only updates are compared, and starting.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sbx import SAC, TQC, CrossQ
from sbx.common.type_aliases import ReplayBufferSamplesNp
from worker import say, serve


class Sized(gymnasium.Env):
    """An environment with these sizes in which nothing happens."""

    def __init__(self, observation: int, action: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (observation,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (action,), np.float32)

    def reset(self, **_: Any) -> Any:
        return np.zeros(self.observation_space.shape, np.float32), {}

    def step(self, _: Any) -> Any:
        return np.zeros(self.observation_space.shape, np.float32), 0.0, False, False, {}


def make(args: argparse.Namespace, env: Any) -> Any:
    """The model: two critics, 2 x 256, its other defaults."""
    policy = {"net_arch": [256, 256], "n_critics": 2}
    kind = {"sac": SAC, "tqc": TQC, "crossq": CrossQ}[args.agent]
    options = {"tqc": {"top_quantiles_to_drop_per_net": 2}, "crossq": {"policy_delay": 1}}.get(args.agent, {})
    return kind(
        "MlpPolicy",
        env,
        batch_size=args.batch,
        buffer_size=2**17,
        policy_kwargs=policy,
        learning_starts=1000,
        **options,
    )


def update(args: argparse.Namespace) -> None:
    """One gradient step of its `_train`, on a minibatch that is there already."""
    o, a = args.sizes
    model = make(args, Sized(o, a))
    rng = np.random.default_rng(0)
    n = args.batch
    batch = ReplayBufferSamplesNp(
        *map(
            jnp.asarray,
            (
                rng.normal(size=(n, o)).astype(np.float32),
                rng.uniform(-1, 1, (n, a)).astype(np.float32),
                rng.normal(size=(n, o)).astype(np.float32),
                np.zeros(n, np.float32),
                rng.normal(size=n).astype(np.float32),
                np.full(n, 0.99, np.float32),
            ),
        )
    )
    policy = model.policy
    both = args.agent == "tqc"
    critics = (policy.qf1_state, policy.qf2_state) if both else (policy.qf_state,)
    settings: tuple[Any, ...] = (model.target_entropy, 1)
    if args.agent != "crossq":  # which has no target networks
        settings = 0.005, *settings, *([policy.n_target_quantiles] if both else [])
    state = [(*critics, policy.actor_state, model.ent_coef_state, model.key)]

    def run(units: int) -> None:
        for _ in range(units):
            *critics, actor, alpha, key = state[0]
            found = model._train(*settings, batch, 1, 0, *critics, actor, alpha, key)
            state[0] = found[: len(state[0])]
        jax.block_until_ready(state[0])

    begun = time.perf_counter()
    run(1)
    serve(run, round(time.perf_counter() - begun, 2))


def start(args: argparse.Namespace) -> None:
    """Until `learn` on Pendulum has done its warm-up of 1000 steps and `--steps` that learn."""
    model = make(args, gymnasium.make("Pendulum-v1"))
    model.learn(1000 + args.steps)
    say(first_epoch=True)
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=("update", "start"))
    parser.add_argument("--agent", default="sac", choices=("sac", "tqc", "crossq"))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs=2, default=[17, 6])
    args = parser.parse_args()
    {"update": update, "start": start}[args.case](args)


if __name__ == "__main__":
    main()
