"""EXPO's settings: half of each minibatch from `--dataset`, from the first update on, as RLPD."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets.redq import PENDULUM

DATA: dict[str, Any] = {"offline_steps": 0, "offline_fraction": 0.5}

PRESETS: dict[str, dict[str, Any]] = {
    "*": {"ratio": "20:1", "num_envs": 1},
    "*@data": DATA,
    "gymnax:Pendulum-v1": PENDULUM | {"flow_hidden_sizes": (64, 64), "flow_steps": 5},
    "gymnax:Pendulum-v1@data": DATA | PENDULUM | {"flow_hidden_sizes": (64, 64), "flow_steps": 5},
}
