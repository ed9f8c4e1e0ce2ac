"""MCEP's settings: those of TD3+BC."""

from rlx.agents.presets.td3_bc import PRESETS

__all__ = ["PRESETS"]
