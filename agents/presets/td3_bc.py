"""TD3+BC's settings."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "*": {
        "offline_steps": 1_000_000,
        "total_env_steps": 0,
        "batch_size": 256,
        "ratio": "2:1",
        "normalize_observations": True,
    },
    "*@locomotion": {"kernel_init": "torch"},  # as in the authors' code
    "*@small": {"actor_hidden_sizes": (64, 64), "critic_hidden_sizes": (64, 64), "offline_steps": 50_000},
}
