"""CrossQ: both losses against NumPy on stubs that see their batch, what its statistics are of, and shards."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rlx
from rlx import distributions
from rlx.agents import crossq, sac
from rlx.halves import HalfState, SoftActorState
from rlx.optim import Learner
from rlx.types import Metrics, Params, State, as_arrays
from tests import probes
from tests.commands import TINY
from tests.loss_tools import SMALL, SPEC, near, normals, stub, transitions, two_ways
from tests.test_sac import BATCH, LOG_ALPHA, ONLINE, POLICY, Certain, draws, stub_policy, total

CONTRACT = probes.Contract(
    hypers={"alpha_init": 1e-3, "alpha_lr": 0.0, "actor_lr": 1e-3, "critic_lr": 1e-3},
    variants=({"target_networks": True},),
    updates=2000,
    batch=32,
    slow_probes=True,
    tolerance=2,  # values jitter without target networks
)
HYPERS = as_arrays(crossq.Hypers(gamma=0.9, reward_scale=3.0, target_entropy_per_action=-0.5, critic_lr=0.1, tau=0.25))
STATISTICS = {"batch_stats": jnp.zeros(())}  # of the stubs: the mean of `total` over a batch
NETS = crossq.make_networks(crossq.Config(**SMALL), SPEC)


def stub_critic(variables: Params, o: jax.Array, a: jax.Array, train: bool = False) -> Any:
    """Critic i says w_i times `total`, shifted by its mean over the batch, or by the running one."""
    mean = total(o, a).mean() if train else variables["batch_stats"]
    q = variables["params"][:, None] * (total(o, a) - mean)
    return (q, {"batch_stats": mean}) if train else q


def stub_actor(variables: Params, o: jax.Array, train: bool = False) -> Any:
    output = stub_policy(variables["params"], o)
    return (output, {"batch_stats": o.mean()}) if train else output


STUBS = NETS._replace(actor=stub(stub_actor), critic=stub(stub_critic), optimizer=lambda hypers: optax.identity())


def learner(params: Any, target: Any = None) -> Learner:
    return Learner({"params": params}, optax.EmptyState(), None if target is None else {"params": target}, STATISTICS)


def stub_state(target: Any = None) -> State:
    critic = HalfState.create(HYPERS, learner(ONLINE, target))
    actor = SoftActorState.create(HYPERS, learner(POLICY), log_alpha=Learner.create(LOG_ALPHA))
    return jax.tree.map(jnp.asarray, State(critic=critic, actor=actor))


PUBLISHED = sac.Policy({"params": POLICY} | STATISTICS, LOG_ALPHA)


def by_hand(key: Any, target: np.ndarray = ONLINE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one pass over both ends of the transitions: their mean, target and features, in NumPy."""
    _, action, log_prob = draws(key, 8)
    here, there = total(BATCH.observation, BATCH.action), total(BATCH.next_observation, action)
    mean = np.concatenate([here, there]).mean()
    value = np.min(target[:, None] * (there - mean), axis=0) - np.exp(LOG_ALPHA) * log_prob
    return mean, 3 * BATCH.reward + 0.9 * BATCH.discount * value, here - mean


