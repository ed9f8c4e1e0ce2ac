"""REDQ's tuned settings, and those of its relatives RLPD, DroQ and WSRL."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets import sac

PENDULUM: dict[str, Any] = sac.SMALL | {"gamma": 0.97, "num_critics": 5, "ratio": "48:12"}
PAPER: dict[str, Any] = {"num_envs": 1, "ratio": "20:1"}  # twenty updates of the critics a step, one of the actor
DROQ: dict[str, Any] = {"num_critics": 2, "layer_norm": True, "critic_dropout": 0.01}
RLPD: dict[str, Any] = {  # with --dataset
    "layer_norm": True,
    "offline_steps": 0,
    "offline_fraction": 0.5,
    "target_entropy_per_action": -0.5,
    "temperature_loss": "alpha",
    "kernel_init": "xavier",
}
WSRL: dict[str, Any] = {  # from a run of CQL
    "layer_norm": True,
    "normalize_observations": False,  # as in offline runs
    "warmup_actions": "policy",
    "backup_entropy": False,  # as in the offline targets, or values fall when learning goes on
    "num_envs": 1,
    "ratio": "4:1",
}

PRESETS: dict[str, dict[str, Any]] = {
    "*": {"ratio": "40:8"},
    "*@paper": PAPER,
    "*@droq": PAPER | DROQ,
    "*@rlpd": PAPER | RLPD,
    "*@wsrl": {"actor_lr": 1e-4, "alpha_lr": 1e-4} | WSRL,
    "gymnax:Pendulum-v1": PENDULUM,
    "gymnax:Pendulum-v1@droq": PENDULUM | DROQ,
    "gymnax:Pendulum-v1@rlpd": PENDULUM | RLPD,
    "gymnax:Pendulum-v1@wsrl": PENDULUM | WSRL,
}
