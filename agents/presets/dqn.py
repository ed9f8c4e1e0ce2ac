"""DQN's tuned settings."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets.ppo import GAMES

SMALL: dict[str, Any] = {  # small networks, for easy tasks on a CPU
    "critic_hidden_sizes": (64, 64),
    "critic_lr": 1e-3,
    "tau": 0.005,
    "reward_scale": 0.1,
    "num_envs": 32,
    "batch_size": 128,
    "warmup_env_steps": 1024,
}

MINATAR: dict[str, Any] = {
    "critic_hidden_sizes": (128, 128),
    "num_envs": 64,
    "batch_size": 128,
    "n_step": 3,
    "ratio": "8:0",
    "total_env_steps": 500_000,
}

PRESETS: dict[str, dict[str, Any]] = {
    "*": {"ratio": "16:0"},
    **dict.fromkeys(GAMES, MINATAR),
    "gymnax:CartPole-v1": SMALL | {"n_step": 3, "ratio": "8:0", "total_env_steps": 120_000},
}
