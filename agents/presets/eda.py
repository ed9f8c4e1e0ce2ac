"""EDA's settings. None sets `beta`, which its authors tune for each task."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets.iql import OFFLINE

PRESETS: dict[str, dict[str, Any]] = {
    "*": OFFLINE,
    "*@small": {
        "critic_hidden_sizes": (64, 64),
        "score_width": 64,
        "score_blocks": 2,
        "time_features": 32,
        "diffusion_steps": 20,
        "solver_steps": 5,
        "alignment_rows": 16,
        "alignment_actions": 8,
        "offline_steps": 50_000,
    },
}
