"""f-DVL: a divergence's loss of V, whose numbers are in test_iql.py, Huber's loss of the critics, and IQL's weights."""

import jax
import numpy as np
import pytest

from rlx.agents import dual_rl, iql
from rlx.types import as_arrays
from tests import probes
from tests.loss_tools import BATCHES, SMALL, SPEC

CONTRACT = probes.Contract(hypers={"dual": 0.9, "beta": 10.0})


@pytest.mark.parametrize("name", ["chi_square", "total_variation"])
def test_losses_of_both_networks(name: str) -> None:
    """V's by the lower target critic, with lambda of its own name; the critics' is x^2 / 2 within 20."""
    config = dual_rl.Config(**SMALL, value_loss=name)
    agent, nets = dual_rl.make(config, SPEC), iql.make_critic_networks(config, SPEC)
    hypers = as_arrays(dual_rl.Hypers(dual=0.6, reward_scale=40.0, critic_lr=0.0))
    state = jax.jit(agent.init)(jax.random.key(5), hypers)
    state = state.replace(critic=state.critic.replace(value=jax.tree.map(lambda x: 8 * x, state.critic.value)))
    _, metrics = jax.jit(agent.update_critic)(state.critic, None, BATCHES, jax.random.key(1))
    q = nets.critic.apply(state.critic.learner.params, BATCHES.observation, BATCHES.action)
    v, next_v = (
        nets.value.apply(state.critic.value.params, o) for o in (BATCHES.observation, BATCHES.next_observation)
    )
    u = q.min(0) - v
    above = np.maximum(u, 0)
    conjugate = above + above**2 / 4 if name == "chi_square" else above
    assert (u > 0).any() and (u < 0).any()
    np.testing.assert_allclose(metrics["value_loss"], (0.6 * conjugate - 0.4 * u).mean(), rtol=1e-4)
    error = abs(q - (40 * BATCHES.reward + 0.99 * BATCHES.discount * next_v))
    assert (error > 20).any() and (error < 20).any()
    expected = np.where(error < 20, error**2 / 2, 20 * (error - 10)).mean(-1).sum()
    np.testing.assert_allclose(metrics["critic_loss"], expected, rtol=1e-4)
