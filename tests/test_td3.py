"""TD3: losses against NumPy, the noise on the target's actions, and which targets move when."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents import pql, td3
from rlx.halves import HalfState
from rlx.optim import Learner
from rlx.types import as_arrays
from tests.loss_tools import SMALL, SPEC, moved, near, normals, stub, targeted, transitions, two_ways

CONFIG = td3.Config(**SMALL)
HYPERS = as_arrays(td3.Hypers(gamma=0.9, reward_scale=2.0, tau=0.25))
NETS = td3.make_networks(CONFIG, SPEC, policy_delay=2)
BATCH = 6
normal = normals()
BATCHES = transitions(normal, BATCH)


def test_critic_loss() -> None:
    """Against stubs that say whatever their parameters are."""
    online, target = normal(2, BATCH), normal(2, BATCH)
    nets = NETS._replace(critic=stub(lambda said, observation, action: said))
    policy = td3.Policy(None, nets.actor.init(jax.random.key(0)))
    y = 2 * BATCHES.reward + 0.9 * BATCHES.discount * target.min(0)

    def loss(online: jax.Array, target: jax.Array) -> jax.Array:
        _, metrics = td3.update_critic(nets, targeted(HYPERS, online, target), policy, BATCHES, jax.random.key(0))
        return metrics["critic_loss"]

    for result in two_ways(loss, online, target):
        np.testing.assert_allclose(result, ((online - y) ** 2).mean(-1).sum(), rtol=1e-5)


def actor_metrics(nets: td3.Networks, hypers: Any, p: jax.Array, w: jax.Array) -> Any:
    """Of an actor p s under a critic that says w . a."""
    nets = nets._replace(
        actor=stub(lambda p, observation: p * observation[:, :2]),
        published_critic=stub(lambda w, observation, action: (w * action.sum(-1))[None]),
    )
    half = HalfState.create(hypers, Learner.create(p, target=True))
    half, metrics = td3.update_actor(nets, half, w, BATCHES, jax.random.key(0))
    return metrics["actor_loss"], half.learner.params


@pytest.mark.usefixtures("plain_descent")
def test_actor_loss() -> None:
    """-Q_1, and a step down its gradient."""
    p, w, s = np.float32(0.7), normal(BATCH), BATCHES.observation[:, :2]
    hypers = as_arrays(td3.Hypers(actor_lr=0.5))
    for loss, new in two_ways(partial(actor_metrics, NETS, hypers), p, w):
        np.testing.assert_allclose(loss, -(w * (p * s).sum(-1)).mean(), rtol=1e-5)
        np.testing.assert_allclose(new, p + 0.5 * (w * s.sum(-1)).mean(), rtol=1e-4)


@pytest.mark.parametrize(("hypers", "inside", "bound"), [(td3.Hypers(), 0.9876, 0.5), (pql.Hypers(), 0.1974, 0.2)])
def test_noise_on_the_actions_of_the_target(hypers: td3.Hypers, inside: float, bound: float) -> None:
    """Normal with a deviation of 0.2, for PQL 0.8, clipped to the bound; the target actor's action plus it to 1."""
    seen: list[jax.Array] = []

    def critic(w: jax.Array, observation: jax.Array, action: jax.Array) -> jax.Array:
        seen.append(action)
        return jnp.broadcast_to(w, (2, len(action)))

    nets = NETS._replace(critic=stub(critic), actor=stub(lambda p, observation: jnp.full((len(observation), 2), p)))
    half = targeted(hypers, jnp.zeros(()), jnp.zeros(()))
    many = jax.tree.map(lambda x: np.repeat(x, 5000, axis=0), BATCHES)
    for action in (0.3, 0.9):
        td3.update_critic(nets, half, td3.Policy(jnp.nan, jnp.float32(action)), many, jax.random.key(0))
    noise = np.asarray(seen[0]) - 0.3
    assert (abs(noise) < bound - 1e-6).mean() == pytest.approx(inside, abs=0.01) and abs(noise.mean()) < 0.005
    assert noise.min() == pytest.approx(-bound, abs=1e-6) and noise.max() == pytest.approx(bound, abs=1e-6)
    assert seen[2].max() == 1, "clipped to the bounds"


def test_delayed_targets() -> None:
    """The critics move at every step, their targets at every second, towards the critics of that step."""
    agent = td3.make(CONFIG, SPEC)
    state = jax.jit(agent.init)(jax.random.key(0), HYPERS)
    policy, critic = agent.acting_params(state), state.critic
    update = jax.jit(agent.update_critic)
    for step in range(1, 5):
        old = critic
        critic, _ = update(old, policy, BATCHES, jax.random.key(step))
        new, before = critic.learner, old.learner
        assert moved(new.params, before.params)
        tau = 0.25 if step % 2 == 0 else 0.0
        mixed = jax.tree.map(lambda t, p, tau=tau: (1 - tau) * t + tau * p, before.target_params, new.params)
        near(new.target_params, mixed)
        assert moved(new.target_params, before.target_params) == (tau > 0)


def test_the_actor_climbs_the_first_critic_and_its_target_follows() -> None:
    """The critic half publishes the first critic alone: what the second says changes nothing."""
    agent = td3.make(CONFIG, SPEC)
    state = jax.jit(agent.init)(jax.random.key(0), HYPERS)
    learner, published = state.critic.learner, agent.critic_params(state.critic)
    other = learner.replace(params=jax.tree.map(lambda x: x.at[1].add(1.0), learner.params))
    near(published, agent.critic_params(state.critic.replace(learner=other)))
    q = NETS.critic.apply(learner.params, BATCHES.observation, BATCHES.action)
    first = NETS.published_critic.apply(published, BATCHES.observation, BATCHES.action)
    np.testing.assert_allclose(first, q[:1], rtol=1e-5)

    actor, _ = jax.jit(agent.update_actor)(state.actor, published, BATCHES, jax.random.key(1))
    new, old = actor.learner, state.actor.learner
    assert moved(new.params, old.params)
    near(new.target_params, jax.tree.map(lambda t, p: 0.75 * t + 0.25 * p, old.target_params, new.params))
