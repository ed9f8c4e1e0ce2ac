"""SRPO's settings. None sets `q_weight`, which its authors tune for each task (0.01 to 0.5 on D4RL)."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets.iql import OFFLINE

PRESETS: dict[str, dict[str, Any]] = {
    "*": OFFLINE,
    "*@small": {
        "actor_hidden_sizes": (64, 64),
        "critic_hidden_sizes": (64, 64),
        "score_width": 64,
        "time_features": 32,
        "offline_steps": 50_000,
    },
}
