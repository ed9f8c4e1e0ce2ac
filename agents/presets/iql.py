"""IQL's tuned settings, and those that offline agents share."""

from __future__ import annotations

from typing import Any

# Initial kernels here and in the other offline agents' presets of papers are those of the authors' code.
LOCOMOTION: dict[str, Any] = {"expectile": 0.7, "beta": 3.0, "scale_rewards": "range", "kernel_init": "orthogonal"}
ANTMAZE: dict[str, Any] = {"expectile": 0.9, "beta": 10.0, "reward_shift": -1.0, "kernel_init": "orthogonal"}
OFFLINE: dict[str, Any] = {
    "offline_steps": 1_000_000,
    "total_env_steps": 0,
    "batch_size": 256,
    "ratio": "1:1",
    "normalize_observations": False,
}

PRESETS: dict[str, dict[str, Any]] = {
    "*": OFFLINE,
    "*@locomotion": LOCOMOTION,
    "*@antmaze": ANTMAZE,
    "*@small": {"actor_hidden_sizes": (64, 64), "critic_hidden_sizes": (64, 64), "offline_steps": 50_000},
}
