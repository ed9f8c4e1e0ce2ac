"""CFGRL: labels by the advantage, the flow's loss with them, and guidance, by hand; no guidance is imitation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import diffusion
from rlx.agents import cfgrl, iql
from rlx.halves import HalfState
from rlx.optim import Learner
from rlx.types import as_arrays
from tests import probes
from tests.loss_tools import BATCH, BATCHES, SMALL, SPEC, normals, stub, two_ways

# The probes ask for one best action; what guidance does to a distribution is tested below, and the critics are IQL's.
CONTRACT = probes.Contract(
    config={"layer_norm": False, "value_layer_norm": False, "flow_steps": 4}, samples=True, probed_elsewhere=True
)

normal, KEY = normals(), jax.random.key(0)


def make_stubs() -> cfgrl.Networks:
    """Q is w . a and twice that, V is -0.1; the velocity v (x + t) grows by 1 of worse actions, by 3 of better ones."""
    config = cfgrl.Config(**SMALL, flow_steps=2)
    critic = iql.make_critic_networks(config, SPEC)._replace(
        critic=stub(lambda w, o, a: jnp.stack([w * a.sum(-1), 2 * w * a.sum(-1)])),
        value=stub(lambda v, o: jnp.full(o.shape[:-1], -0.1, o.dtype)),
    )
    flow = stub(lambda v, o, x, t, label: v * (x + t) + (label @ jnp.array([1.0, 3.0], x.dtype))[..., None])
    return cfgrl.Networks(critic, flow, config, action_size=2, axes=())


@pytest.mark.parametrize("label_dropout", [0.0, 0.5, 1.0])
def test_actor_loss(label_dropout: float) -> None:
    """Actions whose smaller value is at least V are better; the flow's loss is of what it is told of them."""
    nets, hypers = make_stubs(), as_arrays(cfgrl.Hypers(label_dropout=label_dropout))
    flow_key, label_key = jax.random.split(KEY)
    w, v = np.float32(0.8), np.float32(0.4)
    q = w * BATCHES.action.sum(-1)
    better = np.minimum(q, 2 * q) >= -0.1
    assert 0 < better.sum() < BATCH
    told = np.asarray(jax.random.uniform(label_key, (BATCH,))) >= label_dropout
    shift = np.where(told, np.where(better, 3, 1), 0)[:, None].astype(np.float32)
    expected = diffusion.flow_loss(lambda x, t: v * (x + t) + shift, jnp.asarray(BATCHES.action), flow_key)

    def metrics(v: jax.Array, w: jax.Array) -> Any:
        half = HalfState.create(hypers, Learner.create(v))
        return cfgrl.update_actor(nets, half, iql.Value(w, None), BATCHES, KEY)[1]

    for actual in two_ways(metrics, v, w):
        np.testing.assert_allclose(actual["actor_loss"], expected, rtol=1e-5)
        np.testing.assert_allclose(actual["better_share"], (told & better).mean(), rtol=1e-6)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_guided_actions(guidance: float) -> None:
    """Each Euler step adds guidance times the difference, 3, to the velocity without a label."""
    z = np.asarray(jax.random.normal(KEY, (4, 2)))
    x = z + (0.4 * z + 3 * guidance) / 2
    x = np.clip(x + (0.4 * (x + 0.5) + 3 * guidance) / 2, -1, 1)
    act = lambda v, g: cfgrl.act(make_stubs(), cfgrl.Policy(v, g), jnp.zeros((4, 3)), KEY)[0]  # noqa: E731
    for actual in two_ways(act, np.float32(0.4), np.float32(guidance)):
        np.testing.assert_allclose(actual, x, rtol=1e-5)


def test_guidance_improves_the_policy() -> None:
    """Random actions, and critics that know the best, half the observation: values of samples rise with guidance."""
    config = cfgrl.Config(actor_hidden_sizes=(32,), flow_steps=5)
    nets = cfgrl.make_networks(config, probes.SPEC)
    critic = nets.critic._replace(
        critic=stub(lambda _, o, a: -abs(a - o / 2).T), value=stub(lambda _, o: jnp.full(o.shape[:-1], -0.4))
    )
    data = probes.batches(probes.PROBES["policy"], 500, 64)

    @jax.jit
    def values(data: Any) -> jax.Array:
        def step(half: HalfState, given: Any) -> tuple[HalfState, None]:
            return cfgrl.update_actor(nets._replace(critic=critic), half, iql.Value(None, None), *given)[0], None

        half = HalfState.create(as_arrays(cfgrl.Hypers(actor_lr=3e-3)), Learner.create(nets.flow.init(KEY)))
        half, _ = jax.lax.scan(step, half, (data, jax.random.split(KEY, 500)))
        place = data.observation[:4].reshape(-1, 1)
        guided = lambda w: cfgrl.act(nets, cfgrl.Policy(half.learner.params, w), place, KEY)[0]  # noqa: E731
        return jnp.stack([-abs(guided(w) - place / 2).mean() for w in (0.0, 0.5, 1.0)])

    none, half, full = values(data)
    assert none < half < full and none < -0.4 and full > -0.3
