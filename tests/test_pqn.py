"""PQN: the returns that it learns from against sums by hand, and its loss."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import halves
from rlx.agents import dqn, pqn
from rlx.halves import HalfState
from rlx.optim import Learner
from rlx.replay import Row
from rlx.types import as_arrays
from tests import probes
from tests.loss_tools import near, normals, stub, two_ways
from tests.test_dqn import ACTION, BATCH, NETS, ONLINE, REWARD, ROWS

CONTRACT = probes.Contract(discrete=True, hypers={"epsilon_end": 0.5, "critic_lr": 1e-2}, updates=1000)

STEPS, ENVS, GAMMA, LAMBDA = 7, 2, 0.9, 0.8
normal = normals(2)
FOLLOWING = normal(STEPS, ENVS, 3)  # values of three actions, at each step's true successor
REWARDS = normal(STEPS, ENVS)


def returns(td_lambda: float, terminated: Any, truncated: Any) -> Any:
    """Of a block whose observations are the values of the actions."""
    nets = dqn.Networks(stub(lambda params, observation: observation[None]), ())
    hypers = pqn.Hypers(gamma=GAMMA, td_lambda=td_lambda, reward_scale=2.0)

    def columns(rewards: Any, following: Any) -> Any:
        rows = Row(None, None, rewards, terminated, truncated, following)
        return pqn.record(nets, dqn.Policy(None, jnp.zeros(()), hypers), rows, {})["value_target"]

    return two_ways(columns, REWARDS, FOLLOWING)


def ended(step: int) -> np.ndarray:
    """Flags [STEPS, ENVS], true at this step of the first environment."""
    return np.arange(STEPS * ENVS).reshape(STEPS, ENVS) == step * ENVS


def test_a_lambda_return_is_the_mean_of_n_step_returns() -> None:
    """Each bootstraps from the best value of its true successor, (1 - lambda) lambda^(n - 1) times; the last, at the
    end of the block or of the episode, has what is left."""
    terminated, truncated = ended(2), ended(4)
    best = FOLLOWING.max(-1)
    expected = np.zeros((STEPS, ENVS))
    for t, e in np.ndindex(STEPS, ENVS):
        for k in range(t, STEPS):
            steps = k - t + 1
            last = k == STEPS - 1 or terminated[k, e] or truncated[k, e]
            n_step = sum(GAMMA**i * 2 * REWARDS[t + i, e] for i in range(steps))
            n_step += GAMMA**steps * best[k, e] * (not terminated[k, e])
            expected[t, e] += LAMBDA ** (steps - 1) * (1 if last else 1 - LAMBDA) * n_step
            if last:
                break
    for target in returns(LAMBDA, terminated, truncated):
        near(target, expected, rtol=1e-4)


def test_with_lambda_1_it_is_the_discounted_return() -> None:
    """And with lambda 0 the one-step target."""
    never = np.zeros((STEPS, ENVS), bool)
    discounts = GAMMA ** np.arange(STEPS)
    near(returns(1.0, never, never)[0][0], discounts @ (2 * REWARDS) + GAMMA**STEPS * FOLLOWING[-1].max(-1), rtol=1e-4)
    near(returns(0.0, never, never)[0], 2 * REWARDS + GAMMA * FOLLOWING.max(-1), rtol=1e-4)


def test_critic_loss_and_rate() -> None:
    """The learning rate falls in a line, here by half after half of the updates; without a schedule it stays."""
    hypers = as_arrays(pqn.Hypers(critic_lr=0.1))
    policy, batch = dqn.Policy(ONLINE, jnp.float32(0.3), hypers), ROWS._replace(extras={"value_target": REWARD})

    def update(online: Any, updates: int = 10) -> Any:
        half = HalfState.create(hypers, Learner.create(online, halves.limited_adam(hypers))).replace(step=jnp.int32(5))
        return pqn.update_critic(NETS, pqn.Config(schedule_updates=updates), half, policy, batch, jax.random.key(0))

    q = ONLINE[:, np.arange(BATCH), ACTION]
    expected = {"critic_loss": ((q - REWARD) ** 2).mean(1).sum(), "q_mean": q.mean(), "epsilon": np.float32(0.3)}
    for new, metrics in two_ways(update, ONLINE):
        near(metrics, expected)
        near(jnp.abs(new.learner.params - ONLINE).max(), 0.05, rtol=1e-3)
    near(jnp.abs(update(ONLINE, 0)[0].learner.params - ONLINE).max(), 0.1, rtol=1e-3)
