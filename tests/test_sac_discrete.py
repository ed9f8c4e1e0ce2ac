"""SAC with discrete actions: its three losses against NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import losses, policies
from rlx.agents import sac, sac_discrete
from rlx.halves import SoftActorState
from rlx.optim import Learner
from rlx.types import as_arrays
from tests import probes
from tests.loss_tools import near, normals, stub, targeted, two_ways
from tests.test_dqn import ACTION, ACTIONS, BATCH, DISCOUNT, ONLINE, REWARD, ROWS, TARGET

CONTRACT = probes.Contract(discrete=True, hypers={"alpha_init": 1e-3, "alpha_lr": 0.0, "critic_lr": 1e-2})

LOGITS, ALPHA = 2 * normals(1)(BATCH, ACTIONS), 0.3
PROBS: Any = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
LOG_PROB = (PROBS * np.log(PROBS)).sum(-1)
SAYS = stub(lambda values, observation: values)  # a network that says what its parameters are
NETS = sac_discrete.Networks(SAYS, SAYS, ACTIONS, ())
HYPERS = as_arrays(sac_discrete.Hypers(gamma=0.9, reward_scale=2.0, target_entropy_share=0.5))


def test_critic_loss() -> None:
    """Towards the expectation of the least estimate of every action, with the entropy."""

    def critic_loss(online: Any, target: Any, logits: Any) -> Any:
        half, policy = targeted(HYPERS, online, target), sac.Policy(logits, jnp.log(ALPHA))
        return sac_discrete.update_critic(NETS, half, policy, ROWS, jax.random.key(0))[1]

    target = 2 * REWARD + 0.9 * DISCOUNT * ((PROBS * TARGET.min(0)).sum(-1) - ALPHA * LOG_PROB)
    q = ONLINE[:, np.arange(BATCH), ACTION]
    expected = {"critic_loss": ((q - target) ** 2).mean(1).sum(), "q_mean": q.mean(), "target_mean": target.mean()}
    for metrics in two_ways(critic_loss, ONLINE, TARGET, LOGITS):
        near(metrics, expected)


def test_actor_and_alpha_loss() -> None:

    def actor_loss(logits: Any, values: Any) -> Any:
        log_alpha = Learner.create(jnp.log(jnp.float32(ALPHA)))
        half = SoftActorState.create(HYPERS, Learner.create(logits), log_alpha=log_alpha)
        return sac_discrete.update_actor(NETS, half, values, ROWS, jax.random.key(0))[1]

    loss = (PROBS * (ALPHA * np.log(PROBS) - ONLINE.min(0))).sum(-1).mean()
    alpha_loss = -np.log(ALPHA) * (LOG_PROB.mean() + 0.5 * np.log(ACTIONS))
    expected = {"actor_loss": loss, "entropy": -LOG_PROB.mean(), "alpha_loss": alpha_loss, "alpha": ALPHA}
    for metrics in two_ways(actor_loss, LOGITS, ONLINE):
        near(metrics, jax.tree.map(np.float32, expected))


def test_an_impossible_action_costs_nothing() -> None:
    """log(softmax) of the logits 0 and -200 would be -inf, and its product with the probability 0 NaN."""

    def loss(logits: Any) -> Any:
        probs, log_prob = policies.probabilities(SAYS, logits, jnp.zeros(1))
        return losses.soft_actor_loss(jnp.sum(probs * jnp.array([1.0, 2.0]), -1)[None], log_prob[None], 0.5)

    value, slope = jax.value_and_grad(loss)(jnp.array([0.0, -200.0]))
    assert value == -1.0 and np.isfinite(slope).all()
