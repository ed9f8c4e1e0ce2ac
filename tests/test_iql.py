"""IQL: losses against NumPy, the order of the updates, weights and the schedule."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import losses
from rlx.agents import iql
from rlx.halves import HalfState
from rlx.optim import Learner, make_schedule
from rlx.types import as_arrays
from tests import probes
from tests.loss_tools import SMALL, SPEC, near, normals, stub, transitions, two_ways

CONTRACT = probes.Contract(hypers={"expectile": 0.9, "beta": 10.0}, updates=1000)

HYPERS = as_arrays(iql.Hypers(gamma=0.9, reward_scale=2.0, expectile=0.8, exponential_scale=1.5))
BATCH = 6
normal = normals()
BATCHES = transitions(normal, BATCH)
BATCHES.action[:2] = [[1], [-1]]  # at the bounds


def stubs(**config: Any) -> iql.CriticNetworks:
    nets = iql.make_critic_networks(iql.Config(**SMALL, **config), SPEC)
    said = stub(lambda params, *inputs: params)  # networks say whatever their parameters are
    return nets._replace(critic=said, value=said)


def critic_half(q: Any, target: Any, v: Any, hypers: Any = HYPERS) -> iql.CriticState:
    critic = Learner.create(q, target=True).replace(target_params=target)
    return iql.CriticState.create(hypers, critic, value=Learner.create(v))


@pytest.mark.parametrize("name", losses.VALUE_LOSSES)
def test_value_loss(name: str) -> None:
    """Of the smallest target critic less V."""
    q, v = normal(2, BATCH), normal(BATCH)
    u = q.min(0) - v
    sided = abs(0.8 - (u < 0))
    above = np.maximum(u, 0)
    every = {"expectile": sided * u**2, "quantile": sided * abs(u), "exponential": np.exp(1.5 * u) - 1.5 * u}
    every |= {"chi_square": 0.8 * (above + above**2 / 4) - 0.2 * u, "total_variation": 0.8 * above - 0.2 * u}

    def loss(v: jax.Array, q: jax.Array) -> jax.Array:
        half = critic_half(normal(2, BATCH), q, v, HYPERS.replace(tau=0.0))
        return iql.update_critic(stubs(value_loss=name), half, None, BATCHES, jax.random.key(0))[1]["value_loss"]

    for result in two_ways(loss, v, q):
        np.testing.assert_allclose(result, every[name].mean(), rtol=1e-5)


def test_actor_loss() -> None:
    """Only the mean is squashed, so that actions at exactly +-1 have a finite density with finite gradients."""
    mean, log_std, weights = normal(BATCH, 2), 0.3 * normal(2), abs(normal(BATCH))
    actor = stub(lambda params, o: (params[0], jnp.broadcast_to(params[1], o[:, :2].shape)))
    nets = iql.ActorNetworks(actor, lambda published, batch, hypers: published, make_schedule("constant", -1), ())
    z = (BATCHES.action - np.tanh(mean)) / np.exp(log_std)
    log_prob = (-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(-1)

    def update(mean: jax.Array, log_std: jax.Array, weights: jax.Array) -> tuple[Any, jax.Array]:
        half = HalfState.create(HYPERS, Learner.create((mean, log_std)))
        half, metrics = iql.update_actor(nets, half, weights, BATCHES, jax.random.key(0))
        return half.learner, metrics["actor_loss"]

    for result in two_ways(lambda *inputs: update(*inputs)[1], mean, log_std, weights):
        np.testing.assert_allclose(result, -(weights * log_prob).mean(), rtol=1e-5)
    learner, _ = update(mean, log_std, weights)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(learner))


def test_weights_are_of_target_critics_and_clipped() -> None:
    """min(exp(beta (min Q' - V)), 100), without a gradient."""
    q, v = 3 * normal(2, BATCH), normal(BATCH)
    q[:, 0] = v[0] + [2, 3]
    advantage = q.min(0) - v
    expected = np.minimum(np.exp(3 * advantage), 100)
    assert (expected == 100).any() and (expected < 100).any(), "both sides of the cap must be seen"
    weigh = partial(iql.imitation_weights, stubs())
    for found in two_ways(lambda q, v: weigh(iql.Value(q, v), BATCHES, HYPERS), q, v):
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    gradient = jax.grad(lambda q: weigh(iql.Value(q, v), BATCHES, HYPERS).sum())(q)
    np.testing.assert_array_equal(gradient, 0)


def test_order_of_the_critic_half() -> None:
    """The targets move to the old Q, V learns from the new targets, and Q from the new V."""
    config = iql.Config(**SMALL)
    agent, nets = iql.make(config, SPEC), iql.make_critic_networks(config, SPEC)
    old = jax.jit(agent.init)(jax.random.key(0), HYPERS.replace(tau=0.3, critic_lr=0.01)).critic
    changed = jax.tree.map(lambda x: 1.5 * x + 0.1, old.learner.params)
    old = old.replace(learner=old.learner.replace(target_params=changed))
    new, metrics = jax.jit(agent.update_critic)(old, None, BATCHES, jax.random.key(1))

    def q(params: Any) -> Any:
        return nets.critic.apply(params, BATCHES.observation, BATCHES.action)

    def v(params: Any) -> Any:
        return nets.value.apply(params, BATCHES.observation)

    moved = jax.tree.map(lambda t, p: 0.7 * t + 0.3 * p, old.learner.target_params, old.learner.params)
    near(new.learner.target_params, moved, rtol=1e-4)
    u = q(moved).min(0) - v(old.value.params)
    np.testing.assert_allclose(metrics["value_loss"], (abs(0.8 - (u < 0)) * u**2).mean(), rtol=1e-4)
    following = nets.value.apply(new.value.params, BATCHES.next_observation)
    before = nets.value.apply(old.value.params, BATCHES.next_observation)
    assert abs(following - before).max() > 1e-3, "the two orders must differ"
    target = 2 * BATCHES.reward + 0.9 * BATCHES.discount * following
    expected = ((q(old.learner.params) - target) ** 2).mean(-1).sum()
    np.testing.assert_allclose(metrics["critic_loss"], expected, rtol=1e-4)
    assert int(new.step) == 1


def test_the_actor_alone_is_decayed() -> None:
    """Adam's first steps are of the size of the learning rate: they shrink with the half's own count."""
    agent = iql.make(iql.Config(**SMALL, actor_decay_steps=4), SPEC)
    state, update = jax.jit(agent.init)(jax.random.key(0)), jax.jit(agent.update)
    sizes = []
    for step in range(5):
        old = state
        state, _ = update(old, BATCHES, jax.random.key(step))
        pairs = zip((state.actor, state.critic), (old.actor, old.critic), strict=True)
        moved = [jax.tree.map(lambda a, b: abs(a - b).max(), a.learner.params, b.learner.params) for a, b in pairs]
        sizes.append([max(map(float, jax.tree.leaves(m))) for m in moved])
    actor, critic = np.array(sizes).T
    assert actor[0] == pytest.approx(3e-4, rel=0.01)
    assert actor[2] < 0.8 * actor[0] and actor[4] == 0
    assert (critic > 1e-4).all()


def test_acting() -> None:
    """Greedily the squashed mean; else a draw around it, clipped to the bounds and with no density."""
    agent = iql.make(iql.Config(**SMALL), SPEC)
    policy = agent.acting_params(jax.jit(agent.init)(jax.random.key(0)))
    observation = jnp.broadcast_to(jnp.asarray(normal(3)), (4000, 3))
    action, info = agent.act(policy, observation, jax.random.key(1))
    greedy, _ = agent.act_greedy(policy, observation, jax.random.key(1))
    assert info == {}
    assert (abs(action) == 1).mean() == pytest.approx(0.317, abs=0.03)  # a deviation of 1 around 0, beyond +-1
    np.testing.assert_allclose(np.median(action, axis=0), greedy[0], atol=0.06)
