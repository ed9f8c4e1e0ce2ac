"""ReBRAC's settings."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets.iql import OFFLINE

PRESETS: dict[str, dict[str, Any]] = {
    "*": OFFLINE | {"batch_size": 1024, "ratio": "2:1"},
    "*@small": {
        "actor_hidden_sizes": (64, 64),
        "critic_hidden_sizes": (64, 64),
        "batch_size": 256,
        "offline_steps": 50_000,
    },
}
