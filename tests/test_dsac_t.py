"""DSAC-T's contract; its losses are tested with DSAC's in tests/test_dsac.py."""

from tests import probes

CONTRACT = probes.Contract(hypers={"alpha_init": 1e-3, "alpha_lr": 0.0})
