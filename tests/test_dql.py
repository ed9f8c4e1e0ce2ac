"""Diffusion Q-learning: the actor's loss by hand, through all steps of the chain."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import diffusion
from rlx.agents import dql, edp
from rlx.halves import HalfState
from rlx.optim import Learner
from rlx.types import as_arrays
from tests import probes
from tests.loss_tools import BATCH, BATCHES, SPEC, normals, stub, two_ways

CONTRACT = probes.Contract(
    config={"score_width": 32, "score_blocks": 1, "diffusion_steps": 3, "num_samples": 4},
    hypers={"q_weight": 30.0, "ema": 0.1},
    slow_probes=True,  # EDP's are quick
    samples=True,
    tolerance=3,  # a greedy action is a sample of the policy
    batch=32,
)

normal, KEY = normals(), jax.random.key(0)
SCHEDULE = diffusion.vp_schedule(3)


def make_stubs() -> edp.Networks:
    """The noise is said to be v x (1 + t), the critics' values w . a and twice that + 1."""
    return dql.make_networks(dql.Config(diffusion_steps=3), SPEC)._replace(
        score=stub(lambda v, o, x, t: v * x * (1 + jnp.asarray(t, x.dtype)[..., None])),
        critic=stub(lambda w, o, a: jnp.stack([w * a.sum(-1), 2 * w * a.sum(-1) + 1])),
    )


def test_actor_loss() -> None:
    """Denoising - eta Q_i / mean |Q_j| at the end of the chain, and its slope through all three steps: by
    differences, in float64, of a chain that is written out."""
    nets, hypers = make_stubs(), as_arrays(dql.Hypers(q_weight=3.0, actor_lr=0.0, ema=0.25))
    noise_key, critic_key, _ = jax.random.split(KEY, 3)
    which = int(jax.random.randint(critic_key, (), 0, 2))
    start_key, steps_key = jax.random.split(jax.random.fold_in(KEY, 3))
    start = np.asarray(jax.random.normal(start_key, (BATCH, 2)), np.float64)
    steps = [np.asarray(jax.random.normal(key, (BATCH, 2)), np.float64) for key in jax.random.split(steps_key, 3)]
    w, average = np.float32(0.7), np.float32(0.6)

    def loss(v: float, scale: float | None = None) -> tuple[float, float]:
        x = start
        for t, noise in zip((2, 1, 0), steps, strict=True):
            beta, bar = np.float64(SCHEDULE.beta[t]), np.float64(SCHEDULE.alpha_bar[t])
            x = (x - beta / np.sqrt(1 - bar) * v * x * (1 + t)) / np.sqrt(1 - beta) + np.sqrt(beta) * noise * (t > 0)
            x = np.clip(x, -1, 1)
        q = np.stack([w * x.sum(-1), 2 * w * x.sum(-1) + 1])
        scale = abs(q[1 - which]).mean() if scale is None else scale
        said = diffusion.epsilon_loss(
            SCHEDULE, lambda x, t: v * x * (1 + t)[:, None], jnp.asarray(BATCHES.action), noise_key
        )
        return float(said[0]) / 2 - 3 * q[which].mean() / scale, scale

    def update(v: jax.Array, average: jax.Array) -> Any:
        half = HalfState.create(hypers, Learner.create(v, target=True).replace(target_params=average))
        half, metrics = edp.update_actor(nets, half, jnp.float32(w), BATCHES, KEY)
        return metrics["actor_loss"], half.learner.opt_state.mu * 10, half.learner.target_params  # (1 - 0.9) gradient

    value, scale = loss(0.2)
    slope = (loss(0.2 + 1e-3, scale)[0] - loss(0.2 - 1e-3, scale)[0]) / 2e-3
    for actual, gradient, target in two_ways(update, np.float32(0.2), average):
        np.testing.assert_allclose(actual, value, rtol=1e-4)
        np.testing.assert_allclose(gradient, slope, rtol=2e-2)
        np.testing.assert_allclose(target, 0.75 * average + 0.25 * 0.2, rtol=1e-6)
