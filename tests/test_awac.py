"""AWAC: losses against NumPy, the weights and their cap, and its limit, behaviour cloning."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents import awac
from rlx.halves import HalfState
from rlx.optim import Learner
from rlx.types import State, as_arrays
from tests import probes
from tests.loss_tools import BATCH, BATCHES, SMALL, SPEC, stub, tanh_log_prob, targeted, two_ways

CONTRACT = probes.Contract(hypers={"beta": 20.0}, updates=1000)


# A Gaussian of mean m s and deviation e^-30, which the distribution clips to e^-20: samples are tanh(m s).
SURE = stub(lambda m, observation: (m * observation[:, :2], jnp.full((len(observation), 2), -30.0)))


def test_critic_loss() -> None:
    """A critic of v times the sum of the action, twice the second; the policy's next action is tanh(0.5 s')."""
    nets = awac.Networks(SURE, stub(lambda v, o, a: jnp.stack([v * a.sum(-1), 2 * v * a.sum(-1)])), ())
    hypers = as_arrays(awac.Hypers(gamma=0.9, reward_scale=2.0))
    said = 1.5 * np.tanh(0.5 * BATCHES.next_observation[:, :2]).sum(-1)
    y = 2 * BATCHES.reward + 0.9 * BATCHES.discount * np.minimum(said, 2 * said)
    q = 0.5 * BATCHES.action.sum(-1) * np.array([[1], [2]])

    def metrics(online: jax.Array, target: jax.Array, m: jax.Array) -> Any:
        return awac.update_critic(nets, targeted(hypers, online, target), m, BATCHES, jax.random.key(0))[1]

    for actual in two_ways(metrics, np.float32(0.5), np.float32(1.5), np.float32(0.5)):
        np.testing.assert_allclose(actual["critic_loss"], ((q - y) ** 2).mean(-1).sum(), rtol=1e-5)
        np.testing.assert_allclose(actual["q_mean"], q.mean(), rtol=1e-5)


def actor_update(nets: awac.Networks, hypers: Any, params: Any, critic_params: Any) -> Any:
    half = HalfState.create(hypers, Learner.create(params))
    half, metrics = awac.update_actor(nets, half, critic_params, BATCHES, jax.random.key(0))
    return metrics, half.learner.params


@pytest.mark.parametrize("beta", [0.5, 2.0, 1000.0])
def test_actor_loss(beta: float) -> None:
    """The data's actions are worth w, the policy's own 0: weights min(e^(beta w), 100), which the last beta meets."""
    w = np.linspace(-1, 2, BATCH, dtype=np.float32)
    mean, log_std = np.float32(0.3), np.float32(-0.4)
    actor = stub(lambda p, o: (p[0] * o[:, :2], jnp.broadcast_to(p[1], (len(o), 2))))
    critic = stub(lambda w, o, a: jnp.where((a == BATCHES.action).all(-1), w, 0.0) + jnp.array([[0.0], [1.0]]))
    nets, hypers = awac.Networks(actor, critic, ()), as_arrays(awac.Hypers(beta=beta))
    exponent = beta * w.astype(np.float64)
    weights = np.exp(np.minimum(exponent, np.log(100)))
    assert (exponent > np.log(100)).any() == (beta == 1000)
    expected = -(weights * tanh_log_prob(mean * BATCHES.observation[:, :2], log_std, BATCHES.action)).mean()
    for metrics, _ in two_ways(lambda p, w: actor_update(nets, hypers, p, w), (mean, log_std), w):
        np.testing.assert_allclose(metrics["actor_loss"], expected, rtol=1e-4)
        np.testing.assert_allclose(metrics["weight_mean"], weights.mean(), rtol=1e-4)


@pytest.mark.usefixtures("plain_descent")
def test_a_constant_advantage_is_behaviour_cloning() -> None:
    """Under critics that know no actions, whatever they say and whatever beta, a step up the mean log-density alone."""
    actor = stub(lambda p, o: (p * o[:, :2], jnp.zeros((len(o), 2))))
    nets = awac.Networks(actor, stub(lambda w, o, a: jnp.stack([w * o.sum(-1), o[:, 0]])), axes=())
    p, s, u = np.float32(0.3), BATCHES.observation[:, :2], np.arctanh(BATCHES.action)
    loss = -tanh_log_prob(p * s, 0.0, BATCHES.action).mean()
    slope = ((u - p * s) * s).sum(-1).mean()  # of the mean log-density, by p
    for beta in (0.0, 1.0, 50.0):
        hypers = as_arrays(awac.Hypers(beta=beta, actor_lr=0.5))
        for metrics, new in two_ways(lambda p, w, hypers=hypers: actor_update(nets, hypers, p, w), p, np.float32(3)):
            np.testing.assert_allclose(metrics["actor_loss"], loss, rtol=1e-5)
            np.testing.assert_allclose(new, p + 0.5 * slope, rtol=1e-4)


def test_one_deviation_for_all_observations() -> None:
    """The density has no finite value at +-1; the loss and its step are those of the last number before it."""
    agent = awac.make(awac.Config(**SMALL), SPEC)
    state: State = agent.init(jax.random.key(0))
    policy = agent.acting_params(state)
    assert policy["params"]["log_std"].shape == (2,)
    actions, info = agent.act(policy, BATCHES.observation, jax.random.key(0))
    greedy, _ = agent.act_greedy(policy, BATCHES.observation, jax.random.key(0))
    mean = np.arctanh(np.asarray(greedy, np.float64))
    np.testing.assert_allclose(info["log_prob"], tanh_log_prob(mean, 0.0, np.asarray(actions)), rtol=1e-3)
    batch = BATCHES._replace(action=np.sign(BATCHES.action))
    after = jax.jit(agent.update)(state, batch, jax.random.key(0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
