"""Tuned settings, a module for each agent that has some: `PRESETS`, which `rlx.agents.tuned_settings` looks up."""
