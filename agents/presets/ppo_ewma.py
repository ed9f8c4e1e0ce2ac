"""PPO-EWMA's tuned settings: PPO's."""

from __future__ import annotations

from rlx.agents.presets import ppo

PRESETS = ppo.PRESETS
