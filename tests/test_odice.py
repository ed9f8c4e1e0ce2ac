"""ODICE: the conjugate, both gradients of V and their projection by hand, weights of imitation, and what V learns."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents import odice
from rlx.halves import HalfState
from rlx.optim import Learner
from rlx.types import as_arrays
from tests import probes
from tests.loss_tools import BATCHES, SMALL, SPEC, stub, targeted, two_ways

CONTRACT = probes.Contract(probed_elsewhere=True)  # below: V is no value of actions, and shifted by a constant
HYPERS = as_arrays(odice.Hypers(gamma=0.9, reward_scale=2.0, dual=0.7, backward=0.5, critic_lr=0.1, tau=0.25))
LINEAR = stub(lambda w, o: o @ w)  # V(s) = w . s
ONLINE, TARGET = np.array([0.3, -0.2, 0.5], np.float32), np.array([-0.4, 0.1, 0.2], np.float32)


def test_conjugate() -> None:
    """The largest u w - (w - 1)^2 over ratios of 0 or more; its slope is that ratio."""
    u, w = np.array([-5, -2, -1, 0, 3], np.float32), np.linspace(0, 10, 10_001)
    expected = (u[:, None] * w - (w - 1) ** 2).max(-1)
    for found in two_ways(odice.conjugate, u):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(jax.grad(odice.conjugate))(u[[0, 2, 3, 4]]), [0, 0.5, 1, 2.5])


def residuals(value: np.ndarray, next_value: np.ndarray) -> np.ndarray:
    s, following = BATCHES.observation, BATCHES.next_observation
    return 2 * BATCHES.reward + 0.9 * BATCHES.discount * (following @ next_value) - s @ value


@pytest.mark.usefixtures("plain_descent")
def test_value_follows_the_orthogonal_gradient() -> None:
    """Through V, and of that through V' what is orthogonal to it; the gradient of the mean of V is not touched."""
    s, following, discount = BATCHES.observation, BATCHES.next_observation, BATCHES.discount[:, None]
    forward, backward = residuals(ONLINE, TARGET), residuals(TARGET, ONLINE)
    ratio = lambda u: np.maximum(u / 2 + 1, 0)[:, None]  # noqa: E731
    through_v = 0.7 * (ratio(forward) * -s).mean(0)
    through_next = 0.35 * (ratio(backward) * 0.9 * discount * following).mean(0)
    along = through_v @ through_next / (through_v @ through_v)
    assert abs(along) > 0.01
    gradient = through_v + through_next - along * through_v + 0.3 * s.mean(0)
    w = np.maximum(forward / 2 + 1, 0)
    loss = 0.7 * (forward * w - (w - 1) ** 2).mean() + 0.3 * (s @ ONLINE).mean()

    def update(online: jax.Array, target: jax.Array) -> Any:
        half, metrics = odice.update_critic(
            LINEAR, (), targeted(HYPERS, online, target), None, BATCHES, jax.random.key(0)
        )
        return half.learner.params, half.learner.target_params, metrics["value_loss"], metrics["conflict"]

    for params, moved, found, conflict in two_ways(update, ONLINE, TARGET):
        new = ONLINE - 0.1 * gradient
        np.testing.assert_allclose(params, new, rtol=1e-4)
        np.testing.assert_allclose(moved, 0.75 * TARGET + 0.25 * new, rtol=1e-4)
        np.testing.assert_allclose(found, loss, rtol=1e-4)
        np.testing.assert_allclose(conflict, -along, rtol=1e-4)


@pytest.mark.parametrize("kind", odice.WEIGHTS)
def test_weights_in_the_actor_loss(kind: str) -> None:
    """The ratio u / 2 + 1, or the residual u itself, between 0 and 100."""
    agent = odice.make(odice.Config(**SMALL, weights=kind), SPEC)
    assert set(agent.actor_reads) >= {"observation", "action", "reward", "discount", "next_observation"}
    u = residuals(ONLINE, TARGET)
    expected = np.clip(u / 2 + 1 if kind == "ratio" else u, 0, 100)
    assert (expected == 0).any() and (expected > 0).any()
    published = odice.Value(ONLINE, TARGET)
    np.testing.assert_allclose(odice.imitation_weights(LINEAR, kind, published, BATCHES, HYPERS), expected, rtol=1e-4)
    huge = odice.imitation_weights(LINEAR, kind, published, BATCHES, HYPERS.replace(reward_scale=jnp.float32(1e4)))
    assert huge.max() == 100

    actor = stub(lambda p, o: (p * o[:, :2], jnp.zeros((len(o), 2))))
    nets = odice.iql.ActorNetworks(actor, lambda *_: jnp.asarray(expected), lambda step: 1.0, ())
    half = HalfState.create(HYPERS, Learner.create(jnp.float32(0.3)))
    _, metrics = odice.iql.update_actor(nets, half, published, BATCHES, jax.random.key(0))
    error = BATCHES.action - np.tanh(0.3 * BATCHES.observation[:, :2])
    log_prob = (-0.5 * error**2 - 0.5 * np.log(2 * np.pi)).sum(-1)
    np.testing.assert_allclose(metrics["actor_loss"], -(expected * log_prob).mean(), rtol=1e-4)


def test_what_it_learns_of_the_probes() -> None:
    """Without randomness u = 2 ((1 - lambda) / lambda - 1), so V(s) = r + gamma d V(s') - u: the data's return at 1/2.
    The nearer lambda is to 1, the fewer actions are imitated. The second gradient pulls V(s) and V(s') together."""
    updates, agent = 500, odice.make(probes.small(odice.Config, layers=1), probes.SPEC)
    stack = lambda *trees: jax.tree.map(lambda *x: np.stack(x), *trees)  # noqa: E731
    data = stack(*(probes.batches(probe, updates, 16) for probe in probes.PROBES.values()))
    queries, learn = stack(*map(probes.questions, probes.PROBES.values())), probes.learner(agent)

    def learnt(dual: jax.Array, backward: jax.Array, data: Any, query: Any) -> probes.Learnt:
        hypers = probes.quick(odice.Hypers, critic_lr=1e-2, dual=dual, backward=backward)
        init_key, key = jax.random.split(jax.random.key(0))
        return learn(agent.init(init_key, hypers), data, query, key, jax.random.key(0), updates)

    over_problems = jax.vmap(learnt, in_axes=(None, None, 0, 0))
    program = jax.jit(jax.vmap(over_problems, in_axes=(0, 0, None, None)))
    answers = program(jnp.array([0.5, 0.8, 0.95, 0.5]), jnp.array([0.0, 0.0, 1.0, 1.0]), data, queries)
    values = dict(zip(probes.PROBES, np.moveaxis(answers.value, 1, 0), strict=True))
    greedy = dict(zip(probes.PROBES, np.moveaxis(answers.greedy[..., 0], 1, 0), strict=True))
    for i, shift in enumerate((0.0, 1.5)):
        for name, steps in (
            ("value", 1),
            ("observation", 1),
            ("discounting", [1 + probes.GAMMA, 1]),
            ("time limit", 2),
        ):
            expected = [query.value for query in probes.PROBES[name].queries] + shift * np.multiply(steps, 1.0)
            np.testing.assert_allclose(values[name][i], expected, atol=0.1, err_msg=name)
    for name in ("action", "policy"):
        np.testing.assert_allclose(greedy[name][2], [q.best for q in probes.PROBES[name].queries], atol=0.1)
    first, second = values["discounting"][3]
    assert 0.5 < first and second < 1 and abs(first - second) < 0.1
