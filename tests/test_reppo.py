"""REPPO: soft returns, both losses and the dual variables against NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from rlx import categorical, halves
from rlx.agents import reppo
from rlx.distributions import gaussian_divergence
from rlx.halves import HalfState
from rlx.optim import Learner
from rlx.replay import Row
from rlx.types import Transition, as_arrays
from tests import probes
from tests.loss_tools import near, normals, stub, tanh_log_prob, two_ways

CONTRACT = probes.Contract(
    config={"num_atoms": 31, "layer_norm": False},  # a LayerNorm would make 0 of the one number that is observed
    updates=1000,
    hypers={"alpha_init": 0.01, "dual_lr": 0.0, "max_kl": 10.0, "v_min": -6.0, "v_max": 6.0, "max_gradient_norm": 10.0},
)

STEPS, ENVS, ATOMS = 5, 2, 21
normal = normals()
HYPERS = as_arrays(reppo.Hypers(gamma=0.9, td_lambda=0.8, reward_scale=2.0, v_min=-4.0, v_max=4.0, max_kl=0.1))
SUPPORT = np.linspace(-4, 4, ATOMS)
LOG_STD, ALPHA = -0.5, 0.3
# the actor's mean is the observation; a critic's distribution has its mass where its parameters say, whatever it reads
ACTOR = stub(lambda shift, observation: (observation + shift, jnp.full_like(observation, LOG_STD)))
CRITIC = stub(lambda logits, observation, action: logits + 0 * action[None, ..., :1])
NETS = reppo.Networks(ACTOR, CRITIC, ATOMS, 1, ())


def test_soft_returns_have_no_entropy_after_the_end() -> None:
    """That of the successor's action is part of every other step's reward, at a time limit too."""
    reward, following, noise = normal(STEPS, ENVS), normal(STEPS, ENVS, 1), normal(STEPS, ENVS, 1)
    terminated, truncated = np.zeros((2, STEPS, ENVS), bool)
    terminated[1, 0] = truncated[2, 1] = True
    logits = normal(1, 1, 1, ATOMS)
    value = (np.exp(logits) / np.exp(logits).sum() @ SUPPORT).item()

    def targets(reward: Any, following: Any) -> Any:
        rows = Row(None, None, reward, terminated, truncated, following)
        policy = reppo.Policy(jnp.zeros(1), jnp.log(ALPHA), logits, HYPERS)
        info = {"mean": noise, "log_std": noise, "next_noise": noise}
        return reppo.record(NETS, policy, rows, info)["value_target"]

    log_prob = tanh_log_prob(following, LOG_STD, np.tanh(following + np.exp(LOG_STD) * noise.astype(np.float64)))
    expected = np.zeros((STEPS, ENVS))
    for t, e in reversed(list(np.ndindex(STEPS, ENVS))):
        later = value
        if t < STEPS - 1 and not truncated[t, e]:
            later = 0.2 * value + 0.8 * expected[t + 1, e]
        expected[t, e] = 2 * reward[t, e] + 0.9 * (later - ALPHA * log_prob[t, e]) * (not terminated[t, e])
    for actual in two_ways(targets, reward, following):
        near(actual, expected, rtol=1e-4, atol=1e-4)


def test_critic_loss_is_a_cross_entropy_with_histograms() -> None:
    target: Any = np.array([-9.0, 0.13, 1.0], np.float32)
    logits = normal(1, 3, ATOMS)
    half = HalfState.create(HYPERS, Learner.create(jnp.asarray(logits), halves.limited_adam(HYPERS)))
    nothing = jnp.zeros((3, 1))
    batch = Transition(nothing, nothing, None, None, nothing, {"value_target": target})

    def metrics(target: Any) -> Any:
        with_target = batch._replace(extras={"value_target": target})
        return reppo.update_critic(NETS, half, None, with_target, jax.random.key(0))[1]

    edges = np.linspace(-4.2, 4.2, ATOMS + 1)
    mass = np.diff(stats.norm.cdf((edges - np.clip(target, -4, 4)[:, None]) / (0.75 * 0.4)))
    mass /= mass.sum(-1, keepdims=True)
    log_probs = logits[0] - np.log(np.exp(logits[0]).sum(-1, keepdims=True))
    for actual in two_ways(metrics, target):
        near(actual["critic_loss"], -(mass * log_probs).sum(-1).mean(), rtol=1e-4)
        near(actual["q_mean"], (np.exp(log_probs) @ SUPPORT).mean(), rtol=1e-4)
    near(
        categorical.histogram(jnp.float32([0.13, -2.5]), jnp.asarray(SUPPORT, jnp.float32), 0.75) @ SUPPORT,
        [0.13, -2.5],
        atol=1e-4,
    )


def test_the_actor_leaves_the_behaviour_only_by_so_much() -> None:
    """Of two rows, one is nearer than the bound and improves, the other goes back; then both weights follow."""
    observation, old_log_std = normal(2, 1), np.full((2, 1), -0.4, np.float32)
    old_mean = observation + np.array([[0.1], [3.0]], np.float32)
    logits = normal(1, 1, ATOMS)
    extras = {"mean": old_mean, "log_std": old_log_std}
    batch = Transition(observation, None, None, None, None, extras)
    duals = {"log_alpha": Learner.create(jnp.log(ALPHA)), "log_kl_weight": Learner.create(jnp.log(0.7))}
    half = reppo.ActorState.create(HYPERS, Learner.create(jnp.zeros(1), halves.limited_adam(HYPERS)), **duals)
    key = jax.random.key(3)
    metrics = jax.jit(lambda half: reppo.update_actor(NETS, half, logits, batch, key))(half)[1]

    old, new = np.exp(2 * -0.4), np.exp(2 * LOG_STD)
    kl = (LOG_STD + 0.4 + (old + (old_mean - observation) ** 2) / (2 * new) - 0.5)[:, 0]
    assert kl[0] < 0.1 < kl[1]
    near(
        gaussian_divergence((old_mean, old_log_std), (observation, np.full((2, 1), LOG_STD, np.float32))), kl, rtol=1e-4
    )
    from rlx.distributions import TanhNormal

    _, log_prob = TanhNormal(jnp.asarray(observation), jnp.full((2, 1), LOG_STD)).sample_and_log_prob(seed=key)
    q = np.exp(logits[0, 0]) / np.exp(logits[0, 0]).sum() @ SUPPORT
    expected = (ALPHA * log_prob[0] - q + 0.7 * kl[1]) / 2
    near((metrics["actor_loss"], metrics["kl"]), (expected, kl.mean()), rtol=1e-4)
    near(metrics["alpha_loss"], -ALPHA * (log_prob.mean() - 0.5), rtol=1e-4)
    near(metrics["kl_weight_loss"], 0.7 * (0.1 - kl.mean()), rtol=1e-4)
