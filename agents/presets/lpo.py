"""LPO's tuned settings: PPO's, but for the range of its clip."""

from __future__ import annotations

from rlx.agents.presets import ppo

PRESETS = {key: {n: v for n, v in preset.items() if n != "clip_range"} for key, preset in ppo.PRESETS.items()}
