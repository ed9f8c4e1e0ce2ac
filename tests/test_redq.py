"""REDQ: each target is the minimum of a random pair of critics, and the actor climbs the mean of all."""

import itertools
from typing import Any

import jax
import numpy as np
import pytest

from rlx import settings
from rlx.agents import cql, redq, sac
from rlx.errors import RlxError
from tests import probes
from tests.loss_tools import SMALL, SPEC, normals, same, stub, targeted, two_ways
from tests.test_sac import BATCH, HYPERS, LOG_ALPHA, POLICY, draws, stub_policy, total

CONTRACT = probes.Contract(
    config={"num_critics": 3}, hypers={"alpha_init": 1e-3, "alpha_lr": 0.0}, variants=({"critic_dropout": 0.01},)
)

ONLINE, TARGET = np.array([0.5, -1.5, 0.1, 2.0], np.float32), np.array([1.2, 0.4, -0.3, 0.9], np.float32)
STUBS = redq.make_networks(redq.Config(**SMALL, num_critics=4), SPEC)._replace(
    actor=stub(stub_policy), critic=stub(lambda w, o, a: w[:, None] * total(o, a))
)


PAIRS = list(itertools.combinations(range(4), 2))


def targets_by_hand(key: Any) -> list[float]:
    """The mean target of each pair of critics, for this key's next actions."""
    _, action, log_prob = draws(key, 8)
    q = TARGET[:, None] * total(BATCH.next_observation, action)
    values = [q[list(pair)].min(0) - np.exp(LOG_ALPHA) * log_prob for pair in PAIRS]
    return [float((3 * BATCH.reward + 0.9 * BATCH.discount * value).mean()) for value in values]


def test_targets_are_of_every_pair_of_critics_equally_often() -> None:
    """One pair for each update's key, whose minimum is the target."""

    def target(key: Any) -> Any:
        half = targeted(HYPERS, ONLINE, TARGET)
        return sac.update_critic(STUBS, half, sac.Policy(POLICY, LOG_ALPHA), BATCH, key)[1]["target_mean"]

    keys = jax.random.split(jax.random.key(0), 20)
    actual = np.asarray(jax.jit(jax.vmap(target))(keys))
    distance = np.abs(np.array([targets_by_hand(key) for key in keys]) - actual[:, None])
    assert (distance.min(1) < 1e-4).all() and len(set(distance.argmin(1))) > 3

    choose = jax.jit(jax.vmap(lambda key: STUBS.choose_targets(np.arange(4), key)))
    chosen = np.sort(choose(jax.random.split(jax.random.key(1), 600)), axis=1)
    counts = [int((chosen == pair).all(1).sum()) for pair in PAIRS]
    assert sum(counts) == 600 and min(counts) > 70


def test_the_actor_climbs_the_mean_of_all_critics() -> None:
    q = normals()(4, 5)
    for value in two_ways(STUBS.action_value, q):
        np.testing.assert_allclose(value, q.mean(0), rtol=1e-6)


def test_a_subset_of_all_critics_is_sac() -> None:
    nets = redq.make_networks(redq.Config(**SMALL, num_critics=2), SPEC)
    params = nets.critic.init(jax.random.key(0))
    same = nets.choose_targets(params, jax.random.key(1))
    q, q_same = (nets.critic.apply(p, BATCH.observation, BATCH.action) for p in (params, same))
    np.testing.assert_allclose(q.min(0), q_same.min(0), rtol=1e-6)


def test_a_subset_cannot_be_larger_than_the_ensemble() -> None:
    with pytest.raises(RlxError, match="--num-target-critics 3: must not be over"):
        settings.check(redq.Config(num_critics=2, num_target_critics=3))


def test_policy_and_critics_of_cql_are_adopted() -> None:
    """With targets, optimisers and temperature; the hyper-parameters stay REDQ's."""
    agent = redq.make(redq.Config(**SMALL), SPEC)
    of_cql = cql.make(cql.Config(**SMALL, num_critics=10), SPEC)

    def filled(init: Any, number: int) -> Any:
        shapes = jax.eval_shape(init, jax.random.key(0))
        return jax.tree.map(lambda x: np.full(x.shape, number, x.dtype), shapes)

    state, other = filled(agent.init, 0), filled(of_cql.init, 1)
    for name in ("policy", "critic"):
        state = agent.adopts[name](state, other)
    same((state.actor.learner, state.actor.log_alpha), (other.actor.learner, other.actor.log_alpha))
    same(state.critic.learner, other.critic.learner)
    assert isinstance(state.critic.hypers, redq.Hypers) and not isinstance(state.critic.hypers, cql.Hypers)
