"""DQN: its loss against NumPy, what its target networks and its exploration do."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import build, config, policies
from rlx.agents import dqn
from rlx.errors import RlxError
from rlx.types import Transition, as_arrays
from tests import probes
from tests.loss_tools import near, normals, stub, targeted, two_ways

CONTRACT = probes.Contract(discrete=True, hypers={"critic_lr": 1e-2})

CRITICS, BATCH, ACTIONS = 3, 5, 4
normal = normals()
ONLINE, TARGET = normal(CRITICS, BATCH, ACTIONS), normal(CRITICS, BATCH, ACTIONS)
REWARD, ACTION = normal(BATCH), np.array([0, 3, 1, 1, 2])
DISCOUNT: Any = np.array([1, 0, 1, 0.9, 1], np.float32)
NOTHING = jnp.zeros((BATCH, 1))
ROWS = Transition(NOTHING, jax.nn.one_hot(ACTION, ACTIONS), REWARD, DISCOUNT, NOTHING)
NETS = dqn.Networks(stub(lambda values, observation: values), ())  # critics that say what their parameters are


def learned(online: Any, target: Any, step: Any = 0, hypers: Any = None, **changes: Any) -> Any:
    """The half after an update of these values, and its metrics."""
    hypers = hypers or dqn.Hypers(gamma=0.9, reward_scale=2.0, tau=0.5)
    half = targeted(as_arrays(hypers), online, target).replace(step=jnp.int32(step))
    policy = dqn.Policy(online, jnp.float32(0.3), half.hypers)
    return dqn.update_critic(NETS, dqn.Config(**changes), half, policy, ROWS, jax.random.key(0))


@pytest.mark.parametrize("double_q", [True, False])
def test_critic_loss(double_q: bool) -> None:
    """The least estimate of the target networks, of the action that the online ones (or they) find best."""
    next_q, scores = TARGET.min(0), (ONLINE if double_q else TARGET).min(0)
    target = 2 * REWARD + 0.9 * DISCOUNT * next_q[np.arange(BATCH), scores.argmax(-1)]
    q = ONLINE[:, np.arange(BATCH), ACTION]
    expected = {"critic_loss": ((q - target) ** 2).mean(1).sum(), "q_mean": q.mean(), "target_mean": target.mean()}
    for metrics in two_ways(lambda *values: learned(*values, double_q=double_q)[1], ONLINE, TARGET):
        near(metrics, expected | {"epsilon": np.float32(0.3)})


def test_target_networks_move_once_a_period() -> None:
    for step, moves in ((0, False), (1, False), (2, True), (3, False)):
        new, _ = learned(ONLINE, TARGET, step, target_period=3)
        near(new.learner.target_params, (TARGET + new.learner.params) / 2 if moves else TARGET)


def test_epsilon_falls_in_a_line_and_says_how_often_actions_are_random() -> None:
    hypers = dqn.Hypers(epsilon_start=0.9, epsilon_end=0.1, exploration_share=0.5)
    half = targeted(as_arrays(hypers), ONLINE, TARGET)
    for epsilon in two_ways(lambda steps: dqn.epsilon(half.replace(step=steps), 100), jnp.int32(25)):
        near(epsilon, 0.5)
    for step, updates, expected in ((0, 100, 0.9), (50, 100, 0.1), (90, 100, 0.1), (1, 0, 0.1)):  # 0: no schedule
        near(dqn.epsilon(half.replace(step=jnp.int32(step)), updates), expected)

    values = jnp.broadcast_to(jnp.array([0.0, 2.0, 1.0, -1.0]), (10_000, ACTIONS))
    for explored in two_ways(lambda e: policies.epsilon_greedy(values, e, jax.random.key(0)), 0.4):
        near(explored.mean(0), [0.1, 0.7, 0.1, 0.1], atol=0.015)
    assert policies.epsilon_greedy(values, jnp.float32(0), jax.random.key(0))[:, 1].all()


@pytest.mark.parametrize(
    ("env", "changes", "words"),
    [
        ("gymnax:Pendulum-v1", {}, "has continuous actions, and dqn discrete ones"),
        ("gymnax:CartPole-v1", {"noise_max": 0.1}, "--noise-max 0.1: dqn chooses among actions"),
    ],
)
def test_refusals(env: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RlxError, match=words):
        build.make_driver(build.setup(config.resolve("dqn", env, critic_hidden_sizes=(8,), **changes)))
