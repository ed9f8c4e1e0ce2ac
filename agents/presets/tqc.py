"""TQC's tuned settings."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets import sac

FEW: dict[str, Any] = {"num_critics": 3, "num_quantiles": 13, "drop_per_critic": 1}

BRO: dict[str, Any] = {  # arXiv 2405.16158, with Adam in place of AdamW, without resets and optimistic exploration
    "residual": True,
    "residual_block": "bro",
    "kernel_init": "orthogonal",
    "actor_hidden_sizes": (256,) * 2,
    "critic_hidden_sizes": (512,) * 3,
    "num_critics": 2,
    "num_quantiles": 100,
    "drop_per_critic": 0,
    "log_std_map": "tanh",
    "log_std_min": -10.0,
    "temperature_loss": "alpha",
    "target_entropy_per_action": -0.5,
    "batch_size": 128,
    "num_envs": 1,
    "ratio": "10:10",
}

PRESETS: dict[str, dict[str, Any]] = {
    "*@bro": BRO,
    "brax:*": sac.RECIPE,
    "brax:hopper": sac.PRESETS["brax:hopper"] | {"drop_per_critic": 5},
    "brax:halfcheetah": {"drop_per_critic": 0},
    "brax:walker2d": sac.PRESETS["brax:walker2d"] | {"drop_per_critic": 2},
    "brax:inverted_double_pendulum": sac.PRESETS["brax:inverted_double_pendulum"],
    "brax:ant": {"drop_per_critic": 2},
    "brax:humanoid": sac.PRESETS["brax:humanoid"] | {"drop_per_critic": 2},
    "brax:humanoidstandup": sac.PRESETS["brax:humanoidstandup"],
    "gymnax:Pendulum-v1": sac.SMALL | FEW | {"gamma": 0.97},
    "brax:inverted_pendulum": sac.INVERTED | FEW,
}
