"""SPO: its surrogate by hand, in the actor's loss too."""

import jax
import jax.numpy as jnp
import numpy as np

from rlx.agents import spo
from tests import probes
from tests.loss_tools import near, two_ways
from tests.test_ppo import learned_at_ratio

CONTRACT = probes.Contract(config={"actor_hidden_sizes": (32, 32)}, hypers={"entropy_cost": 0.0}, updates=1000)


def test_the_objective_is_best_at_the_end_of_the_range() -> None:
    """At 1 + epsilon for a good action and 1 - epsilon for a bad one; beyond, the slope leads back."""
    ratio, advantage = jnp.array([1.2, 0.8, 1.5]), jnp.array([2.0, -2.0, 2.0])
    for objective in two_ways(spo.penalised_surrogate, ratio, advantage, spo.Hypers(ratio_range=0.2)):
        near(objective, [2.2, -1.8, 1.75])
    slope = jax.grad(lambda r: spo.penalised_surrogate(r, advantage, spo.Hypers(ratio_range=0.2)).sum())
    near(slope(ratio), [0.0, 0.0, -3.0])
    near(slope(jnp.ones(3)), advantage)


def test_actor_loss() -> None:
    advantage, *_, metrics = learned_at_ratio(spo, 1.3, entropy_cost=0.0)
    near(metrics["actor_loss"], -(1.3 * advantage - np.abs(advantage) / 0.4 * 0.09).mean())