@pytest.mark.parametrize("joint", [False, True])
def test_losses(joint: bool) -> None:
    """Of both halves; an actor whose statistics are of s and s' learns from s alone, too."""
    key, running = jax.random.key(3), np.float32(0.25)
    nets = STUBS._replace(joint_actor=joint)
    variables = {"params": ONLINE, "batch_stats": running}

    def metrics(state: State, policy: sac.Policy, batch: Any) -> tuple[Metrics, Metrics, Any, Any]:
        critic, critic_metrics = crossq.update_critic(nets, state.critic, policy, batch, key)
        actor, actor_metrics = crossq.update_actor(nets, state.actor, variables, batch, key)
        return critic_metrics, actor_metrics, critic.learner.statistics, actor.learner.statistics

    mean, target, features = by_hand(key)
    _, action, log_prob = draws(key, 8)
    value = (ONLINE[:, None] * (total(BATCH.observation, action) - running)).min(0)
    q, alpha = ONLINE[:, None] * features, np.exp(LOG_ALPHA)
    rows = np.concatenate([BATCH.observation, BATCH.next_observation]) if joint else BATCH.observation
    expected = (
        {"critic_loss": ((q - target) ** 2).mean(1).sum(), "q_mean": q.mean()},
        {"actor_loss": (alpha * log_prob - value).mean(), "entropy": -log_prob.mean(), "alpha": alpha}
        | {"alpha_loss": -alpha * (log_prob - 0.5 * SPEC.action_size).mean()},
        {"batch_stats": mean},
        {"batch_stats": rows.mean()},
    )
    for result in two_ways(metrics, stub_state(), PUBLISHED, BATCH):
        near(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", [None, np.array([1.2, 0.4], np.float32)])
def test_critic_step(target: Any) -> None:
    """Down the gradient of the estimates alone, with the target a constant; with target networks these make it."""
    key = jax.random.key(4)
    nets = STUBS._replace(target_networks=target is not None)
    state, _ = jax.jit(partial(crossq.update_critic, nets))(stub_state(target).critic, PUBLISHED, BATCH, key)
    _, y, features = by_hand(key, ONLINE if target is None else target)
    new = ONLINE - 0.1 * (2 * features * (ONLINE[:, None] * features - y)).mean(1)
    np.testing.assert_allclose(state.learner.params["params"], new, rtol=1e-4)
    if target is not None:
        np.testing.assert_allclose(state.learner.target_params["params"], 0.75 * target + 0.25 * new, rtol=1e-4)


def test_without_statistics_it_is_sac_with_targets_that_equal_the_critics() -> None:
    key = jax.random.key(5)
    plain = stub(lambda w, o, a, train=False: _with_statistics(w["params"][:, None] * total(o, a), train))
    update = jax.jit(partial(crossq.update_critic, STUBS._replace(critic=plain)))
    _, metrics = update(stub_state().critic, PUBLISHED, BATCH, key)
    nets = sac.make_networks(sac.Config(**SMALL), SPEC)
    nets = nets._replace(actor=stub(stub_policy), critic=stub(lambda w, o, a: w[:, None] * total(o, a)))
    half = HalfState.create(HYPERS, Learner.create(jnp.asarray(ONLINE), target=True))
    _, expected = jax.jit(partial(sac.update_critic, nets))(half, sac.Policy(POLICY, LOG_ALPHA), BATCH, key)
    np.testing.assert_allclose(metrics["critic_loss"], expected["critic_loss"], rtol=1e-5)


def _with_statistics(q: jax.Array, train: bool) -> Any:
    return (q, STATISTICS) if train else q


@pytest.mark.parametrize("batch_norm", ["batch", "renorm"])
def test_two_shards_of_6_rows_make_the_update_of_12(batch_norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients, statistics and metrics of both halves, to 1e-6: statistics are of the rows of all shards."""
    monkeypatch.setattr(distributions, "TanhNormal", Certain)
    config = crossq.Config(**SMALL, batch_norm=batch_norm, activation="tanh")
    parts = [crossq.make_networks(config, SPEC, axes) for axes in ((), ("shard",))]
    one, two = (crossq.assemble(nets._replace(optimizer=lambda hypers: optax.identity())) for nets in parts)
    state, batch = jax.jit(one.init)(jax.random.key(0)), transitions(normals(), 12)
    expected = jax.jit(one.update)(state, batch, jax.random.key(1))
    shards = jax.tree.map(lambda x: x.reshape(2, 6, *x.shape[1:]), batch)
    update = jax.jit(jax.vmap(two.update, in_axes=(None, 0, None), axis_name="shard"))
    found = update(state, shards, jax.random.key(1))
    for shard in range(2):
        near(jax.tree.map(lambda x, i=shard: x[i], found), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", ["1:1", "3:1"])
def test_statistics_count_the_updates_of_their_half(ratio: str) -> None:
    """An actor update is skipped whole, statistics included; with ratio 1:1 none is skipped."""
    small = {"actor_hidden_sizes": [8], "critic_hidden_sizes": [8], "total_env_steps": 128}
    state = rlx.fit("crossq", "gymnax:Pendulum-v1", **TINY | small | {"ratio": ratio}).state
    counts = {}
    for name, half in (("critic", state.critic), ("actor", state.actor)):
        leaves = jax.tree_util.tree_leaves_with_path(half.learner.statistics)
        seen = {int(n) for path, x in leaves if "batches" in jax.tree_util.keystr(path) for n in np.ravel(x)}
        assert seen == {int(np.ravel(half.step)[0])}
        counts[name] = seen.pop()
    assert counts["critic"] == int(ratio[0]) * counts["actor"] > 0
