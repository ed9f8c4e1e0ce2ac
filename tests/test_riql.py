"""Robust IQL: the quantile of five critics in both halves, and Huber's loss, against NumPy."""

import jax
import numpy as np
import pytest

from rlx.agents import iql, riql
from rlx.types import as_arrays
from tests import probes
from tests.loss_tools import BATCH, BATCHES, SMALL, SPEC, normals, two_ways

CONTRACT = probes.Contract(hypers={"expectile": 0.9, "beta": 10.0, "critic_quantile": 0.5})
normal = normals()


def test_both_halves_take_the_quantile() -> None:
    """V's loss and the weights of imitation: of five values the second lowest at a quarter, the lowest at 0."""
    agent = riql.make(riql.Config(**SMALL), SPEC)
    nets = iql.make_critic_networks(riql.Config(**SMALL), SPEC)
    state = jax.jit(agent.init)(jax.random.key(0))
    q = np.sort(nets.critic.apply(state.critic.learner.params, BATCHES.observation, BATCHES.action), axis=0)
    v = nets.value.apply(state.critic.value.params, BATCHES.observation)
    for quantile, row in ((0.25, 1), (0.0, 0)):
        half = state.with_hypers(riql.Hypers(critic_quantile=quantile, expectile=0.8, beta=2000.0))
        new, metrics = jax.jit(agent.update)(half, BATCHES, jax.random.key(1))
        u = q[row] - v
        np.testing.assert_allclose(metrics["value_loss"], (abs(0.8 - (u < 0)) * u**2).mean(), rtol=1e-4, atol=1e-10)
        actual = riql.quantile(q, half.critic.hypers)
        np.testing.assert_allclose(actual, q[row], rtol=1e-5)
        assert new.actor.hypers.critic_quantile == quantile


@pytest.mark.parametrize("delta", [0.5, 2.0])
def test_critic_loss(delta: float) -> None:
    """Squares up to delta, lines beyond, with slope 1 from there on whatever delta."""
    q, target, hypers = 2 * normal(5, BATCH), normal(BATCH), as_arrays(riql.Hypers(huber_delta=delta))
    error = abs(q - target)
    assert (error < delta).any() and (error > delta).any()
    expected = np.where(error < delta, error**2 / (2 * delta), error - delta / 2).mean(-1).sum()
    for actual in two_ways(lambda q, target: riql.huber_error(q, target, hypers), q, target):
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
