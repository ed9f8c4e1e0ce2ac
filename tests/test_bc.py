"""Behaviour cloning: the most likely Gaussian of the data, learnt without a value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import networks
from rlx.agents import bc
from rlx.types import Spec, State, Transition

SPEC = Spec(jax.ShapeDtypeStruct((1,), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32), 100)
RNG = np.random.default_rng(0)


def gaussian(width: int) -> networks.Network:
    return networks.make_gaussian_policy(SPEC, (width,), state_dependent_std=False)


def demonstrations(*shape: int) -> Transition:
    """Actions around (0.5 s, -0.2) with deviations 0.1 and 0.3; rewards that must not matter."""
    place = RNG.choice([-1.0, 1.0], shape).astype(np.float32)
    mean = np.stack([0.5 * place, np.full(shape, -0.2)], -1)
    action = (mean + RNG.normal(size=mean.shape) * [0.1, 0.3]).astype(np.float32)
    zeros = np.zeros(shape, np.float32)
    return Transition(place[..., None], action, zeros + np.nan, zeros, place[..., None])


def test_the_gaussian_of_the_data() -> None:
    agent = bc.make(bc.Config(actor_hidden_sizes=(32,)), SPEC)

    @jax.jit
    def learn(data: Transition) -> tuple[jax.Array, State]:
        def step(state: State, batch: Transition) -> tuple[State, jax.Array]:
            state, metrics = agent.update(state, batch, jax.random.key(0))
            return state, metrics["actor_loss"]

        state, loss = jax.lax.scan(step, agent.init(jax.random.key(0), bc.Hypers(actor_lr=5e-3)), data)
        return loss, state

    loss, state = learn(demonstrations(1500, 64))
    policy, places = agent.acting_params(state), jnp.array([[-1.0], [1.0]])
    greedy, _ = agent.act_greedy(policy, places, jax.random.key(0))
    np.testing.assert_allclose(greedy, [[-0.5, -0.2], [0.5, -0.2]], atol=0.06)
    _, log_std = gaussian(32).apply(policy, places)
    np.testing.assert_allclose(jnp.exp(log_std[0]), [0.1, 0.3], rtol=0.15)
    entropy = np.log([0.1, 0.3]).sum() + np.log(2 * np.pi) + 1
    np.testing.assert_allclose(loss[-300:].mean(), entropy, atol=0.05)
    assert int(state.critic.step) == int(state.actor.step) == 1500


def test_its_loss_is_the_mean_log_probability() -> None:
    """Against means [B, A] actions [A], or [B] where A is 1, would broadcast: they are refused."""
    agent, batch = bc.make(bc.Config(actor_hidden_sizes=(8,)), SPEC), demonstrations(5)
    state = jax.jit(agent.init)(jax.random.key(1))
    mean, log_std = gaussian(8).apply(state.actor.learner.params, batch.observation)
    z = (batch.action - np.tanh(mean)) / np.exp(log_std)
    expected = (0.5 * z**2 + log_std + 0.5 * np.log(2 * np.pi)).sum(-1).mean()
    _, metrics = jax.jit(agent.update_actor)(state.actor, None, batch, jax.random.key(0))
    np.testing.assert_allclose(metrics["actor_loss"], expected, rtol=1e-5)
    for action in (batch.action[0], batch.action[:, :1], batch.action[:, 0]):
        with pytest.raises(AssertionError, match="shape"):
            jax.eval_shape(agent.update, state, batch._replace(action=action), jax.random.key(0))
