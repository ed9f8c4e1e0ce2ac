"""IDQL's tuned settings."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets.iql import OFFLINE

PRESETS: dict[str, dict[str, Any]] = {
    "*": OFFLINE | {"batch_size": 512},
    "*@locomotion": {"expectile": 0.7, "weight_decay": 1e-4, "scale_rewards": "range", "kernel_init": "xavier"},
    "*@antmaze": {"expectile": 0.9, "weight_decay": 1e-4, "reward_shift": -1.0, "kernel_init": "xavier"},
    "*@small": {
        "critic_hidden_sizes": (64, 64),
        "score_width": 64,
        "time_features": 32,
        "ema": 0.005,
        "batch_size": 256,
        "offline_steps": 50_000,
    },
}
