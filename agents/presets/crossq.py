"""CrossQ's tuned settings."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets import sac

SMALL = {name: value for name, value in sac.SMALL.items() if name != "tau"}

PRESETS: dict[str, dict[str, Any]] = {
    "*": {"ratio": "15:5"},
    "*@paper": {"num_envs": 3, "ratio": "3:1"},  # one critic update a step, an actor update at every third
    "gymnax:Pendulum-v1": SMALL | {"gamma": 0.97, "batch_norm": "batch", "ratio": "24:8"},
}
