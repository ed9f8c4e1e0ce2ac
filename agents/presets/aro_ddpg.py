"""ARO-DDPG's tuned settings."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets import td3

PRESETS: dict[str, dict[str, Any]] = {
    "*": {"noise_min": 0.1, "noise_max": 0.1, "ratio": "2:1"},
    "gymnax:Pendulum-v1": td3.SMALL | {"ratio": "24:12"},
}
