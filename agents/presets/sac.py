"""SAC's tuned settings."""

from __future__ import annotations

from typing import Any

CPU: dict[str, Any] = {  # fast learning on a CPU
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "alpha_lr": 1e-3,
    "alpha_init": 0.1,
    "tau": 0.02,
    "batch_size": 128,
}
SMALL: dict[str, Any] = CPU | {  # small networks, for easy tasks
    "actor_hidden_sizes": (64, 64),
    "critic_hidden_sizes": (64, 64),
    "reward_scale": 0.1,
    "num_envs": 64,
    "ratio": "24:24",
    "warmup_env_steps": 1024,
    "total_env_steps": 20_000,
}
MEDIUM: dict[str, Any] = CPU | {
    "actor_hidden_sizes": (128, 128),
    "critic_hidden_sizes": (128, 128),
    "n_step": 3,
    "num_envs": 128,
    "ratio": "32:16",
}
RECIPE: dict[str, Any] = MEDIUM | {"normalize_rewards": True}  # whatever the scale of rewards
# over steps of 0.008 to 0.02 s states differ too little for the values to tell good actions from bad
LONGER_ACTIONS: dict[str, Any] = {"wrappers": ("action_repeat:4",), "total_env_steps": 240_000, "eval_every": 40_000}
INVERTED: dict[str, Any] = SMALL | {  # on spring it does not learn
    "gamma": 0.98,
    "backend": "generalized",
    "n_step": 1,
    "normalize_rewards": False,
}

SIMBA: dict[str, Any] = {  # arXiv 2410.09754, with Adam in place of AdamW
    "residual": True,
    "actor_hidden_sizes": (128,) * 2,
    "critic_hidden_sizes": (512,) * 3,
    "log_std_map": "tanh",
    "log_std_min": -10.0,
    "temperature_loss": "alpha",
    "target_entropy_per_action": -0.5,
    "alpha_init": 0.01,
    "actor_lr": 1e-4,
    "critic_lr": 1e-4,
    "alpha_lr": 1e-4,
}

PRESETS: dict[str, dict[str, Any]] = {
    "*@simba": SIMBA,
    "gymnax:Pendulum-v1": SMALL | {"gamma": 0.97},
    # noise that is held leaves the valley, which noise drawn anew at every step does not
    "gymnax:MountainCarContinuous-v0": RECIPE
    | {"noise_max": 1.0, "noise_hold": 20, "total_env_steps": 60_000, "eval_every": 10_000},
    "brax:*": RECIPE,
    "brax:halfcheetah": {"total_env_steps": 300_000, "eval_every": 50_000},
    "brax:hopper": LONGER_ACTIONS
    | {"actor_lr": 6e-4, "critic_lr": 6e-4, "tau": 0.01, "n_step": 1, "batch_size": 256, "ratio": "64:32"},
    "brax:inverted_pendulum": INVERTED,
    "brax:walker2d": LONGER_ACTIONS,
    "brax:humanoid": LONGER_ACTIONS | {"wrappers": ("action_repeat:2",)},
    "brax:humanoidstandup": LONGER_ACTIONS | {"wrappers": ("action_repeat:2",)},
    "brax:inverted_double_pendulum": LONGER_ACTIONS | {"gamma": 0.995},
    "brax:ant": {"normalize_rewards": False, "gamma": 0.98, "total_env_steps": 240_000, "eval_every": 40_000},
}
