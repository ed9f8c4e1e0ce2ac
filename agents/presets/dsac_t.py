"""DSAC-T's tuned settings."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets import sac

PRESETS: dict[str, dict[str, Any]] = {
    "*": {"ratio": "16:8"},  # the policy, its target and the temperature at every second update of the critics
    "gymnax:Pendulum-v1": sac.SMALL | {"gamma": 0.97, "ratio": "24:12"},
}
