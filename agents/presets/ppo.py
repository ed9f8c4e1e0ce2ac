"""PPO's tuned settings. Those called `brax` are of Brax's notebook on training, `playground` of MuJoCo Playground's
locomotion tasks, in rlx's terms: a minibatch of B unrolls of L steps is B L transitions, and a block is all minibatches
of an epoch."""

from __future__ import annotations

from typing import Any

ALL: dict[str, Any] = {"epochs": 4, "warmup_env_steps": 0, "rollout_length": 16, "batch_size": 512}

SMALL: dict[str, Any] = {  # for easy tasks on a CPU
    "actor_hidden_sizes": (64, 64),
    "critic_hidden_sizes": (64, 64),
    "activation": "tanh",
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "num_envs": 64,
    "rollout_length": 32,
    "batch_size": 256,
    "epochs": 8,
}

MINATAR: dict[str, Any] = {
    "actor_hidden_sizes": (128, 128),
    "critic_hidden_sizes": (128, 128),
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "entropy_cost": 1e-2,  # with less, the policy is deterministic before it has learned to play
    "rollout_length": 32,
    "total_env_steps": 1_500_000,
}
GAMES = tuple(f"gymnax:{name}-MinAtar" for name in ("Asterix", "Breakout", "Freeway", "SpaceInvaders"))

ROBOT: dict[str, Any] = {  # of few environments, for a CPU
    "actor_hidden_sizes": (64, 64),
    "critic_hidden_sizes": (128, 128),
    "activation": "swish",
    "kernel_init": "lecun",
    "actor_lr": 6e-4,
    "critic_lr": 6e-4,
    "max_gradient_norm": 1e9,  # no limit, as in Brax
    "clip_range": 0.3,
    "gamma": 0.97,
    "num_envs": 256,
    "rollout_length": 32,
    "batch_size": 1024,
}

BRAX: dict[str, Any] = {  # Brax's networks, and what its tasks have in common
    "actor_hidden_sizes": (32,) * 4,
    "critic_hidden_sizes": (256,) * 5,
    "activation": "swish",
    "kernel_init": "lecun",
    "clip_range": 0.3,
    "max_gradient_norm": 1e9,  # its notebook has no limit
    "num_envs": 2048,
    "gamma": 0.97,
    "entropy_cost": 1e-2,
}
PENDULA = BRAX | {"rollout_length": 80, "batch_size": 5120, "reward_scale": 10.0}
BRAX_8 = BRAX | {"epochs": 8, "entropy_cost": 1e-3, "total_env_steps": 50_000_000}

PRESETS: dict[str, dict[str, Any]] = {
    "*": ALL,
    "gymnax:Pendulum-v1": SMALL | {"gamma": 0.95, "reward_scale": 0.1, "total_env_steps": 200_000},
    "gymnax:CartPole-v1": SMALL
    | {"gamma": 0.98, "reward_scale": 0.1, "entropy_cost": 1e-2, "total_env_steps": 300_000},
    **dict.fromkeys(GAMES, MINATAR),
    "brax:ant": ROBOT | {"entropy_cost": 2e-2, "total_env_steps": 1_500_000},
    "brax:halfcheetah": ROBOT | {"entropy_cost": 5e-3, "epochs": 8, "reward_scale": 0.3, "total_env_steps": 600_000},
    "brax:inverted_pendulum@brax": PENDULA | {"total_env_steps": 2_000_000},
    "brax:inverted_double_pendulum@brax": PENDULA | {"total_env_steps": 20_000_000},
    "brax:ant@brax": BRAX
    | {
        "num_envs": 4096,
        "rollout_length": 80,
        "batch_size": 10240,
        "reward_scale": 10.0,
        "total_env_steps": 50_000_000,
    },
    "brax:humanoid@brax": BRAX_8 | {"rollout_length": 160, "batch_size": 10240, "reward_scale": 0.1},
    "brax:halfcheetah@brax": BRAX_8 | {"rollout_length": 160, "batch_size": 10240, "gamma": 0.95},
    "brax:reacher@brax": BRAX_8
    | {
        "rollout_length": 200,
        "batch_size": 12800,
        "gamma": 0.95,
        "reward_scale": 5.0,
        "wrappers": ("action_repeat:4",),
    },
    "brax:humanoidstandup@brax": BRAX_8
    | {
        "rollout_length": 240,
        "batch_size": 15360,
        "reward_scale": 0.1,
        "entropy_cost": 1e-2,
        "actor_lr": 6e-4,
        "critic_lr": 6e-4,
        "total_env_steps": 100_000_000,
    },
    "brax:pusher@brax": BRAX_8
    | {"rollout_length": 120, "batch_size": 15360, "gamma": 0.95, "reward_scale": 5.0, "entropy_cost": 1e-2},
    "*@playground": BRAX
    | {
        "actor_hidden_sizes": (128,) * 4,
        "max_gradient_norm": 1.0,
        "num_envs": 8192,
        "rollout_length": 20,
        "batch_size": 5120,
        "total_env_steps": 100_000_000,
    },
}
