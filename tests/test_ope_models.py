"""Off-policy evaluation: what estimators take from models -- values, marginal weights, abstract processes, kernels."""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import data
from rlx.ope import deterministic, estimators, learning, marginal, star
from rlx.ope.estimators import make_batch
from tests.loss_tools import near, three_ways

GAMMA = 0.5


@jax.jit
def every(batch: Any, gamma: Any, weights: Any) -> Any:
    return {name: estimate(batch, gamma, weights) for name, estimate in estimators.ESTIMATORS.items()}


class Chain:
    """Action 1 has probability 0.5 in the data and 0.9 by the policy; all episodes of two steps, once.

    An action leads to the state of its name, from state 0; reward = action + state, gamma = 1/2. With p = 0.9 the
    policy's J is p + gamma 2 p = 1.8.
    """

    actions = np.array(list(itertools.product([0, 1], repeat=2)))
    state = np.stack([np.zeros(4, int), actions[:, 0]], axis=1)
    reward = actions + state
    ratio = np.where(actions == 1, 0.9, 0.1) / 0.5
    visits = np.stack([np.ones(4), ratio[:, 0]], axis=1)  # of (time, state) by the policy, over the data's
    true = 1.8

    @classmethod
    def batch(cls, q: Any, right: bool = True) -> Any:
        """With the Q of a table `[time, state, action]` and V = 0.9 Q(1) + 0.1 Q(0)."""
        v = q @ np.array([0.1, 0.9])
        time = np.arange(2)
        of_state = cls.visits * GAMMA**time if right else np.array([0.3, 3.0])[cls.actions]
        log_ratio = np.log(cls.ratio) if right else np.array([0.2, -0.4])[cls.actions]
        parts = log_ratio, q[time, cls.state, cls.actions], v[time, cls.state], of_state * np.exp(log_ratio), of_state
        return make_batch(cls.reward, np.ones((4, 2), bool), *parts)


def test_doubly_robust_estimates_are_exact_for_either_truth() -> None:
    """Right ratios with any Q whose V is its mean over the policy, or the right Q with any ratios."""
    table = np.array([[0.0, 1], [1, 2]])  # of the last step, [state, action]
    right_q = np.stack([np.tile([0.9 * GAMMA, 1 + 1.9 * GAMMA], (2, 1)), table])
    ones, robust = np.ones(4), ("DR", "MDR", "SMDR")
    near(every(Chain.batch(right_q), GAMMA, ones), dict.fromkeys(estimators.ESTIMATORS, Chain.true))
    wrong = every(Chain.batch(right_q, right=False), GAMMA, ones)
    near({name: wrong[name] for name in (*robust, "DM")}, dict.fromkeys((*robust, "DM"), Chain.true))
    assert abs(wrong["MIS"] - Chain.true) > 0.1 and abs(wrong["PDIS"] - Chain.true) > 0.1
    wrong = every(Chain.batch(np.random.default_rng(0).normal(size=(2, 2, 2))), GAMMA, ones)
    near({name: wrong[name] for name in robust}, dict.fromkeys(robust, Chain.true))
    assert abs(wrong["DM"] - Chain.true) > 0.1


@pytest.mark.parametrize("what", ["state and action", "state"])
def test_minimax_weights_are_the_ratio_of_visits(what: str) -> None:
    """One-hot features of time, state and, of the first kind, action; from them MDR is exact with any Q."""
    of_action = what == "state and action"

    def one_hot(state: np.ndarray, action: Any) -> np.ndarray:
        return np.eye(8)[4 * np.array([0, 1]) + 2 * state + (action if of_action else 0)]  # [4, 2, 8]

    taken = one_hot(Chain.state, Chain.actions)
    policy = 0.9 * one_hot(Chain.state, 1) + 0.1 * one_hot(Chain.state, 0)
    going_on = (1.0 if of_action else Chain.ratio) * np.array([1.0, 0.0])
    following = np.roll(policy, -1, axis=1) * going_on[..., None]
    rows = (taken, taken - GAMMA * following, np.tile(GAMMA ** np.arange(2), (4, 1)))
    features, change, base = (x.reshape(8, *x.shape[2:]) for x in rows)
    visits = Chain.visits * (Chain.ratio if of_action else 1)
    for actual in three_ways(marginal.minimax_weights, features, change, policy[:, 0], base, 1e-9):
        near(actual, base * visits.reshape(8))
    near(marginal.minimax_weights(features, change, policy[:, 0], base, 1e9), base)  # hardly any data: those of mu


