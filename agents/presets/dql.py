"""Settings of diffusion Q-learning. None sets `q_weight`, which its authors tune for each task."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets.iql import OFFLINE

PRESETS: dict[str, dict[str, Any]] = {
    "*": OFFLINE | {"offline_steps": 2_000_000},
    "*@small": {
        "critic_hidden_sizes": (64, 64),
        "score_width": 64,
        "score_blocks": 2,
        "num_samples": 10,
        "offline_steps": 50_000,
    },
}
