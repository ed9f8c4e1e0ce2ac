"""ReBRAC: losses by hand, its limit TD3, whose action is the next one, and the critics that the actor climbs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents import rebrac, td3
from rlx.halves import HalfState
from rlx.optim import Learner
from rlx.types import Read, State, as_arrays
from tests import probes
from tests.loss_tools import SMALL, SPEC, moved, near, normals, stub, targeted, two_ways
from tests.test_td3 import BATCH, BATCHES

# Without LayerNorm: of one number and biases of 0 it leaves the sign, and the probes' inputs are one number or two.
CONTRACT = probes.Contract(config={"layer_norm": False}, hypers={"actor_penalty": 1e-3, "critic_penalty": 0.0})

CONFIG = rebrac.Config(**SMALL)
NETS = rebrac.make_networks(CONFIG, SPEC)
normal = normals()
NEXT_ACTION = np.tanh(normal(BATCH, 2))
DATA = BATCHES._replace(extras={"next_action": NEXT_ACTION})


def test_critic_loss() -> None:
    """With a target actor that always says 0.3, and no noise: both critics towards one penalised target."""
    online, target = normal(2, BATCH), normal(2, BATCH)
    nets = NETS._replace(critic=stub(lambda said, o, a: said), actor=stub(lambda p, o: jnp.full((len(o), 2), 0.3)))
    hypers = as_arrays(rebrac.Hypers(gamma=0.9, reward_scale=2.0, target_noise=0.0, critic_penalty=0.7))
    penalty = 0.7 * ((0.3 - NEXT_ACTION) ** 2).sum(-1)
    y = 2 * DATA.reward + 0.9 * DATA.discount * (target.min(0) - penalty)

    def loss(online: jax.Array, target: jax.Array) -> jax.Array:
        half = targeted(hypers, online, target)
        _, metrics = td3.update_critic(nets, half, td3.Policy(None, None), DATA, jax.random.key(0))
        return metrics["critic_loss"]

    for result in two_ways(loss, online, target):
        np.testing.assert_allclose(result, ((online - y) ** 2).mean(-1).sum(), rtol=1e-5)


@pytest.mark.usefixtures("plain_descent")
def test_actor_loss() -> None:
    """The policy is p s, the critics say w . a and 2 w . a: the lower counts; no gradient runs through lambda."""
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
    for loss, new in two_ways(update, p, w):
        np.testing.assert_allclose(loss, 3 * (error**2).sum(-1).mean() - weight * q.mean(), rtol=1e-5)
        np.testing.assert_allclose(new, p - 0.5 * slope, rtol=1e-4)


@pytest.mark.usefixtures("plain_descent")
def test_without_penalties_it_is_td3() -> None:
    """An update, plain descent: the critic's is equal, the actor's step is TD3's times lambda, under one critic."""
    settings: dict[str, Any] = SMALL | {"num_critics": 1, "layer_norm": True}
    ours, theirs = rebrac.make(rebrac.Config(**settings), SPEC), td3.make(td3.Config(**settings), SPEC)
    rates: dict[str, Any] = {"actor_lr": 1.0, "critic_lr": 0.1}
    hypers = rebrac.Hypers(**rates, actor_penalty=0.0, critic_penalty=0.0)
    first: State = jax.jit(ours.init)(jax.random.key(0), hypers)
    same = first.with_hypers(td3.Hypers(**rates))
    mine, other = (jax.jit(a.update)(s, DATA, jax.random.key(1))[0] for a, s in ((ours, first), (theirs, same)))
    assert moved(mine.critic.learner.params, first.critic.learner.params)
    assert ours.critic_params(first.critic) is first.critic.learner.params  # the minimum needs both
    assert ours.reads == {"next_action": Read("action", "next")}
    near(mine.critic.learner, other.critic.learner)

    nets, params = rebrac.make_networks(rebrac.Config(**settings), SPEC), first.actor.learner.params
    action = nets.actor.apply(params, DATA.observation)
    size = abs(nets.critic.apply(mine.critic.learner.params, DATA.observation, action)).mean()
    result = jax.tree.map(lambda new, old: (new - old) * size, mine.actor.learner.params, params)
    expected = jax.tree.map(lambda new, old: new - old, other.actor.learner.params, params)
    assert max(abs(x).max() for x in jax.tree.leaves(expected)) > 1e-3
    near(result, expected, rtol=1e-3)
