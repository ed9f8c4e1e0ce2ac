"""TD3's tuned settings."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets import sac

SMALL = {name: value for name, value in sac.SMALL.items() if not name.startswith("alpha_")}

PRESETS: dict[str, dict[str, Any]] = {
    "*": {"noise_min": 0.1, "noise_max": 0.1, "ratio": "2:1"},
    "gymnax:Pendulum-v1": SMALL | {"gamma": 0.97, "ratio": "24:12"},
}
