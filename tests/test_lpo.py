"""LPO: its surrogate by hand, in the actor's loss too."""

import jax
import jax.numpy as jnp
import numpy as np

from rlx.agents import lpo
from tests import probes
from tests.loss_tools import near, two_ways
from tests.test_ppo import learned_at_ratio

CONTRACT = probes.Contract(config={"actor_hidden_sizes": (32, 32)}, hypers={"entropy_cost": 0.0}, updates=1000)


def test_the_drift_holds_back_what_improves_the_objective() -> None:
    """Of a good action gone up, or a bad one down; at ratio 1 the slope is the advantage."""
    ratio, advantage = jnp.array([1.5, 0.5, 1.5, 0.5]), jnp.array([2.0, 2.0, -2.0, -2.0])
    log = 2 * np.log(2)
    expected = [3 - (1 - 2 * np.tanh(0.5)), 1.0, -3.0, -1 - (log - 0.6 * np.tanh(log / 0.6))]
    for objective in two_ways(lpo.drift_surrogate, ratio, advantage, lpo.Hypers(drift_alpha=2.0, drift_beta=0.6)):
        near(objective, expected)
    slope = jax.grad(lambda r: lpo.drift_surrogate(r, advantage, lpo.Hypers()).sum())
    near(slope(jnp.ones(4)), advantage)
    assert np.isfinite(slope(jnp.zeros(4))).all()


def test_actor_loss() -> None:
    advantage, *_, metrics = learned_at_ratio(lpo, 1.3, entropy_cost=0.0)
    gain, loss = 0.3 * advantage, np.log(1.3) * advantage
    drift = np.where(advantage >= 0, gain - 2 * np.tanh(gain / 2), loss - 0.6 * np.tanh(loss / 0.6))
    near(metrics["actor_loss"], -(1.3 * advantage - np.maximum(drift, 0)).mean())
