"""FastTD3: targets against NumPy with and without clipped double Q, decay by leaf, and noise scales of episodes."""

from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx
from rlx import optim
from rlx.agents import fast_td3, td3
from rlx.train import report
from rlx.types import as_arrays
from tests import probes
from tests.commands import TINY
from tests.loss_tools import BATCH, BATCHES, SMALL, SPEC, normals, stub, targeted, two_ways
from tests.test_pql import ATOMS, categorical_target_by_hand, softmax

CONTRACT = probes.Contract(
    config={"num_atoms": 21},
    hypers={"weight_decay": 0.01, "v_min": -3.0, "v_max": 3.0},
    variants=({"clipped_double_q": False},),
)
HYPERS = as_arrays(fast_td3.Hypers(gamma=0.9, reward_scale=2.0, v_min=-3.0, v_max=7.0))
normal = normals(1)


def nets(clipped: bool = True, **changes: Any) -> td3.Networks:
    config = fast_td3.Config(**SMALL, num_atoms=ATOMS, clipped_double_q=clipped)
    return fast_td3.make_networks(config, SPEC)._replace(**changes)


@pytest.mark.parametrize("clipped", [True, False])
def test_losses(clipped: bool) -> None:
    """`critic_loss` and `actor_loss`: the critic with the lower mean counts, or each its own and then their mean."""
    online, target = normal(2, BATCH, ATOMS), normal(2, BATCH, ATOMS)
    stubs = nets(
        clipped,
        optimizer=lambda hypers: optim.adam,
        critic=stub(lambda said, observation, action: said),
        published_critic=stub(lambda said, observation, action: said * action.sum(-1)[:, None]),
        actor=stub(lambda p, observation: p * observation[:, :2]),
    )
    policy = fast_td3.Policy(jnp.float32(0.5), jnp.zeros(2))

    def losses(online: jax.Array, target: jax.Array) -> tuple[jax.Array, ...]:
        half, actor = targeted(HYPERS, online, target), targeted(HYPERS, jnp.float32(0.5), None)
        metrics = td3.update_critic(stubs, half, policy, BATCHES, jax.random.key(0))[1]
        actor_loss = td3.update_actor(stubs, actor, online, BATCHES, jax.random.key(0))[1]["actor_loss"]
        return metrics["critic_loss"], metrics["edge_mass"], actor_loss

    by_hand = [categorical_target_by_hand(one[None], BATCHES) for one in target]
    y = np.stack([categorical_target_by_hand(target, BATCHES)] * 2 if clipped else by_hand)
    factor = 0.5 * BATCHES.observation[:, :2].sum(-1)
    values = softmax(online * factor[:, None]) @ np.linspace(-3, 7, ATOMS)
    expected = (
        -(y * np.log(softmax(online))).sum(-1).mean(-1).sum(),
        (y[..., 0] + y[..., -1]).mean(),
        -(values.min(0) if clipped else values.mean(0)).mean(),
    )
    for actual in two_ways(losses, online, target):
        np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_every_parameter_decays() -> None:
    """By learning rate times weight decay, kernels and biases alike, as torch's AdamW does; optax's default is 1e-4."""
    agent = fast_td3.make(fast_td3.Config(**SMALL), SPEC)
    state = jax.jit(agent.init)(jax.random.key(0), HYPERS)
    ones = state.actor.replace(
        learner=state.actor.learner.replace(params=jax.tree.map(jnp.ones_like, state.actor.learner.params))
    )
    half, _ = ones.learner.step(
        lambda params: (0.0 * sum(x.sum() for x in jax.tree.leaves(params)), {}),
        0.5,
        optimizer=fast_td3.optimizer(HYPERS.replace(weight_decay=jnp.float32(0.1))),
    )
    result = {
        jax.tree_util.keystr(path).split("'")[-2]: x for path, x in jax.tree_util.tree_leaves_with_path(half.params)
    }
    assert set(result) == {"kernel", "bias"}
    for leaf in result.values():
        np.testing.assert_allclose(leaf, 0.95, rtol=1e-6)


def test_exploration_differs_between_environments_and_stays_within_the_actions() -> None:
    agent = fast_td3.make(fast_td3.Config(**SMALL), SPEC)
    state = jax.jit(agent.init)(
        jax.random.key(0), HYPERS.replace(explore_min=jnp.float32(0.2), explore_max=jnp.float32(3.0))
    )
    policy: Any = agent.acting_params(state)
    np.testing.assert_allclose(policy.scales, [0.2, 3.0], rtol=1e-6)
    action, _, scale = agent.act(policy, BATCHES.observation, jax.random.key(1), jnp.full(BATCH, -1.0))
    assert (0.2 <= scale).all() and (scale <= 3.0).all() and len(np.unique(np.asarray(scale))) == BATCH
    assert jnp.abs(action).max() == 1, "the action is clipped before it is executed and stored"
    greedy, _ = agent.act_greedy(policy, BATCHES.observation, jax.random.key(1))
    assert (jnp.abs(action - greedy) > 0).all()


def test_mass_at_the_edges_is_said_above_5_percent() -> None:
    """The largest of all members counts; agents without a support report none."""
    for metrics, said in (
        ({"edge_mass": np.array([0.02, 0.3])}, "30%"),
        ({"edge_mass": np.array([0.04])}, None),
        ({}, None),
    ):
        line = report.edge_mass(cast(Any, SimpleNamespace(run_step=10, metrics=metrics)))
        assert (line is None) == (said is None) and (said or "") in (line or "")


@pytest.mark.slow
def test_a_run_counts_environment_steps_alone_in_its_statistics() -> None:
    """Replay does not feed them again; and with ratio 1:1 there are as many actor as critic updates."""
    result = rlx.fit("fast_td3", "gymnax:Pendulum-v1", **TINY | {"actor_hidden_sizes": [8], "total_env_steps": 128})
    assert int(result.statistics.count[0]) == 128
    assert result.state.actor.step[0] == result.state.critic.step[0] > 0
