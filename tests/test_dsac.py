"""DSAC and DSAC-T: both losses and their gradients against NumPy, targets by the lowest mean, running deviations."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents import dsac, dsac_t, sac
from rlx.types import as_arrays
from tests import probes
from tests.loss_tools import SMALL, SPEC, near, normals, stub, targeted, two_ways
from tests.test_sac import BATCH, POLICY, draws, stub_policy, total

CONTRACT = probes.Contract(hypers={"alpha_init": 1e-3, "alpha_lr": 0.0, "std_min": 0.1})

normal = normals()
ESTIMATES, TARGET = 3 * normal(2, 8, 2), 4 * normal(8, 2)  # mean and what softplus makes the deviation
MEAN_STD = np.array([0.4, 1.5], np.float32)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x))


def huber(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) <= 50, x**2 / 2, 50 * (np.abs(x) - 25))


def gradients_by_hand(refined: bool) -> np.ndarray:
    """Of both losses, by the means and deviations, each from the other's stopped parts: [N, B, 2]."""
    mean, raw = ESTIMATES[..., 0].astype(np.float64), ESTIMATES[..., 1].astype(np.float64)
    std, slope = softplus(raw), 1 / (1 + np.exp(-raw))  # of the deviation by the network's number
    sampled = TARGET[None, :, 1] - mean
    if refined:
        bound = 3 * MEAN_STD[:, None]
        ratio = np.clip(MEAN_STD[:, None] ** 2 / (std**2 + 0.1), 0.1, 10)
        by_mean = ratio * (mean - TARGET[None, :, 0])
        by_std = ratio * (std**2 - huber(np.clip(sampled, -bound, bound))) / (std + 0.1)
    else:
        std = 0.5 + std
        by_mean = -sampled / std**2
        by_std = (std**2 - np.clip(sampled, -2, 2) ** 2) / std**3
    return np.stack([by_mean, by_std * slope], axis=-1) / 8


@pytest.mark.parametrize("refined", [False, True])
def test_gradients_of_the_loss(refined: bool) -> None:
    """The clipped errors reach the deviations alone (2001.02811, eq. 23), scaled by the variance in DSAC-T."""

    def slope(estimates: Any, target: Any) -> Any:
        loss: Any = partial(dsac_t.gaussian_loss, mean_std=MEAN_STD) if refined else plain
        return jax.grad(loss)(estimates, target)

    plain = partial(dsac.gaussian_loss, td_bound=2.0, std_min=0.5)
    for actual in two_ways(slope, ESTIMATES, TARGET):
        np.testing.assert_allclose(actual, gradients_by_hand(refined), rtol=2e-4, atol=1e-5)


def test_losses_themselves() -> None:
    mean, std = ESTIMATES[..., 0], softplus(ESTIMATES[..., 1])
    error, bound = TARGET[None, :, 1] - mean, 3 * MEAN_STD[:, None]
    ratio = np.clip(MEAN_STD[:, None] ** 2 / (std**2 + 0.1), 0.1, 10)
    of_std = std * (std**2 - huber(np.clip(error, -bound, bound))) / (std + 0.1)
    refined = (ratio * (huber(mean - TARGET[None, :, 0]) + of_std)).mean(1).sum()
    std = std + 0.5
    plain = ((error**2 + np.clip(error, -2, 2) ** 2) / (2 * std**2) + np.log(std)).mean(1).sum()
    for actual in two_ways(partial(dsac.gaussian_loss, td_bound=2.0, std_min=0.5), ESTIMATES, TARGET):
        np.testing.assert_allclose(actual, plain, rtol=1e-5)
    for actual in two_ways(dsac_t.gaussian_loss, ESTIMATES, TARGET, MEAN_STD):
        np.testing.assert_allclose(actual, refined, rtol=1e-5)


def test_a_deviation_settles_where_the_squared_error_is_twice_its_square() -> None:
    """In DSAC-T, as in its authors' code; where std^2 + 0.1 is the running mean's square, the ratio is 1."""
    std = np.float32(2.0)
    estimates = jnp.array([[[1.0, np.log(np.expm1(std))]]])
    target = jnp.array([[3.5, 1 + 2**0.5 * std]])
    running = jnp.sqrt(jnp.array([std**2 + 0.1]))
    gradient = jax.grad(dsac_t.gaussian_loss)(estimates, target, running)
    np.testing.assert_allclose(gradient, [[[-2.5, 0.0]]], atol=1e-5)


