"""PQL and PQL-D: targets against NumPy, the noise on the target's actions, and AdamW behind the clip."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents import pql, td3
from rlx.halves import HalfState
from rlx.optim import Learner
from rlx.types import Transition, as_arrays
from tests import probes
from tests.loss_tools import SMALL, SPEC, normals, stub, transitions, two_ways

CONTRACT = probes.Contract(hypers={"v_min": -3.0, "v_max": 3.0}, variants=({"distributional": True, "num_atoms": 21},))

ATOMS, BATCH = 11, 6
normal = normals()
HYPERS = as_arrays(pql.Hypers(gamma=0.9, reward_scale=2.0, v_min=-3.0, v_max=7.0))


def nets(distributional: bool = False, **changes: Any) -> td3.Networks:
    """Small networks, or stubs in their place."""
    config = pql.Config(**SMALL, distributional=distributional, num_atoms=ATOMS)
    return pql.make_networks(config, SPEC)._replace(**changes)


BATCHES = transitions(normal, BATCH)


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def half_state(params: Any, hypers: pql.Hypers, target: Any = None) -> HalfState:
    learner = Learner.create(params, pql.optimizer(hypers))
    return HalfState.create(hypers, learner.replace(target_params=params if target is None else target))


def policy_of(stubs: td3.Networks) -> td3.Policy:
    return td3.Policy(stubs.actor.init(jax.random.key(0)), None)


def categorical_target_by_hand(logits: np.ndarray, batch: Transition) -> np.ndarray:
    """One sample and one atom at a time: the critic with the lower mean, moved, clipped, shared between neighbours."""
    support, target = np.linspace(-3, 7, ATOMS), np.zeros(logits.shape[1:])
    probs = softmax(logits.astype(np.float64))
    for b in range(logits.shape[1]):
        lowest = min(range(len(probs)), key=lambda n: (probs[n, b] * support).sum())
        for z, p in zip(support, probs[lowest, b], strict=True):
            moved = np.clip(2 * batch.reward[b] + 0.9 * batch.discount[b] * z, -3, 7)
            position = (moved + 3) / (support[1] - support[0])
            below = min(int(position), ATOMS - 2)
            target[b, below] += p * (below + 1 - position)
            target[b, below + 1] += p * (position - below)
    return target


def test_categorical_target() -> None:
    """Of the two distributions the one of the lower mean, whole, sample by sample."""
    logits = 3 * normal(2, BATCH, ATOMS)
    lower = (softmax(logits) @ np.linspace(-3, 7, ATOMS)).argmin(0)
    assert set(lower) == {0, 1}, "both critics must be the lower one somewhere"
    expected = categorical_target_by_hand(logits, BATCHES)
    for actual in two_ways(nets(True).target, logits, BATCHES.action, BATCHES, HYPERS):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_critic_loss() -> None:
    """Of PQL-D, against stubs that say whatever their parameters are; PQL's is TD3's."""
    online, target = normal(2, BATCH, ATOMS), normal(2, BATCH, ATOMS)
    stubs = nets(True, critic=stub(lambda said, observation, action: said))
    half = half_state(online, HYPERS, target)
    _, metrics = td3.update_critic(stubs, half, policy_of(stubs), BATCHES, jax.random.key(0))
    probs = categorical_target_by_hand(target, BATCHES)
    expected = -(probs * np.log(softmax(online))).sum(-1).mean(-1).sum()
    np.testing.assert_allclose(metrics["critic_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["q_mean"], (softmax(online) @ np.linspace(-3, 7, ATOMS)).mean(), rtol=1e-5)


@pytest.mark.parametrize("distributional", [False, True])
def test_actor_loss(distributional: bool) -> None:
    """The lowest of the critics' values, or of their means, at the actor's own actions."""
    shape = (2, BATCH, ATOMS) if distributional else (2, BATCH)
    said = normal(*shape)
    stubs = nets(
        distributional,
        actor=stub(lambda params, observation: params * observation[:, :2]),
        published_critic=stub(lambda w, o, a: w * a.sum(-1).reshape(BATCH, *[1] * (len(shape) - 2))),
    )
    half = half_state(jnp.float32(0.5), HYPERS)
    _, metrics = td3.update_actor(stubs, half, said, BATCHES, jax.random.key(0))
    factor = 0.5 * BATCHES.observation[:, :2].sum(-1)
    support = np.linspace(-3, 7, ATOMS)
    values = softmax(said * factor[:, None]) @ support if distributional else said * factor
    np.testing.assert_allclose(metrics["actor_loss"], -values.min(0).mean(), rtol=1e-4)


# a critic whose gradient is the observation: the loss is the mean over the batch of the sum of w * observation
LINEAR: dict[str, Any] = {"critic": stub(lambda w, o, a: (w * o).sum(-1)[None]), "regress": lambda q, target: q.mean()}


@pytest.mark.usefixtures("plain_descent")
def test_the_clip_comes_after_the_mean_over_shards() -> None:
    """Four shards whose gradients are 4, 0, 0, 0 and their mean 1: clipping to 2 first would make it 1/2."""
    hypers = as_arrays(pql.Hypers(max_gradient_norm=2.0, weight_decay=0.0, critic_lr=1.0))
    stubs = nets(axes=("shard",), **LINEAR)
    observation = jnp.zeros((4, BATCH, 3)).at[0, :, 0].set(4.0)

    def update(observation: jax.Array) -> jax.Array:
        batch, half = BATCHES._replace(observation=observation), half_state(jnp.zeros(3), hypers)
        return td3.update_critic(stubs, half, policy_of(stubs), batch, jax.random.key(0))[0].learner.params

    mapped = jax.jit(jax.vmap(update, axis_name="shard"))
    for scale, first in ((1, -1), (10, -2)):
        actual = mapped(scale * observation)
        np.testing.assert_allclose(actual, [[first, 0, 0]] * 4, rtol=1e-6)


def test_weight_decay_is_apart_from_adam() -> None:
    """Weights shrink by rate times decay, whatever the gradient, and the decay is in no moment of Adam's."""
    hypers = as_arrays(pql.Hypers(critic_lr=0.1, weight_decay=0.5, tau=0.25))
    w = jnp.array([2.0, -4.0, 8.0])
    batch = BATCHES._replace(observation=jnp.tile(jnp.array([0, 1e-2, 0]), (BATCH, 1)))
    stubs = nets(**LINEAR)
    half, _ = td3.update_critic(stubs, half_state(w, hypers), policy_of(stubs), batch, jax.random.key(0))
    expected = w * (1 - 0.1 * 0.5) - 0.1 * np.array([0, 1, 0])  # Adam's first step is the gradient's sign
    np.testing.assert_allclose(half.learner.params, expected, rtol=1e-4)
    np.testing.assert_allclose(half.learner.target_params, 0.75 * w + 0.25 * expected, rtol=1e-4)  # from the NEW critic
    np.testing.assert_allclose(half.learner.opt_state[1].mu, [0, 1e-3, 0], rtol=1e-4)


def test_acting_is_the_actor_alone() -> None:
    """No target actor, and exploring adds nothing of its own."""
    agent = pql.make(pql.Config(**SMALL), SPEC)
    policy = agent.acting_params(agent.init(jax.random.key(0)))
    assert policy.target_params is None
    explored, greedy = (act(policy, BATCHES.observation, jax.random.key(1))[0] for act in (agent.act, agent.act_greedy))
    np.testing.assert_array_equal(explored, greedy)
