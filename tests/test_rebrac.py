"""ReBRAC: losses by hand, its limit TD3, whose action is the next one, and the critics that the actor climbs."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlx import optim, replay
from rlx.agents import rebrac, td3
from rlx.halves import HalfState
from rlx.optim import Learner
from rlx.types import State, Transition, as_arrays
from tests import probes
from tests.loss_tools import BATCH, BATCHES, SMALL, SPEC, moved, near, normals, stub, three_ways

# Without LayerNorm: of one number and biases of 0 it leaves the sign, and the probes' inputs are one number or two.
CONTRACT = probes.Contract(config={"layer_norm": False}, hypers={"actor_penalty": 1e-3, "critic_penalty": 0.0})

normal = normals(1)
CONFIG = rebrac.Config(**SMALL)
NETS = rebrac.make_networks(CONFIG, SPEC)
NEXT_ACTION = np.tanh(normal(BATCH, 2))
DATA = BATCHES._replace(extras={"next_action": NEXT_ACTION})


def test_the_target_by_hand() -> None:
    """Values 4 and 6, next actions (0.5, -1) and (0, 0): 1 + 0.5 (4 - 2 * 1.25) = 1.75; where the task ended, 1."""
    one, discount = jnp.ones(2), jnp.array([1.0, 0.0])
    following, extras = jnp.array([[0.5, -1.0]] * 2), {"next_action": jnp.zeros((2, 2))}
    batch = Transition(one[:, None], following, one, discount, one[:, None], extras)
    hypers = as_arrays(rebrac.Hypers(gamma=0.5, critic_penalty=2.0))
    for target in three_ways(rebrac.penalised_target, jnp.array([[4.0, 4], [6, 6]]), following, batch, hypers):
        np.testing.assert_allclose(target, [1.75, 1.0], rtol=1e-6)


def test_critic_loss() -> None:
    """With a target actor that always says 0.3, and no noise: both critics towards one penalised target."""
    online, target = normal(2, BATCH), normal(2, BATCH)
    nets = NETS._replace(critic=stub(lambda said, o, a: said), actor=stub(lambda p, o: jnp.full((len(o), 2), 0.3)))
    hypers = as_arrays(rebrac.Hypers(gamma=0.9, reward_scale=2.0, target_noise=0.0, critic_penalty=0.7))
    penalty = 0.7 * ((0.3 - NEXT_ACTION) ** 2).sum(-1)
    y = 2 * DATA.reward + 0.9 * DATA.discount * (target.min(0) - penalty)

    def loss(online: jax.Array, target: jax.Array) -> jax.Array:
        half = HalfState.create(hypers, Learner.create(online, target=True).replace(target_params=target))
        _, metrics = td3.update_critic(nets, half, td3.Policy(None, None), DATA, jax.random.key(0))
        return metrics["critic_loss"]

    for result in three_ways(loss, online, target):
        np.testing.assert_allclose(result, ((online - y) ** 2).mean(-1).sum(), rtol=1e-5)


def test_actor_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy is p s, the critics say w . a and 2 w . a: the lower counts; no gradient runs through lambda."""
    monkeypatch.setattr(optim, "adam", optax.identity())
    nets = NETS._replace(
        actor=stub(lambda p, observation: p * observation[:, :2]),
        published_critic=stub(lambda w, o, a: jnp.stack([w * a.sum(-1), 2 * w * a.sum(-1)])),
    )
    hypers = as_arrays(rebrac.Hypers(actor_lr=0.5, actor_penalty=3.0))

    def update(p: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        half = HalfState.create(hypers, Learner.create(p, target=True))
        half, metrics = td3.update_actor(nets, half, w, DATA, jax.random.key(0))
        return metrics["actor_loss"], half.learner.params

    p, w, s = np.float32(0.7), normal(BATCH), DATA.observation[:, :2]
    said = w * (p * s).sum(-1)
    factor = np.where(said < 0, 2, 1)  # of the critic that is lower there
    q, error = factor * said, p * s - DATA.action
    weight = 1 / abs(q).mean()
    slope = 3 * (2 * error * s).sum(-1).mean() - weight * (factor * w * s.sum(-1)).mean()
    for loss, new in three_ways(update, p, w):
        np.testing.assert_allclose(loss, 3 * (error**2).sum(-1).mean() - weight * q.mean(), rtol=1e-5)
        np.testing.assert_allclose(new, p - 0.5 * slope, rtol=1e-4)


def test_without_penalties_it_is_td3(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update, plain descent: the critic's is equal, the actor's step is TD3's times lambda, under one critic."""
    monkeypatch.setattr(optim, "adam", optax.identity())
    settings: dict[str, Any] = SMALL | {"num_critics": 1, "layer_norm": True}
    ours, theirs = rebrac.make(rebrac.Config(**settings), SPEC), td3.make(td3.Config(**settings), SPEC)
    rates: dict[str, Any] = {"actor_lr": 1.0, "critic_lr": 0.1}
    hypers = rebrac.Hypers(**rates, actor_penalty=0.0, critic_penalty=0.0)
    first: State = ours.init(jax.random.key(0), hypers)
    mine, _ = ours.update(first, DATA, jax.random.key(1))
    other, _ = theirs.update(theirs.init(jax.random.key(0), td3.Hypers(**rates)), DATA, jax.random.key(1))
    assert moved(mine.critic.learner.params, first.critic.learner.params)
    near(mine.critic.learner, other.critic.learner)

    nets, params = rebrac.make_networks(rebrac.Config(**settings), SPEC), first.actor.learner.params
    action = nets.actor.apply(params, DATA.observation)
    size = abs(nets.critic.apply(mine.critic.learner.params, DATA.observation, action)).mean()
    found = jax.tree.map(lambda new, old: (new - old) * size, mine.actor.learner.params, params)
    expected = jax.tree.map(lambda new, old: new - old, other.actor.learner.params, params)
    assert max(abs(x).max() for x in jax.tree.leaves(expected)) > 1e-3
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6), found, expected)


def test_the_next_action_is_of_the_same_episode() -> None:
    """Six rows whose action is their number; episodes end, truncated and terminated, after rows 2 and 4."""
    number = jnp.arange(6.0)[:, None, None]
    ends = jnp.zeros((6, 1), bool)
    rows = replay.Row(number, number, number[..., 0], ends.at[4].set(True), ends.at[2].set(True), number + 1)
    ring = replay.init(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), rows), 6, 1, 6)
    agent = rebrac.make(CONFIG, SPEC)
    batch = replay.sample(replay.add(ring, rows), jax.random.key(0), (200,), 1, jnp.float32(0.9), agent.reads)
    first, following = batch.action[:, 0].astype(int), batch.extras["next_action"][:, 0]
    assert set(first.tolist()) == {0, 1, 2, 3, 4}, "the newest row has no successor yet"
    np.testing.assert_array_equal(following, np.array([1, 2, 2, 4, 4])[first])


def test_the_actor_climbs_all_critics() -> None:
    """Both critics are published, as the minimum needs both."""
    agent = rebrac.make(CONFIG, SPEC)
    state: State = agent.init(jax.random.key(0))
    assert agent.critic_params(state.critic) is state.critic.learner.params
    actor, _ = agent.update_actor(
        state.actor, agent.critic_params(state.critic), agent.actor_batch(DATA), jax.random.key(0)
    )
    assert actor.step == 1