def test_the_target_is_of_the_critic_with_the_lowest_mean() -> None:
    """Mean and sample of one critic, sample by sample; the sample within the bound of its deviations."""
    keys = jax.random.split(jax.random.key(0), 200)
    draw = jax.jit(jax.vmap(lambda key: dsac.bootstrap(jnp.asarray(ESTIMATES), key, 3.0, 0.25)))
    mean, sample = np.moveaxis(np.asarray(draw(keys)), -1, 0)
    lowest = ESTIMATES[..., 0].argmin(0)
    assert set(lowest) == {0, 1}
    rows = np.arange(8)
    np.testing.assert_allclose(mean, np.broadcast_to(ESTIMATES[lowest, rows, 0], mean.shape))
    std = softplus(ESTIMATES[lowest, rows, 1]) + 0.25
    noise = (sample - mean) / std
    assert np.abs(noise).max() <= 3.0001 and 0.9 < noise.std() < 1.1


def stubs(module: Any) -> sac.Networks:
    """Critic i says w_i times a sum over its inputs, and that its deviation is of the constant v_i."""

    def critic(w: Any, o: Any, a: Any) -> Any:
        mean = w["mean"][:, None] * total(o, a)
        return jnp.stack([mean, jnp.broadcast_to(w["raw"][:, None], mean.shape)], axis=-1)

    nets = module.make_networks(module.Config(**SMALL), SPEC)
    return nets._replace(actor=stub(stub_policy), critic=stub(critic))


def test_targets_take_the_target_policy_and_the_running_deviation_is_saved() -> None:
    """The first running mean is the minibatch's; later ones move by std_tau. Next actions are the target policy's."""
    nets, key = stubs(dsac_t), jax.random.key(2)
    raw = np.array([0.2, 1.0], np.float32)
    weights = {"mean": jnp.array([0.5, 0.4]), "raw": jnp.asarray(raw)}
    hypers = as_arrays(dsac_t.Hypers(std_tau=0.25, gamma=0.9, reward_scale=3.0))
    half = targeted(hypers, weights, weights)
    state = dsac_t.CriticState(**vars(half), mean_std=jnp.zeros(2))
    wrong = jax.tree.map(lambda x: x + 1, POLICY)
    policy = sac.Policy(wrong, jnp.float32(-0.7), POLICY)
    update = jax.jit(partial(dsac_t.update_critic, nets))
    first, metrics = update(state, policy, BATCH, key)
    np.testing.assert_allclose(first.mean_std, softplus(raw), rtol=1e-5)
    later = state.replace(step=jnp.ones_like(state.step), mean_std=jnp.array([2.0, 3.0]))
    second, _ = update(later, policy, BATCH, key)
    np.testing.assert_allclose(second.mean_std, 0.75 * np.array([2, 3]) + 0.25 * softplus(raw), rtol=1e-5)

    _, action, log_prob = draws(key, 8)
    next_mean = (np.array([0.5, 0.4])[:, None] * total(BATCH.next_observation, action)).min(0)
    target = 3 * BATCH.reward + 0.9 * BATCH.discount * (next_mean - np.exp(-0.7) * log_prob)
    q = np.array([0.5, 0.4])[:, None] * total(BATCH.observation, BATCH.action)
    near({name: metrics[name] for name in ("q_mean", "q_std")}, {"q_mean": q.mean(), "q_std": softplus(raw).mean()})
    spread = partial(dsac_t.gaussian_loss, mean_std=jnp.asarray(softplus(raw)))
    drawn = dsac.bootstrap(
        nets.critic.apply(weights, BATCH.next_observation, action.astype(np.float32)), jax.random.fold_in(key, 1), 3.0
    )[:, 1]
    sampled = 3 * BATCH.reward + 0.9 * BATCH.discount * (drawn - np.exp(-0.7) * log_prob)
    estimates = nets.critic.apply(weights, BATCH.observation, BATCH.action)
    expected = spread(estimates, jnp.stack([target.astype(np.float32), sampled.astype(np.float32)], axis=-1))
    np.testing.assert_allclose(metrics["critic_loss"], expected, rtol=1e-4)


@pytest.mark.parametrize("module", [dsac, dsac_t])
def test_the_target_policy_follows_the_new_policy(module: Any) -> None:
    agent = module.make(module.Config(**SMALL), SPEC)
    state = jax.jit(agent.init)(jax.random.key(0), module.Hypers(tau=0.25, actor_lr=0.1))
    old = state.actor.learner
    new, _ = jax.jit(agent.update_actor)(
        state.actor, agent.critic_params(state.critic), agent.actor_batch(BATCH), jax.random.key(1)
    )
    wanted = jax.tree.map(lambda target, online: 0.75 * target + 0.25 * online, old.target_params, new.learner.params)
    near(new.learner.target_params, wanted)
    policy = agent.policy_params(new, None)
    near(policy.target_params, wanted)
