"""SAC: losses and steps against NumPy on stub networks, and what seeds, rates and shards do to a step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import distributions
from rlx.agents import sac
from rlx.distributions import TanhNormal
from rlx.halves import SoftActorState
from rlx.optim import Learner
from rlx.types import Key, Metrics, State, Transition, as_arrays
from tests import probes
from tests.loss_tools import SMALL, SPEC, near, normals, stub, tanh_log_prob, targeted, transitions, two_ways

CONTRACT = probes.Contract(hypers={"alpha_init": 1e-3, "alpha_lr": 0.0})

NETS = sac.make_networks(sac.Config(**SMALL), SPEC)
AGENT = sac.assemble(NETS)
# Stubs: critic i says w_i times a sum over observation and action; the policy is the same at every observation.


def stub_policy(params: Any, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
    shape = (*observation.shape[:-1], 2)
    return jnp.broadcast_to(params["mean"], shape), jnp.broadcast_to(params["log_std"], shape)


def total(observation: Any, action: Any) -> Any:
    return observation.sum(-1) + 2 * action.sum(-1)


STUBS = NETS._replace(actor=stub(stub_policy), critic=stub(lambda w, o, a: w[:, None] * total(o, a)))
POLICY = {"mean": np.array([0.3, -0.5], np.float32), "log_std": np.array([-0.5, 0.2], np.float32)}
ONLINE, TARGET = np.array([0.5, -1.5], np.float32), np.array([1.2, 0.4], np.float32)
LOG_ALPHA: Any = np.float32(-0.7)
RATES: dict[str, Any] = {"actor_lr": 0.5, "critic_lr": 0.1, "alpha_lr": 0.2}
HYPERS = as_arrays(sac.Hypers(gamma=0.9, tau=0.25, reward_scale=3.0, target_entropy_per_action=-0.5, **RATES))
normal = normals()
BATCH = transitions(normal, 8)


def stub_state() -> State:
    critic = targeted(HYPERS, ONLINE, TARGET)
    actor = SoftActorState.create(HYPERS, Learner.create(POLICY), log_alpha=Learner.create(LOG_ALPHA))
    return jax.tree.map(jnp.asarray, State(critic=critic, actor=actor))


def draws(key: Key, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The stub policy's noise [B, A], actions [B, A] and log-probabilities [B]."""
    mean, log_std = stub_policy(POLICY, jnp.zeros((count, 3)))
    action = np.asarray(TanhNormal(mean, log_std).sample(seed=key), np.float64)
    noise = (np.arctanh(action) - POLICY["mean"]) / np.exp(POLICY["log_std"].astype(np.float64))
    return noise, action, tanh_log_prob(POLICY["mean"], POLICY["log_std"], action)


def target_by_hand(action: np.ndarray, log_prob: np.ndarray) -> np.ndarray:
    next_q = np.min(TARGET[:, None] * total(BATCH.next_observation, action), axis=0)
    return 3 * BATCH.reward + 0.9 * BATCH.discount * (next_q - np.exp(LOG_ALPHA) * log_prob)


def test_losses() -> None:
    """Of both halves, as their metrics say, jitted and vmapped; entropy is that of the policy given."""
    key = jax.random.key(3)

    def metrics(state: State, policy: sac.Policy, batch: Transition) -> tuple[Metrics, Metrics]:
        critic = sac.update_critic(STUBS, state.critic, policy, batch, key)[1]
        return critic, sac.update_actor(STUBS, state.actor, ONLINE, batch, key)[1]

    _, action, log_prob = draws(key, 8)
    target = target_by_hand(action, log_prob)
    q, value = (ONLINE[:, None] * total(BATCH.observation, a) for a in (BATCH.action, action))
    surplus = (log_prob - 0.5 * SPEC.action_size).mean()
    expected = (
        {"critic_loss": ((q - target) ** 2).mean(1).sum(), "q_mean": q.mean(), "target_mean": target.mean()},
        {"actor_loss": (np.exp(LOG_ALPHA) * log_prob - value.min(0)).mean(), "entropy": -log_prob.mean()}
        | {"alpha_loss": -LOG_ALPHA * surplus, "alpha": np.exp(LOG_ALPHA)},
    )
    for result in two_ways(metrics, stub_state(), sac.Policy(POLICY, LOG_ALPHA), BATCH):
        near(result, expected, rtol=1e-4)


@pytest.mark.usefixtures("plain_descent")
def test_critic_step() -> None:
    """Down the gradient of the loss; the targets follow the NEW critics; the entropy is that of the policy given."""
    key = jax.random.key(4)
    policy = sac.Policy(POLICY, LOG_ALPHA)
    state, _ = sac.update_critic(STUBS, stub_state().critic, policy, BATCH, key)
    _, action, log_prob = draws(key, 8)
    features, target = total(BATCH.observation, BATCH.action), target_by_hand(action, log_prob)
    new = ONLINE - 0.1 * (2 * features * (ONLINE[:, None] * features - target)).mean(1)
    np.testing.assert_allclose(state.learner.params, new, rtol=1e-4)
    np.testing.assert_allclose(state.learner.target_params, 0.75 * TARGET + 0.25 * new, rtol=1e-4)
    assert state.step == 1