def test_the_cosine_of_features() -> None:
    x = np.linspace(-12, 12, 4001)
    for actual in three_ways(marginal.cosine, x.astype(np.float32)):
        np.testing.assert_allclose(actual, np.cos(x), atol=3e-6)


def test_weights_made_in_blocks_are_those_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 episodes of two steps, of which the last block of 16 has 8 rows; two actions for each next observation."""
    monkeypatch.setattr(learning, "BLOCK", 16)
    rng, key, number = np.random.default_rng(0), jax.random.key(5), 4
    state, after, taken = (rng.normal(size=(40, 2)), rng.normal(size=(40, 2)), rng.normal(size=(40, 1, 1)))
    drawn, weight, base = rng.normal(size=(40, 2, 1)), np.tile([0.8, 0], 20), np.tile([1, GAMMA], 20)
    first, unit = np.arange(0, 40, 2), (np.full(3, 0.1), np.full(3, 2.0))
    args = (state, after, state[first]), (taken, drawn, drawn[first]), unit, weight, base, GAMMA
    actual = learning._weights(*jax.tree.map(lambda x: np.asarray(x, np.float32), args), key, number)

    def features(state: Any, action: Any) -> Any:
        rows = [(np.concatenate([state, action[:, k]], axis=1) - 0.1) / 2 for k in range(action.shape[1])]
        return np.mean([marginal.fourier_features(x, key, number) for x in rows], axis=0)

    here = features(state, taken)
    change = here - GAMMA * weight[:, None] * features(after, drawn)
    near(actual, marginal.minimax_weights(here, change, features(state[first], drawn[first]), base), rtol=1e-3)


def powers(x: Any) -> jax.Array:
    return jnp.concatenate([jnp.ones_like(x), x, x**2], axis=-1)


def test_the_value_of_a_deterministic_policy_and_its_gradient() -> None:
    """Reward -(a - s)^2, so that with a = g s J = -(g - 1)^2: with the class of Q exactly, whatever the kernel; without
    it by the kernel, whose width h costs h^2."""
    state, action = jax.random.normal(jax.random.key(0), (2, 3000, 1, 1))
    reward, density = -jnp.square(action - state)[..., 0], jax.scipy.stats.norm.logpdf(action[..., 0])
    ones = jnp.ones(reward.shape)
    episodes = deterministic.Episodes(state, state, action, reward, ones > 0, 0 * ones, density)

    def of_action(state: Any, action: Any) -> jax.Array:
        return jnp.concatenate([powers(state), action, action**2, state * action], axis=-1)

    def value(gain: Any, model: deterministic.Model) -> jax.Array:
        return deterministic.value(lambda s: gain * s, episodes, model, 1.0)

    right = deterministic.Model(powers, of_action, 0.3, 1e-9, bounded=False)
    exact = np.mean(np.square(state)) * np.array([-0.25, 1.0])
    np.testing.assert_allclose(jax.jit(jax.value_and_grad(partial(value, model=right)))(0.5), exact, rtol=2e-3)
    wrong = right._replace(of_action=lambda state, action: jnp.ones_like(action))
    actual = jax.jit(jax.value_and_grad(partial(value, model=wrong)))(0.5)
    np.testing.assert_allclose(actual, [-0.25 - 0.09, 1.0], atol=0.3)


def test_weights_of_a_deterministic_policy_follow_its_actions() -> None:
    """Over two steps they satisfy sum_t d(s_t) (f(s_t) - gamma rho_t f(s_t+1)) = f(s_0) for every feature f."""
    state, after, action = jax.random.normal(jax.random.key(1), (3, 50, 2, 1))
    density, ones = jax.scipy.stats.norm.logpdf(action[..., 0]), jnp.ones((50, 2))
    episodes = deterministic.Episodes(state, after, action, ones, ones > 0, ones, density)
    model = deterministic.Model(powers, lambda state, action: powers(action), 0.5, 1e-9, bounded=False)
    batch = deterministic.fit(lambda s: 0.5 * s, episodes, model, GAMMA)
    lost = powers(state) - GAMMA * jnp.exp(batch.log_ratio)[..., None] * powers(after)
    near(jnp.sum(batch.of_state[..., None] * lost, axis=(0, 1)), jnp.sum(powers(state[:, 0]), axis=0), rtol=1e-2)


# Abstract reward processes


def test_star_by_hand() -> None:
    """From state 0, action 1 pays 1 and goes on to state 1, which pays 2 and ends; action 0 ends at once.

    Ratios are 1.8 for action 1 and 0.2 for action 0, each taken in half of the episodes; state 1 has ratio 1:
    P(0, 1) = 0.9, r(0) = 0.9, r(1) = 2. One cluster for both with all ratios: 1.8 steps of 2, 0.2 of 1. With a limit
    of 2, what follows the second step is not known, and the first goes on with 3.6 of 4.
    """
    mask = np.array([[1, 1], [1, 0], [1, 1], [1, 0]], bool)
    log_ratio = np.log([[1.8, 1.0], [0.2, 1], [1.8, 1], [0.2, 1]])
    batch = make_batch(np.array([[1.0, 2], [0, 0], [1, 2], [0, 0]]), mask, log_ratio)
    state, single = np.array([[0, 1]] * 4), np.zeros((4, 2), int)

    def both(batch: Any, state: Any, single: Any, weights: Any) -> Any:
        return [
            star.value(batch, state, 2, 1, GAMMA, weights),
            star.value(batch, single, 1, 2, GAMMA, weights),
            star.value(batch, single, 1, 2, GAMMA, weights, 2),
            star.value(batch, single, 1, 2, GAMMA, weights, 3),
            star.window_weights(batch, 2),
        ]

    stays, reward = 3.6 / 7.6, (3.6 + 7.2) / 7.6  # weights 1.8, 1.8; 0.2; twice
    ends = reward / (1 - GAMMA * stays), reward * (1 + GAMMA * 0.9), reward * (1 + GAMMA * stays + (GAMMA * stays) ** 2)
    expected = [0.9 + GAMMA * 0.9 * 2, *ends, [[1.8, 1.8], [0.2, 0]] * 2]
    for actual in three_ways(both, batch, state, single, np.ones(4)):
        near(actual, expected)


def test_clusters_are_the_groups_of_rows() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 2)) * 0.1 + np.repeat([[0, 0], [5, 0], [0, 5]], 30, axis=0)
    _, member = jax.jit(lambda x: star.cluster(x, jax.random.key(3), 3))(x)
    groups = {tuple(np.unique(np.asarray(member)[i : i + 30])) for i in (0, 30, 60)}
    assert len(groups) == 3 and all(len(group) == 1 for group in groups)


def test_clusters_of_many_rows_are_those_of_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three groups of rows, whose centres are learnt from a third of them."""
    x = np.random.default_rng(0).normal(size=(90, 2)) * 0.1 + np.repeat([[0, 0], [5, 0], [0, 5]], 30, axis=0)
    columns = {name: np.zeros(90) for name in ("reward", "terminated", "truncated")}
    rows = data.make_dataset({}, observation=x, action=np.zeros((90, 1)), next_observation=x, **columns)
    monkeypatch.setattr(learning, "CLUSTERED", 30)
    groups = {tuple(np.unique(learning.abstract_states(rows, 3)[i : i + 30])) for i in (0, 30, 60)}
    assert len(groups) == 3 and all(len(group) == 1 for group in groups)
