"""CDSA's settings, and small ones."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets.iql import OFFLINE

PRESETS: dict[str, dict[str, Any]] = {
    "*": OFFLINE | {"normalize_observations": True},  # the noise is of one size in all numbers
    "*@small": {
        "score_width": 64,
        "score_blocks": 1,
        "time_features": 32,
        "diffusion_steps": 20,
        "offline_steps": 50_000,
    },
}
