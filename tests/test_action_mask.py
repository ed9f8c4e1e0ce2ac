"""Discrete actions that an observation does not allow are never taken, by any agent, and cost no finite number."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx
from rlx import agents, envs, networks, policies
from rlx.envs.base import advance, begin
from rlx.errors import RlxError
from rlx.types import EnvState, Key, Spec, Step
from tests import probes
from tests.loss_tools import stub

pytestmark = pytest.mark.usefixtures("reuse_programs")

SPEC = Spec(
    observation=jax.ShapeDtypeStruct((4,), jnp.float32),
    action=jax.ShapeDtypeStruct((3,), jnp.float32),
    episode_length=6,
    parts={"place": (0, 1), "possible": (1, 4)},
    num_actions=3,
    action_mask="possible",
)
DISCRETE = ("dqn", "sac_discrete", "pqn", "ppo")


class Forbidding(NamedTuple):
    """A counter of steps, of which each forbids the action of its number, modulo 3: reward 1, but -100 for that."""

    spec: Spec = SPEC

    def _observation(self, time: jax.Array) -> jax.Array:
        return jnp.concatenate([time[None].astype(jnp.float32), jnp.arange(3) != time % 3])

    def reset(self, key: Key) -> EnvState:
        del key
        return begin(jnp.zeros((), jnp.int32), self._observation(jnp.zeros((), jnp.int32)))

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        del key
        reward = jnp.where(jnp.argmax(action) == state.inner % 3, -100.0, 1.0)
        time = state.inner + 1
        ended = jnp.zeros((), bool)
        return advance(state, time, self._observation(time), reward, ended, self.spec.episode_length)


def test_no_part_of_a_run_takes_an_impossible_action() -> None:
    """Neither the warm-up, nor exploration, nor evaluation; the driver leaves the mask as it is."""
    sizes: dict[str, Any] = {"num_envs": 4, "batch_size": 8, "pool_size": 4, "eval_episodes": 2, "log_every": 24}
    sizes |= {"warmup_env_steps": 24, "total_env_steps": 96, "critic_hidden_sizes": (8,), "eval_every": 96}
    result = rlx.fit("dqn", Forbidding(), **sizes, epsilon_end=0.5, progress=False)
    returns = [line["train/episode_return"] for line in result.metrics if "train/episode_return" in line]
    assert len(returns) >= 3 and np.all(np.array(returns) == 6) and (result.evaluation.returns == 6).all()


@pytest.mark.parametrize("name", DISCRETE)
def test_impossible_actions_have_probability_0_and_losses_are_finite(name: str) -> None:
    module = agents.load(name)
    agent = module.make(probes.small(module.Config, width=8, layers=1), SPEC)
    mask = np.random.default_rng(0).random((500, 3)) < 0.5
    mask[:, 1] |= ~mask.any(axis=1)
    batch = probes.batches(probes.PROBES["policy"], 1, 500)
    observation = jnp.concatenate([batch.observation[0], mask], axis=-1)

    @jax.jit
    def act_and_learn(key: Key) -> Any:
        state = agent.init(key)
        policy = agent.acting_params(state)
        actions = [act(policy, observation, key) for act in (agent.act, agent.act_greedy)]
        explored, info = actions[0]
        one = jax.tree.map(lambda x: x[0], batch)._replace(observation=observation, next_observation=observation)
        one = one._replace(action=explored)
        if agent.records:
            one = probes.recorded(agent, policy, one, info)
        state, metrics = agent.update(state, one, key)
        return [action for action, _ in actions], info, metrics, agent.act_greedy(policy, observation, key)[0]

    (explored, greedy), info, metrics, after = act_and_learn(jax.random.key(0))
    for actions in (explored, greedy, after):
        assert (actions.sum(-1) == 1).all() and not (actions * ~mask).any()
    assert (explored.sum(0) > 50).all()  # all others are tried
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((info, metrics)))


def test_a_probability_of_exactly_0_without_nan() -> None:
    """Also where every action is impossible, as after the end."""
    logits = jnp.array([[1.0, networks.IMPOSSIBLE, 2.0], [networks.IMPOSSIBLE] * 3])
    probs, log_prob = policies.probabilities(stub(lambda params, observation: params), logits, jnp.zeros(1))
    assert probs[0, 1] == 0 and np.isfinite(probs).all() and np.isfinite(log_prob).all()


@pytest.mark.parametrize("wrong", [{"action_mask": "legal"}, {"num_actions": 0}, {"action_mask": "place"}])
def test_a_mask_must_be_a_part_with_a_number_for_each_action(wrong: dict[str, Any]) -> None:
    with pytest.raises(RlxError, match=r"spec.action_mask .* must be a part of the observation"):
        envs.quick(Forbidding(SPEC._replace(**wrong)))
