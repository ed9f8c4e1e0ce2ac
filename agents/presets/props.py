"""PROPS' tuned settings: PPO's, with its block in four, each of which trains the policy that collects, and passes over
the newest eight, two of PPO's. Of four iterations one trains the policy."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets import ppo


def in_four(preset: dict[str, Any]) -> dict[str, Any]:
    """PPO's preset with a quarter of its block."""
    short = {"rollout_length": preset["rollout_length"] // 4} if "rollout_length" in preset else {}
    return preset | short


PRESETS: dict[str, dict[str, Any]] = {key: in_four(preset) for key, preset in ppo.PRESETS.items()}
PRESETS["*"] |= {"history_blocks": 8, "behaviour_share": 0.25}
for key in ("gymnax:Pendulum-v1", "gymnax:CartPole-v1"):
    PRESETS[key]["epochs"] = 4
