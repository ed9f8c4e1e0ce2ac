"""ACE's tuned settings."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets import sac

PRESETS: dict[str, dict[str, Any]] = {
    "brax:*": sac.RECIPE,
    "brax:ant": sac.PRESETS["brax:ant"],
    "gymnax:Pendulum-v1": sac.SMALL | {"gamma": 0.97},
}
