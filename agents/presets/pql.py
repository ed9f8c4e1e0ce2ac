"""PQL's tuned settings."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {  # small networks, for a CPU
    "actor_hidden_sizes": (64, 64),
    "critic_hidden_sizes": (64, 64),
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "tau": 0.02,
}

PRESETS: dict[str, dict[str, Any]] = {
    "*": {"n_step": 3, "noise_min": 0.05, "noise_max": 0.8, "observation_clip": 5.0},
    "*@4096": {
        "num_envs": 4096,
        "ratio": "8:4",
        "batch_size": 8192,
        "replay_capacity": 5_000_000,
        "warmup_env_steps": 32 * 4096,
        "total_env_steps": 20_000_000,
    },
    "brax:ant@4096": {"reward_scale": 0.01},
    "brax:humanoid@4096": {"reward_scale": 0.01},
    "gymnax:Pendulum-v1": SMALL
    | {
        "gamma": 0.97,
        "reward_scale": 0.05,
        "num_envs": 64,
        "batch_size": 128,
        "ratio": "24:12",
        "warmup_env_steps": 1024,
        "total_env_steps": 20_000,
    },
    "brax:inverted_pendulum": SMALL
    | {
        "backend": "generalized",  # where it was tuned
        "gamma": 0.98,
        "reward_scale": 0.1,
        "num_envs": 256,
        "ratio": "32:16",
        "warmup_env_steps": 2048,
        "total_env_steps": 50_000,
    },
    "brax:ant": {
        "actor_hidden_sizes": (128, 128),
        "critic_hidden_sizes": (128, 128),
        "actor_lr": 6e-4,
        "critic_lr": 6e-4,
        "tau": 0.02,
        "gamma": 0.97,
        "reward_scale": 0.04,
        "num_envs": 128,
        "ratio": "32:16",
        "total_env_steps": 200_000,
        "eval_every": 50_000,
    },
}
