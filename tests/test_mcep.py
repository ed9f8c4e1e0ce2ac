"""MCEP: one loss with two weights, critics that never see the evaluation policy, and evaluation that sees only it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents import mcep, td3, td3_bc
from rlx.types import State
from tests import probes
from tests.loss_tools import BATCHES, SMALL, SPEC, near

CONTRACT = probes.Contract(hypers={"q_weight": 50.0, "evaluation_q_weight": 100.0})

AGENT = mcep.make(mcep.Config(**SMALL), SPEC)


@pytest.mark.usefixtures("plain_descent")
def test_each_policy_has_its_own_weight() -> None:
    """The target policy's step is TD3+BC's; so is the evaluation policy's actor_loss, with the other weight."""
    hypers = mcep.Hypers(q_weight=2.0, evaluation_q_weight=8.0, actor_lr=0.5)
    state: State = jax.jit(AGENT.init)(jax.random.key(0), hypers)
    nets = td3_bc.make_networks(mcep.Config(**SMALL), SPEC)
    value = AGENT.critic_params(state.critic)
    new, metrics = jax.jit(AGENT.update_actor)(state.actor, value, BATCHES, jax.random.key(1))
    for learner, actual, weight, prefix in (
        (state.actor.learner, new.learner, 2.0, ""),
        (state.actor.evaluation, new.evaluation, 8.0, "evaluation_"),
    ):
        half = td3.HalfState.create(td3_bc.Hypers(q_weight=weight, actor_lr=0.5), learner)
        expected, said = jax.jit(lambda half: td3.update_actor(nets, half, value, BATCHES, jax.random.key(1)))(half)
        near(actual.params, expected.learner.params)
        np.testing.assert_allclose(metrics[f"{prefix}actor_loss"], said["actor_loss"], rtol=1e-5)
    assert new.evaluation.target_params is None


def test_only_evaluation_reads_the_evaluation_policy() -> None:
    state: State = jax.jit(AGENT.init)(jax.random.key(0))
    other = state.actor.replace(evaluation=jax.tree.map(lambda x: x + 1, state.actor.evaluation))
    value = AGENT.critic_params(state.critic)
    update = jax.jit(AGENT.update_critic)
    both = [AGENT.policy_params(actor, value) for actor in (state.actor, other)]
    critics = [update(state.critic, policy, BATCHES, jax.random.key(1))[0] for policy in both]
    jax.tree.map(np.testing.assert_array_equal, *critics)
    explored, greedy = (
        [act(policy, jnp.ones(3), jax.random.key(2))[0] for policy in both] for act in (AGENT.act, AGENT.act_greedy)
    )
    np.testing.assert_array_equal(*explored)
    assert (greedy[0] != greedy[1]).any()
