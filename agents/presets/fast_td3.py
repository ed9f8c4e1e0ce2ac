"""FastTD3's tuned settings."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {  # small networks, for a CPU
    "actor_hidden_sizes": (64, 64),
    "critic_hidden_sizes": (64, 64),
    "num_atoms": 51,
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "tau": 0.02,
    "weight_decay": 1e-3,
    "num_envs": 64,
    "batch_size": 128,
    "ratio": "24:12",
    "warmup_env_steps": 1024,
    "total_env_steps": 20_000,
}

PRESETS: dict[str, dict[str, Any]] = {
    "*": {"ratio": "16:8"},
    "playground:*@1024": {  # the authors', for MuJoCo Playground on one GPU
        "num_envs": 1024,
        "ratio": "2:1",
        "batch_size": 32_768,
        "replay_capacity": 1024 * 10_240,
        "gamma": 0.97,
        "warmup_env_steps": 10 * 1024,
        "total_env_steps": 100_000 * 1024,
        "critic_observation": ("state", "privileged_state"),
    },
    "*@128": {  # the authors', for HumanoidBench
        "num_envs": 128,
        "ratio": "2:1",
        "batch_size": 32_768,
        "replay_capacity": 128 * 51_200,
        "v_min": -250.0,
        "v_max": 250.0,
    },
    "gymnax:Pendulum-v1": SMALL | {"gamma": 0.97, "reward_scale": 0.05, "v_min": -15.0, "v_max": 5.0},
}
