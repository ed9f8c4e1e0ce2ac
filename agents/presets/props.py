"""PROPS' tuned settings: PPO's, with passes over two blocks, of which the policy and the one that collects make half
each: as many updates of the policy as PPO's."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets import ppo

PRESETS: dict[str, dict[str, Any]] = {key: dict(preset) for key, preset in ppo.PRESETS.items()}
PRESETS["*"]["history_blocks"] = 2
