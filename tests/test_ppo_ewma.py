"""PPO-EWMA: its objective against NumPy, the average of weights, and the rule for sizes of batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents import ppo_ewma
from tests import probes
from tests.loss_tools import BATCHES, SMALL, SPEC, near, two_ways
from tests.test_ppo import learned_at_ratio

CONTRACT = probes.Contract(hypers={"entropy_cost": 0.0, "proximal_decay": 0.5}, updates=1000)


def test_ratios_are_to_the_average_and_weights_to_the_behaviour() -> None:
    """Before the first update the average is the policy itself, here 1.3 times as likely as the behaviour; after it,
    the policy has left both."""
    advantage, old, new, extras, metrics = learned_at_ratio(ppo_ewma, 1.3, entropy_cost=0.0, actor_lr=0.03)
    near((metrics["actor_loss"], metrics["kl"]), (-1.3 * advantage.mean(), 0.0), atol=1e-5)
    average = jax.tree.map(lambda o, n: 0.889 * o + 0.111 * n, old.actor.learner.params, new.actor.learner.params)
    near(new.actor.learner.target_params, average)

    agent = ppo_ewma.make(ppo_ewma.Config(**SMALL), SPEC)
    policy, batch = agent.acting_params(new), BATCHES._replace(extras=extras)
    assert agent.log_prob is not None
    now = agent.log_prob(policy, BATCHES.observation, jnp.tanh(extras["pre_tanh"]))
    proximal = agent.log_prob(policy._replace(params=average), BATCHES.observation, jnp.tanh(extras["pre_tanh"]))
    ratio, weight = np.exp(now - proximal), np.exp(proximal - extras["log_prob"])
    expected = -(weight * np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)).mean()
    metrics = jax.jit(agent.update)(new, batch, jax.random.key(2))[1]
    near((metrics["actor_loss"], metrics["ratio_deviation"]), (expected, np.abs(ratio - 1).mean()), rtol=1e-3)
    assert metrics["ratio_deviation"] > 0.01


@pytest.mark.parametrize(("decay", "factor", "expected"), [(0.889, 1, 0.889), (0.9, 3, 0.75), (0.5, 0.25, 0.8)])
def test_an_average_reaches_as_many_transitions_back(decay: float, factor: float, expected: float) -> None:
    for adapted in two_ways(ppo_ewma.adapted_decay, decay, factor):
        near(adapted, expected)


def test_steps_grow_with_the_root_of_the_batch() -> None:
    hypers, gradient = ppo_ewma.Hypers(batch_factor=4.0), jnp.array([0.5, -0.1])
    optimizer = ppo_ewma.optimizer(hypers)
    step, state = optimizer.update(gradient, optimizer.init(gradient))
    near(step, [2.0, -2.0], rtol=1e-4)
    step, _ = optimizer.update(-gradient, state)
    b1, b2 = ppo_ewma.adapted_decay(0.9, 4.0), ppo_ewma.adapted_decay(0.999, 4.0)
    near(step[0], 2 * (b1 - 1) / (1 + b1), rtol=1e-4)
    assert b1 == pytest.approx(9 / 13) and b2 == pytest.approx(999 / 1003)
