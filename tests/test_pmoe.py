"""PMOE: densities of the mixture against distrax, the weights' loss by hand, and the actor's loss."""

from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents import pmoe
from rlx.halves import SoftActorState
from rlx.optim import Learner
from rlx.types import as_arrays
from tests import probes
from tests.loss_tools import SMALL, SPEC, normals, stub, two_ways
from tests.test_sac import BATCH, LOG_ALPHA, ONLINE, total

CONTRACT = probes.Contract(config={"num_experts": 3}, hypers={"alpha_init": 1e-3, "alpha_lr": 0.0})

normal = normals()
MIXTURE: Any = (normal(8, 3), normal(8, 3, 2), 0.3 * normal(8, 3, 2) - 1)


def density(mixture: Any, pre_tanh: Any) -> Any:
    """Of tanh(u) under the mixture, by distrax and the change of variables."""
    logits, mean, log_std = mixture
    of_each = distrax.MultivariateNormalDiag(mean, jnp.exp(log_std))
    gaussian = distrax.MixtureSameFamily(distrax.Categorical(logits), of_each).log_prob(pre_tanh)
    return gaussian - np.log1p(-(np.tanh(pre_tanh) ** 2)).sum(-1)


def test_log_prob() -> None:
    pre_tanh = normal(8, 2)
    for actual in two_ways(pmoe.log_prob, MIXTURE, pre_tanh):
        np.testing.assert_allclose(actual, density(MIXTURE, pre_tanh), rtol=1e-4, atol=1e-4)
    u, log_probs = pmoe.sample_each(MIXTURE, jax.random.key(0))
    for k in range(3):
        np.testing.assert_allclose(log_probs[:, k], density(MIXTURE, np.asarray(u[:, k])), rtol=1e-3, atol=1e-3)


def test_samples_choose_each_gaussian_as_often_as_its_weight_says() -> None:
    logits = jnp.log(jnp.array([0.7, 0.3]))
    mixture = logits, jnp.array([[2.0], [-2.0]]), jnp.full((2, 1), -3.0)
    actor = stub(lambda params, observation: mixture)
    draw = jax.jit(jax.vmap(lambda key: pmoe.sample(actor, None, None, key)))
    action, log_prob = draw(jax.random.split(jax.random.key(0), 2000))
    np.testing.assert_allclose((action > 0).mean(), 0.7, atol=0.04)
    wanted = pmoe.log_prob(mixture, jnp.arctanh(action))
    np.testing.assert_allclose(log_prob, wanted, atol=0.05)


def test_frequency_loss() -> None:
    logits, q = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32)), np.float32([[1, 3, 2], [0, -1, 5]])
    expected = ((0.25 + 0.5625 + 0.0625) + (0.01 + 0.01 + 0.04)) / 2
    for actual in two_ways(pmoe.frequency_loss, logits, q):
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.usefixtures("plain_descent")
def test_actor_loss() -> None:
    """Every Gaussian counts the same; the logits' gradient is that of their own loss alone."""
    key, alpha = jax.random.key(3), np.exp(LOG_ALPHA)
    nets = pmoe.make_networks(pmoe.Config(**SMALL, num_experts=3), SPEC)._replace(
        actor=stub(lambda params, observation: params), critic=stub(lambda w, o, a: w[:, None] * total(o, a))
    )
    hypers = as_arrays(pmoe.Hypers(frequency_weight=0.5, actor_lr=1.0))

    def update(mixture: Any) -> Any:
        state = SoftActorState.create(hypers, Learner.create(mixture), log_alpha=Learner.create(jnp.float32(LOG_ALPHA)))
        new, metrics = pmoe.update_actor(nets, state, ONLINE, BATCH, key)
        return new.learner.params[0], metrics

    u, log_probs = pmoe.sample_each(MIXTURE, key)
    q = (ONLINE[:, None, None] * total(np.repeat(BATCH.observation[:, None], 3, 1), np.tanh(u))).min(0)
    weights = np.asarray(pmoe.frequency_loss(MIXTURE[0], q))
    slope = jax.grad(pmoe.frequency_loss)(jnp.asarray(MIXTURE[0]), q)
    for logits, metrics in two_ways(update, MIXTURE):
        np.testing.assert_allclose(logits, MIXTURE[0] - 0.5 * slope, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(metrics["actor_loss"], (alpha * log_probs - q).mean() + 0.5 * weights, rtol=1e-4)
        np.testing.assert_allclose(metrics["frequency_loss"], weights, rtol=1e-4)
        np.testing.assert_allclose(metrics["entropy"], -log_probs.mean(), rtol=1e-4)
