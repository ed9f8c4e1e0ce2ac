"""ACE: the model of rewards, weights of entropies, losses with them by hand, dormancy, soft resets, and SAC as a
special case."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents import ace, sac
from rlx.optim import Learner
from rlx.types import as_arrays
from tests import probes
from tests.loss_tools import SMALL, SPEC, learn_abreast, near, normals, stub, targeted, transitions, two_ways
from tests.test_sac import BATCH, LOG_ALPHA, ONLINE, POLICY, STUBS, TARGET, draws, total

CONTRACT = probes.Contract(
    config={"reset_every": 500}, hypers={"alpha_init": 1e-3, "alpha_lr": 0.0}, updates=1200, slow_probes=True
)
HYPERS = as_arrays(ace.Hypers(gamma=0.9, reward_scale=3.0, weight_temperature=2.0, reward_model_lr=0.1))
WEIGHTS = np.array([0.5, 1.5], np.float32)
KEY = jax.random.key(3)


def weighted(noise: np.ndarray, action: np.ndarray) -> Any:
    """sum_i w_i log pi_i of the stub policy, by change of variables."""
    of_each = -(noise**2) / 2 - POLICY["log_std"] - np.log(2 * np.pi) / 2 - np.log1p(-(action**2))
    return (WEIGHTS * of_each).sum(-1)


def test_weights_grow_with_the_size_of_the_effect_and_not_with_its_sign() -> None:
    for weights in two_ways(ace.entropy_weights, np.float32([0.0, 2.0, -4.0]), 2.0):
        np.testing.assert_allclose(weights, 3 * np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum(), rtol=1e-6)


def test_the_model_of_rewards_finds_a_linear_effect() -> None:
    rows = transitions(normals(1), 256)
    reward = 0.5 + rows.observation @ np.float32([1, 0, -1]) + rows.action @ np.float32([2, -0.5])
    rows = rows._replace(reward=reward.astype(np.float32))
    loss, _ = ace.reward_loss({"observation": np.zeros(3), "action": np.zeros(2), "bias": np.zeros(())}, rows)
    np.testing.assert_allclose(loss, 0.5 * (reward**2).mean(), rtol=1e-5)

    def fit(learner: Any) -> Any:
        return jax.lax.fori_loop(
            0, 1000, lambda i, at: at.step(lambda params: ace.reward_loss(params, rows), 0.02)[0], learner
        )

    zeros = {"observation": jnp.zeros(3), "action": jnp.zeros(2), "bias": jnp.zeros(())}
    found = jax.jit(fit)(Learner.create(zeros)).params
    near(found, {"observation": [1.0, 0.0, -1.0], "action": [2.0, -0.5], "bias": 0.5}, rtol=0, atol=0.02)


def test_losses_have_the_weighted_entropy() -> None:
    policy = ace.Policy(POLICY, LOG_ALPHA, WEIGHTS, np.float32(0))
    noise, action, _ = draws(KEY, 8)
    density = weighted(noise, action)
    next_q = np.min(TARGET[:, None] * total(BATCH.next_observation, action), axis=0)
    target = 3 * BATCH.reward + 0.9 * BATCH.discount * (next_q - np.exp(LOG_ALPHA) * density)
    critic = ace.CriticState.create(HYPERS, targeted(HYPERS, ONLINE, TARGET).learner, reset_seed=np.int32(0))
    effects = {"observation": np.zeros(3), "action": np.array([0.0, -2 * np.log(3)]), "bias": np.zeros(())}
    actor = ace.ActorState.create(
        HYPERS,
        Learner.create({**POLICY, "layer": np.zeros((2, 2))}),
        log_alpha=Learner.create(LOG_ALPHA),
        reward_model=Learner.create(as_arrays(effects)),
        reset_seed=np.int32(0),
    )
    actor = actor.replace(hypers=HYPERS.replace(reward_model_lr=jnp.float32(0.0)))  # effects whose weights are WEIGHTS

    def metrics(critic: Any, actor: Any) -> Any:
        reports = ace.update_critic(STUBS, 0, critic, policy, BATCH, KEY)[1]
        return reports | ace.update_actor(STUBS, 0, actor, ONLINE, BATCH, KEY)[1]

    value = (ONLINE[:, None] * total(BATCH.observation, action)).min(0)
    for report in two_ways(metrics, critic, actor):
        np.testing.assert_allclose(report["target_mean"], target.mean(), rtol=1e-4)
        np.testing.assert_allclose(report["largest_weight"], 1.5, rtol=1e-4)
        np.testing.assert_allclose(report["actor_loss"], (np.exp(LOG_ALPHA) * density - value).mean(), rtol=1e-4)


def test_neurons_without_gradient_are_dormant() -> None:
    gradients = {"a": np.ones((3, 4), np.float32), "b": np.ones(4, np.float32), "c": np.ones((4, 2), np.float32)}
    gradients["a"][:, 1], gradients["c"][:, 0] = 0.02, 0.06
    learner, _ = Learner.create(jax.tree.map(jnp.zeros_like, gradients)).step(
        lambda params: (jnp.float32(sum(jnp.vdot(gradients[name], params[name]) for name in gradients)), None), 1.0
    )
    np.testing.assert_allclose(ace.dormant_share(learner.opt_state), 1 / 6)


@pytest.mark.parametrize(("dormant", "kept"), [(0.0, 0.9), (0.3, 0.7), (1.0, 0.2)])
def test_a_reset_keeps_less_where_more_is_dormant(dormant: float, kept: float) -> None:
    """Every third update; target networks likewise; the optimiser begins anew."""
    network = stub(None)._replace(init=lambda key: {"w": jax.random.normal(key, (2,))})
    learner = Learner.create({"w": jnp.float32([1, 2])}, target=True).replace(target_params={"w": jnp.float32([3, 4])})
    state = ace.CriticState.create(HYPERS, learner, reset_seed=jnp.int32(5))
    reset = jax.jit(lambda state: ace.soft_reset(state, network, jnp.float32(dormant), 3))
    fresh = jax.random.normal(jax.random.fold_in(jax.random.key(5), 6), (2,))
    same = reset(state.replace(step=jnp.int32(7)))
    near(same.learner, learner, rtol=0, atol=0)
    new = reset(state.replace(step=jnp.int32(6))).learner
    near(new.params["w"], kept * np.float32([1, 2]) + (1 - kept) * fresh)
    near(new.target_params["w"], kept * np.float32([3, 4]) + (1 - kept) * fresh)
    near(new.opt_state, Learner.create(learner.params).opt_state, rtol=0, atol=0)


def test_with_equal_weights_and_no_resets_it_is_sac() -> None:
    ours, theirs = (
        module.make(module.Config(**SMALL, **options), SPEC)
        for module, options in ((ace, {"reset_every": 0}), (sac, {}))
    )
    hypers = {"actor_lr": 0.01, "alpha_init": 0.5}
    states = [ours.init(jax.random.key(0), ace.Hypers(**hypers, weight_temperature=1e9))]
    states.append(theirs.init(jax.random.key(0), sac.Hypers(**hypers)))
    states, _ = learn_abreast([ours, theirs], states, BATCH)
    near(states[0].critic.learner.params, states[1].critic.learner.params, rtol=1e-4, atol=1e-5)
    near(states[0].actor.learner.params, states[1].actor.learner.params, rtol=1e-4, atol=1e-5)
