"""Q-chunking's settings. None sets `chunk_size`, which is 5 in its authors' runs."""

from __future__ import annotations

from typing import Any

from rlx.agents.presets.iql import OFFLINE

PRESETS: dict[str, dict[str, Any]] = {
    "*": OFFLINE,
    "*@small": {"actor_hidden_sizes": (64, 64), "critic_hidden_sizes": (64, 64), "offline_steps": 50_000},
}
