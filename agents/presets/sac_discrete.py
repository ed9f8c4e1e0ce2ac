"""The tuned settings of SAC for discrete actions."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets import dqn

SMALL: dict[str, Any] = (
    dqn.SMALL
    | {"tau": 0.02}
    | {
        "actor_hidden_sizes": (64, 64),
        "actor_lr": 1e-3,
        "alpha_lr": 1e-3,
        "alpha_init": 0.1,
    }
)

PRESETS: dict[str, dict[str, Any]] = {
    "gymnax:CartPole-v1": SMALL | {"ratio": "8:8", "total_env_steps": 100_000},
}
