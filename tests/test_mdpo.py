"""MDPO: the divergence against distrax and by hand in the actor's loss, its refreshes, and SAC as a special case."""

from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents import mdpo, sac
from rlx.distributions import gaussian_divergence
from rlx.halves import SoftActorState
from rlx.optim import Learner
from rlx.types import as_arrays
from tests import probes
from tests.loss_tools import SMALL, SPEC, learn_abreast, near, normals, two_ways
from tests.test_sac import BATCH, LOG_ALPHA, ONLINE, POLICY, STUBS, draws, total

CONTRACT = probes.Contract(
    config={"refresh_every": 2}, hypers={"alpha_init": 1e-3, "alpha_lr": 0.0, "divergence_weight": 0.1}
)


def test_divergence() -> None:
    normal = normals()
    one, other = ((normal(5, 2), normal(5, 2)) for _ in range(2))
    dists = [distrax.MultivariateNormalDiag(mean, jnp.exp(log_std)) for mean, log_std in (one, other)]
    expected = dists[0].kl_divergence(dists[1])
    for actual in two_ways(gaussian_divergence, one, other):
        np.testing.assert_allclose(actual, expected, rtol=1e-4)
    slopes = jax.jacobian(lambda gaussian: gaussian_divergence(gaussian, one).sum())(one)
    assert all((slope == 0).all() for slope in slopes)  # exactly, so that SAC's bits are a special case


def test_actor_loss_and_refreshes() -> None:
    """SAC's plus the weighted divergence; the previous policy stays but for every third update, which copies it."""
    key, previous = jax.random.key(3), {"mean": POLICY["mean"] + 0.5, "log_std": POLICY["log_std"] - 0.25}
    hypers = as_arrays(mdpo.Hypers(divergence_weight=0.7))
    learner = Learner.create(POLICY, target=True).replace(target_params=previous)
    state = SoftActorState.create(hypers, learner, log_alpha=Learner.create(LOG_ALPHA))
    state = jax.tree.map(jnp.asarray, state)
    _, action, log_prob = draws(key, 8)
    value = (ONLINE[:, None] * total(BATCH.observation, action)).min(0)
    divergence = 2 * ((np.exp(0.5) - 1) / 2 - 0.25) + (0.25 * np.exp(-2 * previous["log_std"]) / 2).sum()
    expected = (np.exp(LOG_ALPHA) * log_prob - value).mean() + 0.7 * divergence

    def update(state: Any) -> Any:
        return mdpo.update_actor(STUBS, 3, state, ONLINE, BATCH, key)

    for _, metrics in two_ways(update, state):
        np.testing.assert_allclose(metrics["actor_loss"], expected, rtol=1e-4)
        np.testing.assert_allclose(metrics["divergence"], divergence, rtol=1e-4)
    for step, refreshed in ((0, False), (2, True), (3, False), (5, True)):
        new, _ = update(state.replace(step=jnp.int32(step)))
        near(new.learner.target_params, new.learner.params if refreshed else previous, rtol=0, atol=0)


@pytest.mark.usefixtures("plain_descent")
def test_refreshed_at_every_update_it_is_sac() -> None:
    """Whatever the divergence's weight: its gradient is 0 where both policies are one."""
    ours = mdpo.make(mdpo.Config(**SMALL, refresh_every=1), SPEC)
    theirs = sac.make(sac.Config(**SMALL), SPEC)
    hypers = {"actor_lr": 0.01, "alpha_init": 0.5}
    states = [ours.init(jax.random.key(0), mdpo.Hypers(**hypers, divergence_weight=100.0))]
    states.append(theirs.init(jax.random.key(0), sac.Hypers(**hypers)))
    states, metrics = learn_abreast([ours, theirs], states, BATCH)
    assert metrics[0].pop("divergence") == 0
    near(metrics[0], metrics[1])
    near(states[0].critic.learner, states[1].critic.learner)
    near(states[0].actor.learner.params, states[1].actor.learner.params)
