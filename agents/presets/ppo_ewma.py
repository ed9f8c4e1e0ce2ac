"""PPO-EWMA's tuned settings: PPO's, and for easy tasks an average that reaches half a block's updates back."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets import ppo

SMALL = ("gymnax:Pendulum-v1", "gymnax:CartPole-v1")

PRESETS: dict[str, dict[str, Any]] = ppo.PRESETS | {key: ppo.PRESETS[key] | {"proximal_decay": 0.97} for key in SMALL}
