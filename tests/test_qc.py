"""Q-chunking: windows as transitions, what a cut window teaches, chunks taken in turn; with one action it is FQL."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents import fql, qc
from rlx.types import Transition
from tests import probes
from tests.loss_tools import BATCH, BATCHES, SMALL, SPEC, moved, near, normals, same, transitions, two_ways

CONTRACT = probes.Contract(
    config={"chunk_size": 1, "layer_norm": False, "flow_steps": 2},
    hypers={"distillation_weight": 0.01},
    samples=True,
    variants=({"extraction": "best", "flow_steps": 3, "num_samples": 32},),
)

normal, KEY = normals(), jax.random.key(0)
SIZE = 3
CONFIG = qc.Config(**SMALL, flow_steps=2, chunk_size=SIZE, num_samples=4)
LENGTHS = np.array([3, 1, 2, 3, 1, 3])  # steps that each window has of its episode
MASK: Any = np.arange(SIZE) < LENGTHS[:, None]
WINDOWS = transitions(normal, BATCH, SIZE)._replace(extras={"mask": MASK})


def test_windows_as_transitions() -> None:
    """The target of the first window is r_0 + gamma r_1 + gamma^2 r_2 + gamma^3 d_2 Q'."""
    gamma, (r, d) = 0.9, (WINDOWS.reward, WINDOWS.discount)
    for batch in two_ways(lambda gamma: qc.as_chunks(WINDOWS, gamma), gamma):
        np.testing.assert_allclose(batch.reward, r[:, 0] + 0.9 * r[:, 1] + 0.81 * r[:, 2], rtol=1e-5)
        np.testing.assert_allclose(gamma * batch.discount, 0.9**3 * d[:, 2], rtol=1e-5)
        same((batch.observation, batch.next_observation), (WINDOWS.observation[:, 0], WINDOWS.next_observation[:, 2]))
        same(batch.action, WINDOWS.action.reshape(BATCH, 6))


@pytest.mark.parametrize("extraction", ["best", "distilled"])
def test_what_lies_beyond_an_episode_teaches_nothing(extraction: str) -> None:
    """Neither the critics, whose cut windows count for nothing, nor the flow; what lies before its end does."""
    agent = qc.make(qc.Config(**vars(CONFIG) | {"extraction": extraction}), SPEC)
    state = jax.jit(agent.init)(KEY)
    policy, value = agent.acting_params(state), agent.critic_params(state.critic)
    critic, actor = (jax.jit(update) for update in (agent.update_critic, agent.update_actor))

    def changed(where: np.ndarray) -> Any:
        """Both halves' metrics after rewards, next observations and actions change where it says so."""
        change = {name: getattr(WINDOWS, name).copy() for name in ("reward", "next_observation", "action")}
        for array in change.values():
            array[where] = -array[where] / 2
        windows = WINDOWS._replace(**change)
        return critic(state.critic, policy, windows, KEY)[0].learner.params, actor(
            state.actor, value, agent.actor_batch(windows)._replace(), KEY
        )[1]["actor_loss"]

    nothing = np.zeros_like(MASK)
    cut = ~MASK.all(axis=1)[:, None] & MASK
    (critics, loss), (beyond, same_loss), (before, other_loss) = map(changed, (nothing, cut, MASK & ~cut))
    same(beyond, critics)
    assert moved(before, critics) and loss != same_loss and loss != other_loss


def test_losses_leave_out_what_is_cut() -> None:
    """By hand, with values of 1 and 2, a target of 0 and a silent flow."""
    nets = qc.make_networks(CONFIG, SPEC)
    batch = qc.as_chunks(WINDOWS, 1.0)
    q = jnp.array([[1.0], [2.0]]) * jnp.ones((2, BATCH))
    assert nets.regress(q, jnp.zeros(BATCH), batch) == (1 + 4) * 3 / 6  # three windows are whole
    silent = lambda x, time: jnp.zeros_like(x)  # noqa: E731
    noise = jax.random.normal(jax.random.split(KEY)[0], (BATCH, 2 * SIZE))
    error = np.square(batch.action - noise).reshape(BATCH, SIZE, 2) * MASK[..., None]
    np.testing.assert_allclose(nets.matching(silent, batch, KEY), error.mean(), rtol=1e-5)


def test_a_chunk_s_actions_are_taken_in_turn() -> None:
    """Every h-th step asks for a new chunk, in each environment by its own count."""
    whole: Any = lambda policy, observation, key: (jnp.tile(observation, 2)[..., :6], {})  # noqa: E731
    agent: Any = qc.in_chunks(qc.make(CONFIG, SPEC)._replace(act=whole), SIZE, 2)
    fresh = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, *x.shape)), agent.carry())
    carry, step, seen = (fresh[0], jnp.array([0, 2])), jax.jit(agent.act), []
    for time in range(4):
        action, _, carry = step(None, jnp.full((2, 3), 10.0 * time) + jnp.arange(3), KEY, carry)
        seen.append(action)
    first = [[0, 1], [2, 0], [1, 2], [30, 31]]
    np.testing.assert_array_equal(np.stack(seen)[:, 0], first)
    np.testing.assert_array_equal(np.stack(seen)[:, 1], [[0, 0], [10, 11], [12, 10], [11, 12]])


def test_chunks_of_one_action_are_fql() -> None:
    config = vars(CONFIG) | {"chunk_size": 1, "extraction": "distilled"}
    fields = fql.Config.__dataclass_fields__
    plain = fql.make(fql.Config(**{name: value for name, value in config.items() if name in fields}), SPEC)
    hypers = fql.Hypers(distillation_weight=100.0)
    one = qc.make(qc.Config(**config), SPEC)
    windowed = qc.in_chunks(one, 1, 2)
    window: Transition = jax.tree.map(lambda x: x[:, None], BATCHES)._replace(
        extras={"mask": np.ones((BATCH, 1), bool)}
    )
    expected = jax.jit(lambda key: plain.update(plain.init(key, hypers), BATCHES, key))(KEY)
    for agent, batch in ((one, BATCHES), (windowed, window)):
        state, metrics = jax.jit(lambda key, agent=agent, batch=batch: agent.update(agent.init(key), batch, key))(KEY)
        near(
            (state.critic.learner, state.actor.learner, metrics),
            (expected[0].critic.learner, expected[0].actor.learner, expected[1]),
        )
