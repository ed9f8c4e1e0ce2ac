"""TQC's tuned settings."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets import sac

SMALL = sac.SMALL | {"num_critics": 3, "num_quantiles": 13, "drop_per_critic": 1}

PRESETS: dict[str, dict[str, Any]] = {
    "brax:hopper": {"drop_per_critic": 5},
    "brax:halfcheetah": {"drop_per_critic": 0},
    "brax:walker2d": {"drop_per_critic": 2},
    "brax:ant": {"drop_per_critic": 2},
    "brax:humanoid": {"drop_per_critic": 2},
    "gymnax:Pendulum-v1": SMALL | {"gamma": 0.97},
    "brax:inverted_pendulum": SMALL | {"gamma": 0.98, "backend": "generalized"},  # on spring it does not learn
}
