"""EDP: its losses against NumPy, the policies that targets and acting follow, and the choice among samples."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import diffusion
from rlx.agents import edp
from rlx.halves import HalfState
from rlx.optim import Learner
from rlx.types import as_arrays
from tests import probes
from tests.loss_tools import BATCH, BATCHES, SPEC, normals, stub, targeted, three_ways

CONTRACT = probes.Contract(
    config={"score_width": 32, "score_blocks": 1, "diffusion_steps": 5, "solver_steps": 5, "num_samples": 4},
    hypers={"q_weight": 30.0, "ema": 0.1},
    samples=True,
    tolerance=3,  # a greedy action is a sample of the policy
    batch=32,
)

normal, KEY = normals(), jax.random.key(0)
SCHEDULE = diffusion.vp_schedule(4)


def make_stubs(schedule: diffusion.Schedule = SCHEDULE) -> edp.Networks:
    """The noise is said to be v x (1 + t), the critics' values w . a and twice that."""
    config = edp.Config(diffusion_steps=4, solver_steps=4, num_samples=3)
    chain = lambda _, epsilon, shape, key: diffusion.ddim(schedule, epsilon, jax.random.normal(key, shape), bound=1.0)  # noqa: E731
    return edp.make_networks(config, SPEC, (), chain)._replace(
        score=stub(lambda v, o, x, t: v * x * (1 + jnp.asarray(t, x.dtype)[..., None])),
        critic=stub(lambda w, o, a: jnp.stack([w * a.sum(-1), 2 * w * a.sum(-1)])),
    )


def test_actor_loss() -> None:
    """Mean denoising error - lambda Q of the action that one step makes of a noisy one, clipped; the average moves."""
    nets, hypers = make_stubs(), as_arrays(edp.Hypers(q_weight=3.0, actor_lr=0.0, ema=0.25))
    noise_key, critic_key, _ = jax.random.split(KEY, 3)
    time_key, normal_key = jax.random.split(noise_key)
    t = np.asarray(jax.random.randint(time_key, (BATCH,), 0, 4))
    noise, a = np.asarray(jax.random.normal(normal_key, (BATCH, 2))), SCHEDULE.alpha_bar[t][:, None]
    which = int(jax.random.randint(critic_key, (), 0, 2))
    v, w, average = np.float32(0.2), normal(BATCH), np.float32(0.6)
    noisy = np.sqrt(a) * BATCHES.action + np.sqrt(1 - a) * noise
    said = v * noisy * (1 + t)[:, None]
    action = (noisy - np.sqrt(1 - a) * said) / np.sqrt(a)
    assert (abs(action) > 1).any() and (abs(action) < 1).any()
    q = (1 + which) * w * np.clip(action, -1, 1).sum(-1)
    denoising = ((said - noise) ** 2).mean()

    def update(v: jax.Array, average: jax.Array, w: jax.Array) -> Any:
        half = HalfState.create(hypers, Learner.create(v, target=True).replace(target_params=average))
        half, metrics = edp.update_actor(nets, half, w, BATCHES, KEY)
        return metrics, half.learner.target_params

    for metrics, target in three_ways(update, v, average, w):
        np.testing.assert_allclose(metrics["denoising_loss"], denoising, rtol=1e-5)
        np.testing.assert_allclose(metrics["actor_loss"], denoising - 3 * q.mean() / abs(q).mean(), rtol=1e-4)
        np.testing.assert_allclose(target, 0.75 * average + 0.25 * v, rtol=1e-6)


def test_the_value_has_a_gradient_through_the_approximated_action() -> None:
    """With denoising at its minimum, what is left is the slope of Q: the weight decides how far the policy moves."""
    nets, w = make_stubs(), np.ones(BATCH, np.float32)
    starts = [as_arrays(edp.Hypers(q_weight=weight, actor_lr=0.1)) for weight in (0.0, 1.0, 10.0)]
    halves = [HalfState.create(start, Learner.create(jnp.float32(0.2), target=True)) for start in starts]
    moved = [edp.update_actor(nets, half, w, BATCHES, KEY)[0].learner.opt_state for half in halves]
    slopes = [float(jax.tree.leaves(state.mu)[0]) for state in moved]
    np.testing.assert_allclose(slopes[2] - slopes[0], 10 * (slopes[1] - slopes[0]), rtol=1e-3)
    assert slopes[1] != slopes[0]


def test_critic_loss() -> None:
    """Clipped double Q at an action of the averaged policy, by all steps of DDIM from noise."""
    nets, hypers = make_stubs(), as_arrays(edp.Hypers(gamma=0.9, reward_scale=2.0))
    x = np.asarray(jax.random.normal(jax.random.split(KEY)[0], (BATCH, 2)), np.float64)
    for t in (3, 2, 1, 0):
        now, after = SCHEDULE.alpha_bar[t], SCHEDULE.alpha_bar[t - 1] if t else 1.0
        said = 0.3 * x * (1 + t)
        clean = (x - np.sqrt(1 - now) * said) / np.sqrt(now)
        x = np.clip(np.sqrt(after) * clean + np.sqrt(1 - after) * said, -1, 1)
    next_q = (1.5 * x.sum(-1) * np.array([[1], [2]])).min(0)
    y = 2 * BATCHES.reward + 0.9 * BATCHES.discount * next_q
    q = 0.5 * BATCHES.action.sum(-1) * np.array([[1], [2]])

    def loss(online: jax.Array, target: jax.Array, average: jax.Array) -> Any:
        policy = edp.Policy(jnp.float32(9.0), average, online)
        return edp.update_critic(nets, targeted(hypers, online, target), policy, BATCHES, KEY)[1]["critic_loss"]

    for actual in three_ways(loss, np.float32(0.5), np.float32(1.5), np.float32(0.3)):
        np.testing.assert_allclose(actual, ((q - y) ** 2).mean(-1).sum(), rtol=1e-4)


def test_greedy_actions_are_chosen_with_weights_exp_q() -> None:
    """Of three samples, at one point each."""
    points = np.float32([[0.5, 0.5], [-0.5, -0.5], [0.1, 0.1]])
    a = diffusion.vp_schedule(1).alpha_bar[0]
    known = lambda v, o, x, t: (x - jnp.sqrt(a) * points.reshape(3, *(1,) * (x.ndim - 2), 2)) / jnp.sqrt(1 - a)  # noqa: E731
    nets = make_stubs(diffusion.vp_schedule(1))._replace(score=stub(known))
    policy = edp.Policy(jnp.float32(0), jnp.float32(9), jnp.float32(1.5))
    action, _ = jax.jit(lambda o: edp.act_greedy(nets, policy, o, KEY))(jnp.zeros((20_000, 3)))
    q = np.minimum(1, 2) * 1.5 * points.sum(-1)
    q = np.minimum(q, 2 * q)
    share = np.bincount(abs(np.asarray(action)[:, None] - points).sum(-1).argmin(-1), minlength=3) / 20_000
    np.testing.assert_allclose(share, np.exp(q) / np.exp(q).sum(), atol=0.015)
