"""PQN's tuned settings. `ALL` follows its authors' for MinAtar, with blocks and minibatches of as many transitions."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets.ppo import GAMES

ALL: dict[str, Any] = {"epochs": 2, "warmup_env_steps": 0, "rollout_length": 32, "batch_size": 128, "critic_lr": 5e-4}

PRESETS: dict[str, dict[str, Any]] = {
    "*": ALL,
    **{game: {"critic_hidden_sizes": (128, 128), "total_env_steps": 1_500_000} for game in GAMES},
    "gymnax:CartPole-v1": {
        "critic_hidden_sizes": (64, 64),
        "reward_scale": 0.1,
        "td_lambda": 0.95,
        "epsilon_end": 0.2,
        "exploration_share": 0.2,
        "num_envs": 32,
        "rollout_length": 64,
        "epochs": 4,
        "total_env_steps": 300_000,
    },
}
