"""EDAC: the similarity of slopes against NumPy, the critics' loss, and SAC-N, whose target loses alpha log pi."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import halves
from rlx.agents import edac, sac
from rlx.types import as_arrays
from tests import probes
from tests.loss_tools import BATCH, BATCHES, SMALL, SPEC, near, normals, stub, tanh_log_prob, targeted, two_ways

CONTRACT = probes.Contract(
    config={"num_critics": 3},
    hypers={"diversity_weight": 0.01, "alpha_init": 1e-3, "alpha_lr": 0.0},
    tolerance=2,  # the minimum of three critics is a little low
    batch=32,
)

CONFIG = edac.Config(**SMALL, num_critics=3)
normal = normals()


def test_similarity() -> None:
    """Equal slopes: N; opposite ones of two critics: -2; orthogonal ones: 0; else the cosines of all pairs."""
    slopes = normal(3, BATCH, 2)
    unit = slopes / np.linalg.norm(slopes, axis=-1, keepdims=True)
    pairs = sum((unit[i] * unit[j]).sum(-1).mean() for i in range(3) for j in range(3) if i != j)
    for actual in two_ways(edac.similarity, slopes):
        np.testing.assert_allclose(actual, pairs / 2, rtol=1e-4)
    right, up = np.array([[[1.0, 0.0]]], np.float32), np.array([[[0.0, 2.0]]], np.float32)
    for others, expected in (((right, right, 3 * right), 3.0), ((right, -right), -2.0), ((right, up), 0.0)):
        np.testing.assert_allclose(edac.similarity(jnp.concatenate(others)), expected, atol=1e-5)


def test_critic_loss() -> None:
    """Critics w . a: their slopes are w. The target is of the lowest of three, less alpha times the log-density."""
    actor = stub(lambda p, o: (p + o[:, :2], jnp.full((len(o), 2), -1.0)))
    critic = stub(lambda w, o, a, each=False: jnp.einsum("na,nba->nb", w, a if each else jnp.stack(3 * [a])))
    nets = sac.make_networks(CONFIG, SPEC)._replace(actor=actor, critic=critic)
    hypers, key = as_arrays(edac.Hypers(gamma=0.9, reward_scale=2.0, diversity_weight=0.7)), jax.random.key(0)
    policy: Any = sac.Policy(jnp.float32(0.2), jnp.float32(-0.3))
    action, _ = sac.policies.squashed_sample(actor, policy.params, BATCHES.next_observation, key)
    log_prob = tanh_log_prob(0.2 + BATCHES.next_observation[:, :2], -1.0, np.asarray(action))
    online, target = normal(3, 2), normal(3, 2)
    y = 2 * BATCHES.reward + 0.9 * BATCHES.discount * ((target @ action.T).min(0) - np.exp(-0.3) * log_prob)
    alike = edac.similarity(jnp.broadcast_to(online[:, None], (3, BATCH, 2)))

    def update(online: jax.Array, target: jax.Array) -> Any:
        return edac.update_critic(nets, targeted(hypers, online, target), policy, BATCHES, key)[1]

    for actual in two_ways(update, online, target):
        expected = ((online @ BATCHES.action.T - y) ** 2).mean(-1).sum() + 0.7 * alike
        np.testing.assert_allclose(actual["critic_loss"], expected, rtol=1e-4)
        np.testing.assert_allclose(actual["target_mean"], y.mean(), rtol=1e-4)


def test_diversity_turns_slopes_apart_and_without_it_the_agent_is_sac() -> None:
    ours, theirs = edac.make(CONFIG, SPEC), sac.make(CONFIG, SPEC)
    first = jax.jit(ours.init)(jax.random.key(0), edac.Hypers(diversity_weight=0.0))
    mine, other = (
        jax.jit(agent.update)(state, BATCHES, jax.random.key(1))[0]
        for agent, state in ((ours, first), (theirs, first.with_hypers(sac.Hypers())))
    )
    near(mine.critic.learner, other.critic.learner)
    near(mine.actor.learner, other.actor.learner)

    apart = first.with_hypers(edac.Hypers(diversity_weight=100.0)).critic
    update = jax.jit(lambda half: ours.update_critic(half, ours.acting_params(first), BATCHES, jax.random.key(2)))
    said = []
    for _ in range(30):
        apart, metrics = update(apart)
        said.append(metrics["similarity"])
    assert said[-1] < said[0] - 0.3


def test_slopes_are_each_critics_own() -> None:
    """Against finite differences of the ensemble."""
    config = edac.Config(**vars(CONFIG) | {"activation": "tanh"})
    critic = halves.make_critic(config, SPEC)
    params = jax.tree.map(lambda x: 3 * x, critic.init(jax.random.key(0)))
    values, slopes = edac.values_and_slopes(critic.apply, params, BATCHES.observation, BATCHES.action)
    np.testing.assert_allclose(values, critic.apply(params, BATCHES.observation, BATCHES.action), rtol=1e-5)
    for i in range(2):
        step = 1e-2 * np.eye(2, dtype=np.float32)[i]
        up, down = (critic.apply(params, BATCHES.observation, BATCHES.action + s) for s in (step, -step))
        np.testing.assert_allclose(slopes[..., i], (up - down) / 2e-2, rtol=0.02, atol=1e-4)