@pytest.mark.usefixtures("plain_descent")
def test_actor_step() -> None:
    """Down the gradient of the actor's loss through its draws (by finite differences), then of the temperature's."""
    key = jax.random.key(5)
    state, _ = sac.update_actor(STUBS, stub_state().actor, ONLINE, BATCH, key)
    noise, _, log_prob = draws(key, 8)

    def loss(flat: np.ndarray) -> float:
        mean, log_std = flat.reshape(2, 2)
        action = np.tanh(mean + np.exp(log_std) * noise)
        q = np.min(ONLINE[:, None] * total(BATCH.observation, action), axis=0)
        return (np.exp(LOG_ALPHA) * tanh_log_prob(mean, log_std, action) - q).mean()

    flat = np.concatenate([POLICY["mean"], POLICY["log_std"]]).astype(np.float64)
    gradient = np.array([loss(flat + d) - loss(flat - d) for d in 1e-5 * np.eye(4)]) / 2e-5
    found = np.concatenate([state.learner.params["mean"], state.learner.params["log_std"]])
    np.testing.assert_allclose(found, flat - 0.5 * gradient, rtol=1e-3, atol=1e-4)

    surplus = (log_prob - 0.5 * SPEC.action_size).mean()
    np.testing.assert_allclose(state.log_alpha.params, LOG_ALPHA + 0.2 * surplus, rtol=1e-4)
    assert state.step == 1


def test_update_is_a_critic_step_then_an_actor_step_that_sees_it() -> None:
    agent, state, key = sac.assemble(STUBS), stub_state(), jax.random.key(6)
    updated, metrics = agent.update(state, BATCH, key)
    critic_key, actor_key = jax.random.split(key)
    critic, critic_metrics = agent.update_critic(state.critic, agent.acting_params(state), BATCH, critic_key)
    actor, actor_metrics = agent.update_actor(state.actor, agent.critic_params(critic), BATCH, actor_key)
    near(updated, State(critic=critic, actor=actor), rtol=0)
    near(metrics, critic_metrics | actor_metrics, rtol=0)
    _, stale = agent.update_actor(state.actor, agent.critic_params(state.critic), BATCH, actor_key)
    assert stale["actor_loss"] != metrics["actor_loss"]


def test_derivatives_of_the_updated_critic() -> None:
    """By the learning rate as finite differences have it; by gamma and the reward scale 0: targets are constants."""
    hypers, h = as_arrays(sac.Hypers(critic_lr=0.03)), 3e-3
    start = jax.jit(AGENT.init)(jax.random.key(0), hypers)

    @jax.jit
    def value(hypers: sac.Hypers) -> jax.Array:
        state, _ = AGENT.update(start.with_hypers(hypers), BATCH, jax.random.key(1))
        return NETS.critic.apply(state.critic.learner.params, BATCH.observation, BATCH.action).mean()

    slopes = jax.jit(jax.grad(value))(hypers)
    assert slopes.gamma == slopes.reward_scale == 0 and slopes.critic_lr != 0
    high, low = (value(hypers.replace(critic_lr=hypers.critic_lr + step)) for step in (h, -h))
    np.testing.assert_allclose(slopes.critic_lr, (high - low) / (2 * h), rtol=0.01)


class Certain:
    """Stands in for the policy's distribution: no noise, so that shards and the joined batch draw the same actions."""

    def __init__(self, mean: jax.Array, log_std: jax.Array) -> None:
        self.mean, self.log_std = mean, log_std

    def sample_and_log_prob(self, seed: Key) -> tuple[jax.Array, jax.Array]:
        return jnp.tanh(self.mean), -(self.log_std + self.mean**2).sum(-1)


@pytest.mark.usefixtures("plain_descent")
def test_four_shards_make_the_update_of_the_joined_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """On raw gradients: plain descent with rate 1, so new minus old parameters are the gradients."""
    monkeypatch.setattr(distributions, "TanhNormal", Certain)
    hypers = as_arrays(sac.Hypers(actor_lr=1.0, critic_lr=1.0, alpha_lr=1.0))
    state, batch = jax.jit(AGENT.init)(jax.random.key(0), hypers), transitions(normal, 4, 8)
    keys = jax.random.split(jax.random.key(1), 4)
    # outputs of fresh networks are near 0 everywhere; away from there shards differ in every gradient
    away = [jax.tree.map(lambda x: x + 0.2, half.learner.params) for half in (state.critic, state.actor)]
    halves = zip((state.critic, state.actor), away, strict=True)
    state = State(*(half.replace(learner=half.learner.replace(params=params)) for half, params in halves))
    sharded = sac.assemble(NETS._replace(axes=("shard",)))
    found = jax.jit(jax.vmap(sharded.update, in_axes=(None, 0, 0), axis_name="shard"))(state, batch, keys)
    joined = jax.tree.map(lambda x: x.reshape(32, *x.shape[2:]), batch)
    expected = jax.jit(AGENT.update)(state, joined, keys[0])
    for i in range(4):
        near(jax.tree.map(lambda x, i=i: x[i], found), expected, rtol=1e-4, atol=1e-5)
