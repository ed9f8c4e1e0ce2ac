"""SRPO: the policy's slope by hand, the density's mode where the value is flat, and what it takes from other runs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import diffusion
from rlx.agents import idql, iql, srpo
from rlx.optim import Learner
from rlx.types import State, as_arrays
from tests import probes
from tests.loss_tools import BATCH, BATCHES, SMALL, SPEC, same, stub, two_ways

CONTRACT = probes.Contract(
    config={"score_width": 8, "score_blocks": 1, "time_features": 4, "diffusion_steps": 5},
    hypers={"q_weight": 30.0},
)

KEY = jax.random.key(0)
SCHEDULE = diffusion.vp_schedule(4)
SIZES: dict[str, Any] = {"score_width": 8, "score_blocks": 1, "time_features": 4, "diffusion_steps": 4}
CONFIG = srpo.Config(**SMALL, **SIZES, actor_decay_steps=-1)


def make_stubs(score: Any) -> srpo.Networks:
    """The policy is p s, the critics' values w . a and three times that."""
    critic = iql.make_critic_networks(CONFIG, SPEC)._replace(
        critic=stub(lambda w, o, a: jnp.stack([w * a.sum(-1), 3 * w * a.sum(-1)]))
    )
    return srpo.Networks(critic, stub(lambda p, o: p * o[..., :2]), stub(score), SCHEDULE, CONFIG, axes=())


def updated(nets: srpo.Networks, p: Any, v: Any, w: Any, key: Any, **hypers: Any) -> Any:
    start = as_arrays(srpo.Hypers(**hypers))
    half = srpo.ActorState.create(start, Learner.create(p), behaviour=Learner.create(v))
    return srpo.update_actor(nets, half, iql.Value(w, None), BATCHES, key)


@pytest.mark.usefixtures("plain_descent")
def test_actor_loss() -> None:
    """The policy's slope is that of (1 - alpha_bar) (predicted - noise) . a - beta mean Q with the factor fixed; the
    score network's that of its loss on the data, by its own rate."""
    nets = make_stubs(lambda v, o, x, t: v * x * (1 + t.astype(x.dtype)[:, None]))
    slope_key, score_key = jax.random.split(KEY)
    time_key, noise_key = jax.random.split(slope_key)
    t = np.asarray(jax.random.randint(time_key, (BATCH,), 0, 4))
    z, bar = np.asarray(jax.random.normal(noise_key, (BATCH, 2))), SCHEDULE.alpha_bar[t][:, None]
    p, v, w, beta = np.float32(0.3), np.float32(0.2), np.float32(0.7), 0.5
    s = BATCHES.observation[:, :2]
    factor = (1 - bar) * (v * (np.sqrt(bar) * p * s + np.sqrt(1 - bar) * z) * (1 + t)[:, None] - z)
    q = 2 * w * p * s.sum(-1)
    gradient = ((factor * s).sum(-1) - beta * 2 * w * s.sum(-1)).mean()
    denoise = lambda v: diffusion.epsilon_loss(  # noqa: E731
        SCHEDULE, lambda x, t: v * x * (1 + t.astype(x.dtype)[:, None]), jnp.asarray(BATCHES.action), score_key
    )[0]

    def update(p: Any, v: Any, w: Any) -> Any:
        half, metrics = updated(nets, p, v, w, KEY, q_weight=beta, actor_lr=0.1, score_lr=0.01)
        return metrics["actor_loss"], metrics["score_loss"], half.learner.params, half.behaviour.params

    for loss, score_loss, policy, score in two_ways(update, p, v, w):
        np.testing.assert_allclose(loss, ((factor * p * s).sum(-1) - beta * q).mean(), rtol=1e-4)
        np.testing.assert_allclose(policy, p - 0.1 * gradient, rtol=1e-4)
        np.testing.assert_allclose(score_loss, denoise(v), rtol=1e-5)
        np.testing.assert_allclose(score, v - 0.01 * jax.grad(denoise)(v), rtol=1e-4)


def test_without_a_value_the_policy_seeks_the_mode() -> None:
    """Of data at one point, whose score is known, it finds the point."""
    point = jnp.array([0.4, -0.6])

    def score(params: Any, observation: Any, x: jax.Array, t: jax.Array) -> jax.Array:
        bar = jnp.asarray(SCHEDULE.alpha_bar)[t][:, None]
        return (x - jnp.sqrt(bar) * point) / jnp.sqrt(1 - bar)

    nets = make_stubs(score)._replace(actor=stub(lambda p, o: jnp.broadcast_to(p, (len(o), 2))))
    zero = jnp.zeros(())

    def step(p: jax.Array, key: Any) -> tuple[jax.Array, None]:
        half, _ = updated(nets, p, zero, zero, key, q_weight=0.0, actor_lr=0.02)
        return half.learner.params, None

    found, _ = jax.jit(lambda p: jax.lax.scan(step, p, jax.random.split(KEY, 200)))(jnp.zeros(2))
    np.testing.assert_allclose(found, point, atol=0.05)


def test_a_run_of_idql_gives_score_and_critics() -> None:
    """The averaged score network; the hyper-parameters stay its own."""
    other = idql.make(idql.Config(critic_hidden_sizes=(16,), **SIZES), SPEC).init(jax.random.key(1))
    agent = srpo.make(CONFIG, SPEC)
    state: State = agent.init(KEY)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, srpo.adopt_behaviour(state, other))
    for name in ("behaviour", "critic"):
        state = agent.adopts[name](state, other)
    same(state.actor.behaviour.params, other.actor.learner.target_params)
    same((state.critic.learner, state.critic.value), (other.critic.learner, other.critic.value))
    assert isinstance(state.critic.hypers, srpo.Hypers)
