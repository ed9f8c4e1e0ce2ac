"""TD3+BC: losses against NumPy, the noise on the target's actions, and which targets move when."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents import td3_bc
from rlx.errors import RlxError
from rlx.networks import Network
from rlx.types import Spec, Transition, as_arrays
from tests import probes

CONTRACT = probes.Contract(hypers={"q_weight": 1000.0})

SPEC = Spec(jax.ShapeDtypeStruct((3,), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32), 100)
CONFIG = td3_bc.Config(actor_hidden_sizes=(16,), critic_hidden_sizes=(16,))
HYPERS = as_arrays(td3_bc.Hypers(gamma=0.9, reward_scale=2.0, tau=0.25))
BATCH = 6
RNG = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


DISCOUNT: Any = np.array([1, 0, 1, 1, 0, 1], np.float32)
BATCHES = Transition(normal(BATCH, 3), np.tanh(normal(BATCH, 2)), normal(BATCH), DISCOUNT, normal(BATCH, 3))


def stub(apply: Any) -> Network:
    return Network(init=lambda key: None, apply=apply)


def three_ways(function: Any, *arguments: Any) -> list[Any]:
    mapped = jax.vmap(function)(*jax.tree.map(lambda x: jnp.stack([x, x]), arguments))
    return [function(*arguments), jax.jit(function)(*arguments), mapped[0], mapped[1]]


def test_critic_loss() -> None:
    """Against stubs that say whatever their parameters are."""
    online, target = normal(2, BATCH), normal(2, BATCH)
    parts = td3_bc.make_parts(CONFIG, SPEC)._replace(critic=stub(lambda said, observation, action: said))
    y = 2 * BATCHES.reward + 0.9 * DISCOUNT * target.min(0)

    def loss(online: jax.Array, target: jax.Array) -> jax.Array:
        return td3_bc.critic_loss(online, parts, target, BATCHES, BATCHES.action, HYPERS)[0]

    for found in three_ways(loss, online, target):
        np.testing.assert_allclose(found, ((online - y) ** 2).mean(-1).sum(), rtol=1e-5)


def test_actor_loss_and_its_lambda() -> None:
    """Q is w . a and the policy p s: lambda is 2.5 / mean|Q|, and no gradient runs through it."""
    p, w = np.float32(0.7), normal(BATCH)
    parts = td3_bc.make_parts(CONFIG, SPEC)._replace(
        actor=stub(lambda p, observation: p * observation[:, :2]),
        first_critic=stub(lambda w, observation, action: (w * action.sum(-1))[None]),
    )
    s = BATCHES.observation[:, :2]
    q = w * (p * s).sum(-1)
    weight = 2.5 / abs(q).mean()

    def loss(p: jax.Array, w: jax.Array) -> jax.Array:
        return td3_bc.actor_loss(p, parts, w, BATCHES, HYPERS)[0]

    for found in three_ways(loss, p, w):
        np.testing.assert_allclose(found, -weight * q.mean() + ((p * s - BATCHES.action) ** 2).mean(), rtol=1e-5)
    slope = -weight * (w * s.sum(-1)).mean() + (2 * (p * s - BATCHES.action) * s).mean()
    np.testing.assert_allclose(jax.grad(loss)(p, w), slope, rtol=1e-4)


def test_noise_on_the_actions_of_the_target() -> None:
    """Of the target actor, with a deviation of 0.2, clipped to +-0.5, the sum to [-1, 1]."""
    seen: list[jax.Array] = []

    def critic(w: jax.Array, observation: jax.Array, action: jax.Array) -> jax.Array:
        seen.append(action)
        return jnp.broadcast_to(w, (2, len(action)))

    parts = td3_bc.make_parts(CONFIG, SPEC)._replace(
        critic=stub(critic), actor=stub(lambda p, observation: jnp.full((len(observation), 2), p))
    )
    w = jnp.zeros(())
    state = td3_bc.CriticState(w, w, td3_bc.adam.init(w), jnp.int32(0), HYPERS)
    many = jax.tree.map(lambda x: np.repeat(x, 5000, axis=0), BATCHES)
    td3_bc.update_critic(parts, state, td3_bc.Policy(jnp.nan, jnp.float32(0.3)), many, jax.random.key(0))
    noise = np.asarray(seen[0]) - 0.3
    assert noise.std() == pytest.approx(0.2, rel=0.03) and noise.mean() == pytest.approx(0, abs=0.005)
    assert noise.min() == pytest.approx(-0.5, abs=1e-6) and noise.max() == pytest.approx(0.5, abs=1e-6)
    td3_bc.update_critic(parts, state, td3_bc.Policy(jnp.nan, jnp.float32(0.9)), many, jax.random.key(0))
    assert seen[2].max() == 1, "clipped to the bounds"


def moved(new: Any, old: Any) -> bool:
    return any((a != b).any() for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True))


def near(tree: Any, expected: Any) -> None:
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), tree, expected)


def test_delayed_targets() -> None:
    """The critics move at every step, their targets at every second, towards the critics of that step."""
    agent = td3_bc.make(CONFIG, SPEC)
    state = agent.init(jax.random.key(0), HYPERS)
    policy, critic = agent.acting_params(state), state.critic
    update = jax.jit(agent.update_critic)
    for step in range(1, 5):
        old = critic
        critic, _ = update(old, policy, BATCHES, jax.random.key(step))
        assert moved(critic.params, old.params)
        tau = 0.25 if step % 2 == 0 else 0.0
        near(
            critic.target_params,
            jax.tree.map(lambda t, p, tau=tau: (1 - tau) * t + tau * p, old.target_params, critic.params),
        )
        assert moved(critic.target_params, old.target_params) == (tau > 0)


def test_target_actor_follows_every_actor_update() -> None:
    agent = td3_bc.make(CONFIG, SPEC)
    state = agent.init(jax.random.key(0), HYPERS)
    actor, _ = agent.update_actor(state.actor, agent.critic_params(state.critic), BATCHES, jax.random.key(1))
    assert moved(actor.params, state.actor.params)
    near(actor.target_params, jax.tree.map(lambda t, p: 0.75 * t + 0.25 * p, state.actor.target_params, actor.params))


def test_the_actor_climbs_the_first_critic() -> None:
    """`value` is the first critic alone: what the second says changes nothing."""
    agent = td3_bc.make(CONFIG, SPEC)
    state = agent.init(jax.random.key(0), HYPERS)
    other = state.critic.replace(params=jax.tree.map(lambda x: x.at[1].add(1.0), state.critic.params))
    near(agent.critic_params(state.critic), agent.critic_params(other))
    parts = td3_bc.make_parts(CONFIG, SPEC)
    q = parts.critic.apply(state.critic.params, BATCHES.observation, BATCHES.action)
    found = parts.first_critic.apply(agent.critic_params(state.critic), BATCHES.observation, BATCHES.action)
    np.testing.assert_allclose(found, q[:1], rtol=1e-5)


def test_mistakes() -> None:
    with pytest.raises(RlxError, match="--policy-delay 0: must be at least 1"):
        td3_bc.Config(policy_delay=0)
