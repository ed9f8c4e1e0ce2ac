"""REPPO's tuned settings. The preset `playground` is its authors' for DM control in MuJoCo Playground: blocks and
minibatches have as many transitions."""

from __future__ import annotations

from typing import Any

ALL: dict[str, Any] = {"epochs": 8, "warmup_env_steps": 0, "rollout_length": 32, "batch_size": 1024}

PRESETS: dict[str, dict[str, Any]] = {
    "*": ALL,
    "gymnax:Pendulum-v1": {
        "actor_hidden_sizes": (64, 64),
        "critic_hidden_sizes": (64, 64),
        "actor_lr": 1e-3,
        "critic_lr": 1e-3,
        "dual_lr": 1e-3,
        "gamma": 0.95,
        "reward_scale": 0.1,
        "v_min": -20.0,
        "v_max": 4.0,
        "num_envs": 64,
        "batch_size": 256,
        "total_env_steps": 200_000,
    },
    "*@playground": {
        "actor_hidden_sizes": (512, 512),
        "critic_hidden_sizes": (512, 512),
        "activation": "swish",
        "v_min": 0.0,
        "v_max": 150.0,
        "num_envs": 1024,
        "rollout_length": 128,
        "batch_size": 2048,
        "total_env_steps": 50_000_000,
    },
}
