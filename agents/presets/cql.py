"""CQL's settings, and Cal-QL's: of CORL's locomotion, and of Cal-QL's authors."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets.iql import OFFLINE

PRESETS: dict[str, dict[str, Any]] = {
    "*": OFFLINE,
    "*@locomotion": {
        "actor_hidden_sizes": (256, 256, 256),
        "critic_hidden_sizes": (256, 256, 256),
        "actor_lr": 3e-5,
        "penalty_weight": 10.0,
        "backup_actions": 1,
        "normalize_observations": True,
        "scale_rewards": "range",
        "kernel_init": "orthogonal",
    },
    "*@antmaze": {
        "critic_hidden_sizes": (256, 256, 256, 256),
        "calibrated": True,
        "lagrange": True,
        "gap_target": 0.8,
        "reward_scale": 10.0,
        "reward_shift": -0.5,
        "kernel_init": "orthogonal",
    },
    "*@small": {"actor_hidden_sizes": (64, 64), "critic_hidden_sizes": (64, 64), "offline_steps": 50_000},
}
