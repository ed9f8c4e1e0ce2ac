"""FlashSAC's tuned settings."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets import sac, xqc

SMALL = xqc.SMALL | {"actor_hidden_sizes": (32,), "critic_hidden_sizes": (32,), "ratio": "24:12"}

ROBOT: dict[str, Any] = sac.MEDIUM | {  # for a CPU: SAC's, with blocks of as many parameters as its 128 128
    "actor_hidden_sizes": (48, 48),
    "critic_hidden_sizes": (48, 48),
    "total_env_steps": 160_000,
    "eval_every": 20_000,
}
GPU: dict[str, Any] = {  # the authors', for simulators on a GPU
    "num_envs": 1024,
    "ratio": "2:1",
    "batch_size": 2048,
    "replay_capacity": 10_000_000,
    "warmup_env_steps": 100_000,
    "total_env_steps": 50_000_000,
}

PRESETS: dict[str, dict[str, Any]] = {
    "*": {"normalize_rewards": True, "max_return": 5.0, "normalize_observations": False, "ratio": "16:8"},
    "*@1024": GPU,
    "playground:*@1024": {"gamma": 0.97},
    "brax:*": ROBOT,
    "brax:ant": {"gamma": 0.98},
    "brax:walker2d": {"wrappers": ("action_repeat:4",)},
    "gymnax:Pendulum-v1": SMALL | {"gamma": 0.97},
}
