"""XQC's tuned settings."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {  # small networks and fast learning, for easy tasks on a CPU
    "actor_hidden_sizes": (64, 64),
    "critic_hidden_sizes": (64, 64),
    "num_atoms": 51,
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "alpha_lr": 1e-3,
    "tau": 0.02,
    "num_envs": 64,
    "batch_size": 128,
    "ratio": "24:8",
    "warmup_env_steps": 1024,
    "total_env_steps": 20_000,
}

PRESETS: dict[str, dict[str, Any]] = {
    "*": {"normalize_rewards": True, "ratio": "15:5"},
    "*@paper": {"num_envs": 3, "ratio": "6:2"},  # two critic updates a step, an actor update at every third of them
    "gymnax:Pendulum-v1": SMALL | {"gamma": 0.97},
}
