"""FQL: losses against NumPy, its limit distilled cloning; flows, their loss and a point that they lead to."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import diffusion, losses
from rlx.agents import fql
from rlx.halves import HalfState
from rlx.optim import Learner
from rlx.types import as_arrays
from tests import probes
from tests.commands import one_line
from tests.loss_tools import BATCH, BATCHES, SMALL, near, normals, stub, targeted, two_ways

# Without LayerNorm: of one number and biases of 0 it leaves the sign, and the probes' inputs are one number or two.
CONTRACT = probes.Contract(
    config={"layer_norm": False, "flow_steps": 2},
    hypers={"distillation_weight": 0.01},
    samples=True,
    variants=({"next_value": "min"},),
)

normal, KEY = normals(), jax.random.key(0)
CONFIG = fql.Config(**SMALL, flow_steps=2)


def make_stubs(**config: Any) -> fql.Networks:
    """The flow's velocity is v (x + t), the policy p s + z / 2, the critics' values w . a and twice that."""
    return fql.Networks(
        flow=stub(lambda v, o, x, t: v * (x + t)),
        policy=stub(lambda p, o, z: p * o[..., :2] + z / 2),
        critic=stub(lambda w, o, a: jnp.stack([w * a.sum(-1), 2 * w * a.sum(-1)])),
        matching=lambda velocity, batch, key: diffusion.flow_loss(velocity, batch.action, key),
        regress=lambda q, target, batch: losses.ensemble_td_loss(q, target),
        config=fql.Config(**vars(CONFIG) | config),
        action_size=2,
        axes=(),
    )


@pytest.mark.parametrize("next_value", fql.NEXT_VALUES)
def test_critic_loss(next_value: str) -> None:
    nets, hypers = make_stubs(next_value=next_value), as_arrays(fql.Hypers(gamma=0.9, reward_scale=2.0))
    noise = np.asarray(jax.random.normal(KEY, (BATCH, 2)))
    action = np.clip(0.3 * BATCHES.next_observation[:, :2] + noise / 2, -1, 1)
    said = 1.5 * action.sum(-1) * np.array([[1], [2]])
    y = 2 * BATCHES.reward + 0.9 * BATCHES.discount * (said.mean(0) if next_value == "mean" else said.min(0))
    q = 0.5 * BATCHES.action.sum(-1) * np.array([[1], [2]])

    def metrics(online: jax.Array, target: jax.Array, p: jax.Array) -> Any:
        return fql.update_critic(nets, targeted(hypers, online, target), p, BATCHES, KEY)[1]

    for actual in two_ways(metrics, np.float32(0.5), np.float32(1.5), np.float32(0.3)):
        np.testing.assert_allclose(actual["critic_loss"], ((q - y) ** 2).mean(-1).sum(), rtol=1e-5)


def actor_update(nets: fql.Networks, hypers: Any, v: Any, p: Any, w: Any) -> Any:
    half = HalfState.create(hypers, Learner.create(fql.ActorParams(v, p)))
    half, metrics = fql.update_actor(nets, half, w, BATCHES, KEY)
    return metrics, half.learner.params


def distillation(v: float, p: float) -> tuple[np.ndarray, np.ndarray]:
    """The policy's actions, and what two Euler steps make of the same noise."""
    z = np.asarray(jax.random.normal(jax.random.split(KEY, 3)[1], (BATCH, 2)))
    x = z + v * z / 2
    return p * BATCHES.observation[:, :2] + z / 2, np.clip(x + v * (x + 0.5) / 2, -1, 1)


@pytest.mark.parametrize("normalize_q", [False, True])
def test_actor_loss(normalize_q: bool) -> None:
    """Matching + alpha distillation - the critics' mean at the clipped action, which may be divided by its size."""
    v, p, w = np.float32(0.4), np.float32(0.7), normal(BATCH)
    nets, hypers = make_stubs(normalize_q=normalize_q), as_arrays(fql.Hypers(distillation_weight=3.0))
    matching = diffusion.flow_loss(lambda x, t: v * (x + t), jnp.asarray(BATCHES.action), jax.random.split(KEY, 3)[0])
    action, flowed = distillation(v, p)
    q = 1.5 * w * np.clip(action, -1, 1).sum(-1)
    value = q.mean() / (abs(q).mean() if normalize_q else 1)
    for actual, _ in two_ways(lambda *inputs: actor_update(nets, hypers, *inputs), v, p, w):
        np.testing.assert_allclose(actual["flow_loss"], matching, rtol=1e-5)
        np.testing.assert_allclose(
            actual["actor_loss"], matching + 3 * ((action - flowed) ** 2).mean() - value, rtol=1e-4
        )


@pytest.mark.usefixtures("plain_descent")
def test_a_large_alpha_is_distilled_cloning() -> None:
    """The policy's step, per alpha, is distillation's alone; the flow's step knows neither alpha nor the critics."""
    v, p, alpha = np.float32(0.4), np.float32(0.7), 1e6
    hypers = as_arrays(fql.Hypers(distillation_weight=alpha, actor_lr=0.1 / alpha))
    _, new = jax.jit(lambda w: actor_update(make_stubs(), hypers, v, p, w))(normal(BATCH))
    action, flowed = distillation(v, p)
    slope = (2 * (action - flowed) * BATCHES.observation[:, :2]).mean()
    np.testing.assert_allclose(new.policy, p - 0.1 * slope, rtol=1e-4)
    steps = [
        actor_update(make_stubs(), as_arrays(fql.Hypers(distillation_weight=a, actor_lr=0.1)), v, p, w)[1].flow
        for a, w in ((0.0, np.zeros(BATCH, np.float32)), (50.0, normal(BATCH)))
    ]
    near(*steps)
    assert steps[0] != v


def test_flow_loss_of_a_silent_and_of_the_right_network() -> None:
    """Silence leaves x - noise, of mean square 1 + x^2; for one point the velocity (x - x_t) / (1 - t) is exact."""
    point = jnp.broadcast_to(jnp.array([0.3, -0.8]), (40_000, 2))
    silent = diffusion.flow_loss(lambda x, t: jnp.zeros_like(x), point, KEY)
    np.testing.assert_allclose(silent, 1 + (0.3**2 + 0.8**2) / 2, rtol=0.02)
    right = diffusion.flow_loss(lambda x, t: (point - x) / (1 - t), point, KEY)
    assert right < 1e-6


@pytest.mark.parametrize("num_steps", [1, 4, 10])
def test_a_flow_of_one_point_lands_on_it(num_steps: int) -> None:
    """From any noise; the velocity is asked at times 0, 1 / T, ... and never at 1; actions beyond +-1 are clipped."""
    point, noise = jnp.array([0.3, -0.8]), normal(5, 7, 2)
    for actual in two_ways(lambda z: diffusion.flow(lambda x, t: (point - x) / (1 - t), z, num_steps), noise):
        np.testing.assert_allclose(actual, np.broadcast_to(point, noise.shape), atol=1e-5)
    clipped = diffusion.flow(lambda x, t: jnp.full_like(x, 9.0), noise, num_steps)
    np.testing.assert_array_equal(clipped, np.ones_like(noise))
    with one_line("0 flow steps"):
        diffusion.flow(lambda x, t: x, noise, 0)
