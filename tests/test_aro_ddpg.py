"""ARO-DDPG: the loss of values and average reward by hand, and the average that it learns."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlx.agents import aro_ddpg, td3
from rlx.halves import HalfState
from rlx.networks import Network
from rlx.optim import Learner
from rlx.types import as_arrays
from tests import probes
from tests.loss_tools import BATCHES, SMALL, SPEC, stub, two_ways

HYPERS = as_arrays(aro_ddpg.Hypers(critic_lr=0.1, tau=0.25, reward_scale=2.0))
W, TARGET, RHO = np.array([0.5, -1.5], np.float32), np.array([1.2, 0.4], np.float32), np.float32(0.3)


def total(observation: Any, action: Any) -> Any:
    return observation.sum(-1) + 2 * action.sum(-1)


def nets() -> td3.Networks:
    """Critic i says w_i times a sum over its inputs; the policy is half of two columns of the observation."""
    plain = Network(lambda key: {"params": jnp.ones(2)}, lambda w, o, a, train: w["params"][:, None] * total(o, a))
    made = aro_ddpg.make_networks(aro_ddpg.Config(**SMALL, policy_delay=1), SPEC)
    actor = stub(lambda params, observation: params * observation[:, :2])
    return made._replace(actor=actor, critic=aro_ddpg.with_average(plain), optimizer=lambda hypers: optax.identity())


@pytest.mark.usefixtures("plain_descent")
def test_one_step_of_values_and_of_the_average_reward() -> None:
    """Down (Q + rho - r - d min Q')^2, summed over the critics; the target has no rho, and terminal rows no Q'."""
    params = {"params": jnp.asarray(W), "average_reward": jnp.asarray(RHO)}
    target = {"params": jnp.asarray(TARGET), "average_reward": jnp.float32(9.0)}
    learner = Learner(params, optax.EmptyState(), target)

    def update(learner: Learner, batch: Any) -> Any:
        half = HalfState.create(HYPERS, learner)
        policy = td3.Policy(jnp.float32(0.1), jnp.float32(0.5))
        state, metrics = aro_ddpg.update_critic(nets(), half, policy, batch, jax.random.key(0))
        return state.learner, metrics

    next_q = (TARGET[:, None] * total(BATCHES.next_observation, 0.5 * BATCHES.next_observation[:, :2])).min(0)
    features, y = total(BATCHES.observation, BATCHES.action), 2 * BATCHES.reward + BATCHES.discount * next_q
    error = W[:, None] * features + RHO - y
    new = W - 0.1 * (2 * error * features).mean(1), RHO - 0.1 * (2 * error).mean(1).sum()
    for actual, metrics in two_ways(update, learner, BATCHES):
        np.testing.assert_allclose(metrics["critic_loss"], (error**2).mean(1).sum(), rtol=1e-4)
        np.testing.assert_allclose(metrics["differential_q_mean"], (W[:, None] * features).mean(), rtol=1e-4)
        np.testing.assert_allclose(metrics["average_reward"], new[1], rtol=1e-4)
        np.testing.assert_allclose(actual.params["params"], new[0], rtol=1e-4)
        np.testing.assert_allclose(actual.target_params["params"], 0.75 * TARGET + 0.25 * new[0], rtol=1e-4)


def test_it_learns_the_average_reward_of_an_endless_task() -> None:
    """Reward 1 at every step, whatever is done, and no discount: values settle where rho is 1."""
    agent = aro_ddpg.make(probes.small(aro_ddpg.Config, width=8, policy_delay=1), probes.SPEC)
    batch = probes.batches(probes.PROBES["time limit"], 1, 32)
    batch = jax.tree.map(lambda x: x[0], batch)
    hypers = aro_ddpg.Hypers(critic_lr=0.02, tau=0.5)
    learn = jax.jit(
        lambda key: jax.lax.scan(
            lambda s, k: agent.update(s, batch, k), agent.init(key, hypers), jax.random.split(key, 2000)
        )
    )
    _, metrics = learn(jax.random.key(0))
    np.testing.assert_allclose(metrics["average_reward"][-1], 1.0, atol=0.05)
    settled = metrics["differential_q_mean"]
    np.testing.assert_allclose(settled[-1], settled[-100], rtol=0.02)
