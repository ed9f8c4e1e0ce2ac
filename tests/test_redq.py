"""REDQ: each target is the minimum of a random pair of critics, and the actor climbs the mean of all."""

import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import rlx
from rlx import settings
from rlx.agents import cql, redq, sac
from rlx.errors import RlxError
from tests import probes
from tests.commands import one_line
from tests.loss_tools import SMALL, SPEC, normals, same, stub, targeted, two_ways
from tests.test_sac import BATCH, HYPERS, LOG_ALPHA, POLICY, draws, stub_policy, total

CONTRACT = probes.Contract(
    config={"num_critics": 3}, hypers={"alpha_init": 1e-3, "alpha_lr": 0.0}, variants=({"critic_dropout": 0.01},)
)

ENV = "gymnax:Pendulum-v1"
SIZES: dict[str, Any] = {"actor_hidden_sizes": 8, "critic_hidden_sizes": 8}
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


def test_targets_without_entropy() -> None:
    """r + gamma d min Q' alone, by hand, for the pair that the key draws."""
    nets = redq.make_networks(redq.Config(**SMALL, num_critics=4, backup_entropy=False), SPEC)
    nets = nets._replace(actor=STUBS.actor, critic=STUBS.critic)
    key = jax.random.key(3)
    _, action, _ = draws(key, 8)
    q = TARGET[:, None] * total(BATCH.next_observation, action)
    expected = [3 * BATCH.reward + 0.9 * BATCH.discount * q[list(pair)].min(0) for pair in PAIRS]
    half = targeted(HYPERS, ONLINE, TARGET)
    for target in two_ways(
        lambda half, key: sac.soft_target(nets, half, sac.Policy(POLICY, LOG_ALPHA), BATCH, key), half, key
    ):
        assert min(np.abs(np.asarray(target) - one).max() for one in expected) < 1e-4


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


@pytest.mark.usefixtures("reuse_programs")
def test_parts_of_results_are_adopted_in_python(tmp_path: Path) -> None:
    """Of results in memory and of run folders; one member serves for any number. What names no run is refused."""
    short: dict[str, Any] = {"total_env_steps": 64, "num_envs": 4, "batch_size": 8, "pool_size": 4, "eval_episodes": 2}
    short |= SIZES | {"num_critics": 3, "log_every": 64, "eval_every": 64, "warmup_env_steps": 32, "progress": False}
    first = rlx.fit("sac", ENV, **short)
    folder = first.save(tmp_path / "first")
    still = short | {"actor_lr": 0.0, "critic_lr": 0.0, "alpha_lr": 0.0, "tau": 0.0, "num_seeds": 2}
    second = rlx.fit("redq", ENV, init_from={"policy": first, "critic": folder}, **still)
    for half in ("actor", "critic"):
        before, after = (getattr(result.state, half).learner.params for result in (first, second))
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x: np.stack([x[0]] * 2), before), after)
    again = rlx.fit("redq", ENV, init_from={"policy": folder}, run_dir=tmp_path, run_name="again", **still)
    same(again.state.actor.learner.params, second.state.actor.learner.params)
    for init_from, message in (
        ({}, "init_from: names no part"),
        (3, "init_from: is of type int; give a run's folder, or the result of one"),
        ({"policy": 3}, "init_from['policy']: is of type int"),
        ({"value": first}, "redq adopts policy, critic, not 'value'"),
        ({"policy": tmp_path}, "is not a run folder"),
    ):
        with one_line(message):
            rlx.fit("redq", ENV, init_from=init_from, **still)
    with one_line("init_from: this result has no run folder"):
        rlx.fit("redq", ENV, init_from={"policy": first}, run_dir=tmp_path, **still)
