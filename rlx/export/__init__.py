"""Exported policies: write one from a run (`save`), read it back (`load`), and play it in Gymnasium (`play`)."""

from rlx.export.policy import Policy, load, play, save

__all__ = ["Policy", "load", "play", "save"]
