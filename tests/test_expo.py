"""EXPO: what acts is the best of samples and edits, and the losses of critics, edits and flow, by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import diffusion
from rlx.agents import expo
from rlx.networks import Network
from rlx.optim import Learner
from rlx.types import as_arrays
from tests import probes
from tests.loss_tools import BATCH, BATCHES, normals, stub, tanh_log_prob, targeted, two_ways

CONTRACT = probes.Contract(
    config={
        "layer_norm": False,
        "num_critics": 3,
        "flow_hidden_sizes": (32,),
        "flow_steps": 2,
        "num_samples": 8,
    },
    hypers={"edit_scale": 1.0, "alpha_init": 0.01},
    slow_probes=True,  # REDQ's and FQL's are quick
    samples=True,
    batch=32,
)

normal, KEY = normals(), jax.random.key(0)
W: Any = np.float32([0.5, 1.0, 2.0])  # the critics' values are W_i w . a


def make_stubs() -> expo.Networks:
    """The flow does not move, edits have mean e + a / 2 and deviation 0.1; a target is the minimum of all critics."""
    config = expo.Config(num_critics=3, num_target_critics=3, flow_steps=1, num_samples=4)
    critic = Network(
        lambda key: None,
        lambda w, o, a: w[..., None] * a.sum(-1)[None] if a.ndim == 2 else w[:, None, None] * a.sum(-1)[None],
    )
    return expo.Networks(
        flow=stub(lambda v, o, x, t: v * x),
        edit=stub(lambda e, o, a: (e + a / 2, jnp.full_like(a, np.log(0.1)))),
        critic=critic,
        config=config,
        action_size=2,
        axes=(),
    )


def edited(e: float, scale: float, action: np.ndarray, key: Any) -> tuple[np.ndarray, np.ndarray]:
    """Edited actions, and log-probabilities of the edits."""
    mean = e + action / 2
    change = np.tanh(mean + 0.1 * np.asarray(jax.random.normal(key, mean.shape)))
    return np.clip(action + scale * change, -1, 1), tanh_log_prob(mean, np.full_like(mean, np.log(0.1)), change)


def test_what_acts() -> None:
    """Of four samples and their edits the one with the largest minimum of the critics."""
    nets, observation = make_stubs(), jnp.zeros((BATCH, 3))
    flow_key, edit_key, _ = jax.random.split(KEY, 3)
    base = np.clip(1.2 * np.asarray(jax.random.normal(flow_key, (4, BATCH, 2))), -1, 1)
    actions = np.concatenate([base, edited(0.1, 0.5, base, edit_key)[0]])
    best = (W[:, None, None] * actions.sum(-1)).min(0).argmax(0)
    assert (best < 4).any() and (best >= 4).any()

    def act(v: Any, e: Any, scale: Any, w: Any) -> Any:
        return expo.act(nets, expo.Policy(v, e, scale, w), observation, KEY)[0]

    for actual in two_ways(act, np.float32(0.2), np.float32(0.1), np.float32(0.5), W):
        np.testing.assert_allclose(actual, actions[best, np.arange(BATCH)], rtol=1e-4)


def test_critic_loss() -> None:
    """Towards r + gamma d min Q' at what acts, without entropy."""
    nets, hypers = make_stubs(), as_arrays(expo.Hypers(gamma=0.9, reward_scale=2.0))
    policy = expo.Policy(jnp.float32(0.2), jnp.float32(0.1), jnp.float32(0.5), jnp.asarray(W))
    act_key, _, _ = jax.random.split(KEY, 3)
    action = np.asarray(expo.act(nets, policy, jnp.asarray(BATCHES.next_observation), act_key)[0])
    y = 2 * BATCHES.reward + 0.9 * BATCHES.discount * (W[:, None] * action.sum(-1)).min(0)
    q = 0.3 * W[:, None] * BATCHES.action.sum(-1)

    def loss(online: Any, target: Any) -> Any:
        return expo.update_critic(nets, targeted(hypers, online, target), policy, BATCHES, KEY)[1]["critic_loss"]

    for actual in two_ways(loss, 0.3 * W, W):
        np.testing.assert_allclose(actual, ((q - y) ** 2).mean(-1).sum(), rtol=1e-4)


def test_actor_losses() -> None:
    """Edits of the data's actions: alpha log pi - the critics' mean; the flow's loss knows no value."""
    nets, hypers = make_stubs(), as_arrays(expo.Hypers(edit_scale=0.5, target_entropy_per_action=-1.0))
    flow_key, edit_key, _ = jax.random.split(KEY, 3)
    action, log_prob = edited(0.1, 0.5, BATCHES.action, edit_key)
    q, alpha = W.mean() * action.sum(-1), 0.3
    matching = diffusion.flow_loss(lambda x, t: 0.2 * x, jnp.asarray(BATCHES.action), flow_key)

    def metrics(v: Any, e: Any, log_alpha: Any) -> Any:
        half = expo.ActorState.create(
            hypers, Learner.create(e), flow=Learner.create(v), log_alpha=Learner.create(log_alpha)
        )
        return expo.update_actor(nets, half, jnp.asarray(W), BATCHES, KEY)[1]

    for actual in two_ways(metrics, np.float32(0.2), np.float32(0.1), np.float32(np.log(alpha))):
        np.testing.assert_allclose(actual["actor_loss"], (alpha * log_prob - q).mean(), rtol=1e-4)
        np.testing.assert_allclose(actual["alpha_loss"], -np.log(alpha) * (log_prob.mean() - 2), rtol=1e-4)
        np.testing.assert_allclose(actual["flow_loss"], matching, rtol=1e-5)
