"""TD3+BC: the actor's loss against NumPy. The rest is TD3's (tests/test_td3.py)."""

from functools import partial

import numpy as np
import pytest

from rlx.agents import td3_bc
from rlx.types import as_arrays
from tests import probes
from tests.loss_tools import SPEC, normals, two_ways
from tests.test_td3 import BATCH, BATCHES, CONFIG, actor_metrics

CONTRACT = probes.Contract(hypers={"q_weight": 1000.0})


@pytest.mark.usefixtures("plain_descent")
def test_actor_loss_and_its_lambda() -> None:
    """Q is w . a and the policy p s: lambda is 2.5 / mean|Q|, and no gradient runs through it."""
    p, w, s = np.float32(0.7), normals()(BATCH), BATCHES.observation[:, :2]
    q, error = w * (p * s).sum(-1), p * s - BATCHES.action
    weight = 2.5 / abs(q).mean()
    slope = -weight * (w * s.sum(-1)).mean() + (2 * error * s).mean()
    nets, hypers = td3_bc.make_networks(CONFIG, SPEC), as_arrays(td3_bc.Hypers(actor_lr=0.5))
    for loss, new in two_ways(partial(actor_metrics, nets, hypers), p, w):
        np.testing.assert_allclose(loss, -weight * q.mean() + (error**2).mean(), rtol=1e-5)
        np.testing.assert_allclose(new, p - 0.5 * slope, rtol=1e-4)
