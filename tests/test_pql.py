"""PQL and PQL-D: targets against NumPy, the noise on the target's actions, and AdamW behind the clip."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlx import optim
from rlx.agents import pql, td3
from rlx.halves import HalfState
from rlx.optim import Learner
from rlx.types import State, Transition, as_arrays
from tests import probes
from tests.loss_tools import BATCH, SMALL, SPEC, normals, stub, three_ways, transitions

CONTRACT = probes.Contract(variants=({"distributional": True, "num_atoms": 41},))

ATOMS = 11
HYPERS = as_arrays(pql.Hypers(gamma=0.9, reward_scale=2.0, v_min=-3.0, v_max=7.0))
normal = normals()


def nets(distributional: bool = False, **changes: Any) -> td3.Networks:
    """Small networks, or stubs in their place."""
    config = pql.Config(**SMALL, distributional=distributional, num_atoms=ATOMS)
    return pql.make_networks(config, SPEC)._replace(**changes)


BATCHES = transitions(normal, discount=(1, 0, 0.81, 1, 0.81, 0))


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def half_state(params: Any, hypers: pql.Hypers, target: Any = None) -> HalfState:
    learner = Learner.create(params, pql.optimizer(hypers))
    return HalfState.create(hypers, learner.replace(target_params=params if target is None else target))


def policy_of(stubs: td3.Networks) -> td3.Policy:
    return td3.Policy(stubs.actor.init(jax.random.key(0)), None)


# Targets


def test_scalar_target() -> None:
    next_q = normal(2, BATCH)
    expected = 2 * BATCHES.reward + 0.9 * BATCHES.discount * next_q.min(0)
    for found in three_ways(nets().target, next_q, BATCHES.action, BATCHES, HYPERS):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


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
    for found in three_ways(nets(True).target, logits, BATCHES.action, BATCHES, HYPERS):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reward", [0.0, 1.0, -1.3, 100.0, -100.0])
@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_the_target_is_always_a_distribution(reward: float, discount: float) -> None:
    """Rewards beyond the support included: then everything is on its last atom."""
    batch = BATCHES._replace(reward=np.full(BATCH, reward, np.float32), discount=np.full(BATCH, discount, np.float32))
    logits = 10 * normal(2, BATCH, ATOMS)
    found = nets(True).target(logits, batch.action, batch, HYPERS)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    assert (found >= 0).all()
    if abs(reward) == 100:
        np.testing.assert_allclose(found[:, -1 if reward > 0 else 0], 1, rtol=1e-5)


# Losses


@pytest.mark.parametrize("distributional", [False, True])
def test_critic_loss(distributional: bool) -> None:
    """Against stubs that say whatever their parameters are."""
    shape = (2, BATCH, ATOMS) if distributional else (2, BATCH)
    online, target = normal(*shape), normal(*shape)
    stubs = nets(distributional, critic=stub(lambda said, observation, action: said))
    half = half_state(online, HYPERS, target)
    _, metrics = td3.update_critic(stubs, half, policy_of(stubs), BATCHES, jax.random.key(0))
    if distributional:
        probs = categorical_target_by_hand(target, BATCHES)
        expected = -(probs * np.log(softmax(online))).sum(-1).mean(-1).sum()
        mean = (softmax(online) @ np.linspace(-3, 7, ATOMS)).mean()
    else:
        y = 2 * BATCHES.reward + 0.9 * BATCHES.discount * target.min(0)
        expected, mean = ((online - y) ** 2).mean(-1).sum(), online.mean()
    np.testing.assert_allclose(metrics["critic_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["q_mean"], mean, rtol=1e-5)


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


def test_noise_on_the_actions_of_the_target() -> None:
    """Drawn with a deviation of 0.8, clipped to +-0.2, the sum to [-1, 1]: as seen by a critic that records actions."""
    seen: list[jax.Array] = []

    def critic(w: jax.Array, observation: jax.Array, action: jax.Array) -> jax.Array:
        seen.append(action)
        return w[:, None] * action.sum(-1)

    action = np.array([0.0, 0.95], np.float32)
    stubs = nets(actor=stub(lambda params, o: jnp.broadcast_to(action, (*o.shape[:-1], 2))), critic=stub(critic))
    td3.update_critic(
        stubs,
        half_state(jnp.ones(2), HYPERS),
        td3.Policy(None, None),
        transitions(normal, np.ones(4000)),
        jax.random.key(0),
    )
    noise = np.asarray(seen[0] - action)
    np.testing.assert_allclose(noise.min(0), -0.2, atol=1e-6)
    np.testing.assert_allclose(noise.max(0), [0.2, 0.05], atol=1e-6)
    clipped = (np.abs(noise[:, 0]) > 0.2 - 1e-6).mean()
    assert clipped == pytest.approx(0.803, abs=0.03)  # the chance of a normal beyond a quarter of its deviation
    assert len(np.unique(noise[:, 0])) > 500 and abs(noise[:, 0].mean()) < 0.01


# Steps


@pytest.fixture
def plain_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Adam, which would hide every factor on a gradient."""
    monkeypatch.setattr(optim, "adam", optax.identity())


# a critic whose gradient is the observation: the loss is the mean over the batch of the sum of w * observation
LINEAR: dict[str, Any] = {"critic": stub(lambda w, o, a: (w * o).sum(-1)[None]), "regress": lambda q, target: q.mean()}


@pytest.mark.usefixtures("plain_descent")
def test_the_clip_comes_after_the_mean_over_shards() -> None:
    """Four shards whose gradients are 4, 0, 0, 0 and their mean 1: clipping to 2 first would make it 1/2."""
    hypers = as_arrays(pql.Hypers(max_gradient_norm=2.0, weight_decay=0.0, critic_lr=1.0))
    stubs = nets(axes=("shard",), **LINEAR)
    observation = jnp.zeros((4, BATCH, 3)).at[0, :, 0].set(4.0)

    def update(observation: jax.Array) -> jax.Array:
        batch = BATCHES._replace(observation=observation)
        half = half_state(jnp.zeros(3), hypers)
        half, _ = td3.update_critic(stubs, half, policy_of(stubs), batch, jax.random.key(0))
        return half.learner.params

    found = jax.vmap(update, axis_name="shard")(observation)
    np.testing.assert_allclose(found, [[-1, 0, 0]] * 4, rtol=1e-6)
    found = jax.vmap(update, axis_name="shard")(10 * observation)
    np.testing.assert_allclose(found, [[-2, 0, 0]] * 4, rtol=1e-6)


@pytest.mark.usefixtures("plain_descent")
def test_the_norm_is_that_of_all_parameters_together() -> None:
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([0.0, 4.0])}
    hypers = as_arrays(pql.Hypers(max_gradient_norm=0.5, weight_decay=0.0))
    optimizer = pql.optimizer(hypers)
    clipped, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    np.testing.assert_allclose(clipped["a"], [0.3], rtol=1e-6)
    np.testing.assert_allclose(clipped["b"], [0, 0.4], rtol=1e-6)


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
    """No target actor: what acts is the actor's parameters, and exploring adds nothing of its own."""
    agent = pql.make(pql.Config(**SMALL), SPEC)
    state: State = agent.init(jax.random.key(0))
    policy = agent.acting_params(state)
    assert policy.params is state.actor.learner.params and policy.target_params is None
    explored, greedy = (act(policy, BATCHES.observation, jax.random.key(1))[0] for act in (agent.act, agent.act_greedy))
    np.testing.assert_array_equal(explored, greedy)
