"""IFQL: IDQL with a flow: its loss and samples are the flow's, the best sample is taken, and nothing is averaged."""

import jax
import jax.numpy as jnp
import numpy as np

from rlx import diffusion, policies
from rlx.agents import idql, ifql
from rlx.types import State
from tests import probes
from tests.loss_tools import BATCHES, SMALL, SPEC, stub

CONTRACT = probes.Contract(
    config={"layer_norm": False, "value_layer_norm": False, "flow_steps": 4, "num_samples": 64}, samples=True
)


def test_actor_loss_and_samples_are_the_flow_s() -> None:
    agent = ifql.make(ifql.Config(**SMALL, flow_steps=3, num_samples=5), SPEC)
    state: State = jax.jit(agent.init)(jax.random.key(0))
    assert state.actor.learner.target_params is None
    new, metrics = jax.jit(agent.update_actor)(state.actor, None, BATCHES, jax.random.key(1))
    flow = ifql.networks.make_velocity(SPEC, (16,), activation="gelu")

    def velocity(x: jax.Array, time: jax.Array) -> jax.Array:
        return flow.apply(
            state.actor.learner.params, jnp.broadcast_to(BATCHES.observation, (*x.shape[:-1], 3)), x, time
        )

    loss = diffusion.flow_loss(velocity, jnp.asarray(BATCHES.action), jax.random.key(1))
    np.testing.assert_allclose(metrics["actor_loss"], loss, rtol=1e-5)
    drawn = policies.flow_samples(flow, 3, 2, state.actor.learner.params, BATCHES.observation, 5, jax.random.key(2))
    noise = jax.random.normal(jax.random.key(2), (5, len(BATCHES.reward), 2))
    np.testing.assert_allclose(drawn, diffusion.flow(velocity, noise, 3), rtol=1e-5, atol=1e-6)
    policy = agent.policy_params(new, agent.critic_params(state.critic))
    jax.tree.map(np.testing.assert_array_equal, policy.model_params, new.learner.params)


def test_the_best_of_the_samples_is_taken_to_explore_too() -> None:
    """Critics that like the first number of an action: of every observation's candidates the one with the largest."""
    config = ifql.Config(**SMALL, num_samples=5)
    agent = ifql.make(config, SPEC)
    nets = idql.iql.make_critic_networks(config, SPEC)._replace(critic=stub(lambda p, o, a: a[None, ..., 0]))
    candidates = np.random.default_rng(0).uniform(-1, 1, (5, 4, 2)).astype(np.float32)
    both = idql.Networks(nets, None, None, lambda *_: jnp.asarray(candidates), None, None, None, ())
    state = agent.init(jax.random.key(0))
    value = agent.critic_params(state.critic)
    policy = idql.Policy(None, value, state.actor.hypers)
    action, _ = idql.act(both, 5, True, policy, jnp.zeros((4, 3)), jax.random.key(1))
    best = candidates[..., 0].argmax(0)
    np.testing.assert_array_equal(action, candidates[best, np.arange(4)])
    acting = agent.acting_params(state)
    explored, greedy = (act(acting, jnp.zeros((4, 3)), jax.random.key(2))[0] for act in (agent.act, agent.act_greedy))
    np.testing.assert_array_equal(explored, greedy)
