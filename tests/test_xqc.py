"""XQC: losses against NumPy on stubs that see their batch, learning rates, and weights on the sphere."""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents import crossq, xqc
from rlx.halves import HalfState, SoftActorState
from rlx.optim import Learner
from rlx.types import Params, as_arrays
from tests import probes
from tests.loss_tools import SPEC, moved, near, stub, two_ways
from tests.test_crossq import PUBLISHED, STATISTICS, stub_actor
from tests.test_pql import ATOMS, BATCHES, categorical_target_by_hand, softmax
from tests.test_sac import LOG_ALPHA, draws, total

CONTRACT = probes.Contract(
    config={"num_atoms": 21, "critic_decay_steps": 1000, "actor_decay_steps": 1000},  # the probes' updates
    hypers={"alpha_init": 1e-3, "alpha_lr": 0.0, "v_min": -3, "v_max": 3, "actor_lr": 1e-3, "final_lr_fraction": 0.01},
    updates=1000,
    small_steps=True,
)
ATOM_SLOPES = np.linspace(-1, 1, ATOMS).astype(np.float32)
ONLINE, TARGET = np.array([0.5, -1.5], np.float32), np.array([0.4, -0.7], np.float32)
SMALL: dict[str, Any] = {"actor_hidden_sizes": (8,), "critic_hidden_sizes": (8,), "num_atoms": ATOMS}


def logits(w: Any, features: Any) -> Any:
    return w[:, None, None] * features[None, :, None] * ATOM_SLOPES


def stub_critic(variables: Params, o: jax.Array, a: jax.Array, train: bool = False) -> Any:
    """Critic i has logits of w_i times `total`, shifted by its mean over the batch, or by the running one."""
    mean = total(o, a).mean() if train else variables["batch_stats"]
    found = logits(variables["params"], total(o, a) - mean)
    return (found, {"batch_stats": mean}) if train else found


def check_losses(module: ModuleType) -> None:
    """Of both halves: the target is of the target critics in one pass over both ends, the actor's of running ones."""
    hypers = as_arrays(module.Hypers(gamma=0.9, reward_scale=2.0, v_min=-3.0, v_max=7.0, target_entropy_per_action=-1))
    nets = module.make_networks(module.Config(**SMALL), SPEC)
    nets = nets._replace(actor=stub(stub_actor), critic=stub(stub_critic))
    learner = Learner.create({"params": jnp.asarray(ONLINE)} | STATISTICS, target=True)
    half = HalfState.create(hypers, learner.replace(target_params={"params": TARGET}))
    actor = SoftActorState.create(
        hypers, Learner.create(PUBLISHED.params), log_alpha=Learner.create(jnp.asarray(LOG_ALPHA))
    )
    key, running = jax.random.key(3), np.float32(0.25)

    def metrics(half: Any, batch: Any) -> Any:
        reported = crossq.update_critic(nets, half, PUBLISHED, batch, key)[1]
        variables = {"params": ONLINE, "batch_stats": running}
        return reported, crossq.update_actor(nets, actor, variables, batch, key)[1]["actor_loss"]

    _, action, log_prob = draws(key, 6)
    cost, alpha = np.exp(LOG_ALPHA) * log_prob, np.exp(LOG_ALPHA)
    here, there = total(BATCHES.observation, BATCHES.action), total(BATCHES.next_observation, action)
    mean, support = np.concatenate([here, there]).mean(), np.linspace(-3, 7, ATOMS)
    shifted = BATCHES._replace(reward=BATCHES.reward - 0.9 * BATCHES.discount * cost / 2)  # the entropy as a reward
    y = categorical_target_by_hand(logits(TARGET, there - mean), shifted)
    probs = softmax(logits(ONLINE, here - mean))
    value = (softmax(logits(ONLINE, total(BATCHES.observation, action) - running)) @ support).min(0)
    expected = {
        "critic_loss": -(y * np.log(probs)).sum(-1).mean(-1).sum(),
        "q_mean": (probs @ support).mean(),
        "edge_mass": (y[:, 0] + y[:, -1]).mean(),
    }
    for found, actor_loss in two_ways(metrics, half, BATCHES):
        near(found, expected, rtol=1e-4)
        np.testing.assert_allclose(actor_loss, (alpha * log_prob - value).mean(), rtol=1e-4)


def test_losses() -> None:
    check_losses(xqc)


def norms(params: Params) -> list[np.ndarray]:
    """Of every unit's incoming weights."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [np.linalg.norm(x, axis=-2) for path, x in leaves if "kernel" in jax.tree_util.keystr(path)]


def check_sphere(module: ModuleType) -> dict[str, Any]:
    """Weights of all networks have norm 1 before and after an update; those of target networks are averages of such,
    and so a little shorter: they are not projected, as in the authors' code."""
    agent = module.make(module.Config(**SMALL), SPEC)
    state = jax.jit(agent.init)(jax.random.key(0), module.Hypers(critic_lr=0.1, actor_lr=0.1, tau=0.5))
    new, _ = jax.jit(agent.update)(state, BATCHES, jax.random.key(1))
    for one in (state, new):
        for half in (one.critic, one.actor):
            near(norms(half.learner.params), jax.tree.map(np.ones_like, norms(half.learner.params)), rtol=1e-5)
    lengths = np.concatenate([x.ravel() for x in norms(new.critic.learner.target_params)])
    assert (lengths < 1 + 1e-6).all() and (lengths < 1 - 1e-4).any()
    mixed = jax.tree.map(lambda t, p: (t + p) / 2, state.critic.learner.target_params, new.critic.learner.params)
    near(new.critic.learner.target_params, mixed)
    assert moved(new.critic.learner.statistics, state.critic.learner.statistics)
    params: dict[str, Any] = new.critic.learner.params
    return params


def test_weights_stay_on_the_sphere() -> None:
    check_sphere(xqc)


@pytest.mark.parametrize(("kind", "middle"), [("linear", 0.55), ("cosine", 0.55)])
def test_learning_rates_fall_to_a_share(kind: str, middle: float) -> None:
    hypers = as_arrays(xqc.Hypers(final_lr_fraction=0.1))
    factor = xqc.rate(kind, 100)
    found = [factor(HalfState.create(hypers, None).replace(step=jnp.int32(step))) for step in (0, 50, 100, 200)]
    np.testing.assert_allclose(found, [1, middle, 0.1, 0.1], rtol=1e-5)
