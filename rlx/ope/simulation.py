"""True values that estimates are compared with: means of the returns of simulated episodes."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from rlx.evaluate import evaluate
from rlx.ope.policies import Policy
from rlx.types import Env, EnvState, Key, Step


class Discounted:
    """An environment whose reward at step t is multiplied by gamma^t."""

    def __init__(self, env: Env, gamma: float) -> None:
        self.env, self.gamma, self.spec = env, gamma, env.spec

    def reset(self, key: Key) -> EnvState:
        return self.env.reset(key)

    def step(self, state: EnvState, action: jax.Array, key: Key) -> tuple[EnvState, Step]:
        after, step = self.env.step(state, action, key)
        return after, step._replace(reward=step.reward * self.gamma**state.time)


def simulate(policies: list[Policy], env: Env, episodes: int, gamma: float = 1.0, seed: int = 0) -> np.ndarray:
    """Discounted returns of `episodes` episodes of each policy in its environment, `[P, episodes]`.

    All policies face the same starts. Policies that share their functions are simulated by one program.
    """
    discounted, programs = Discounted(env, gamma), {}
    every = []
    for policy in policies:
        if policy.sample not in programs:

            def returns(params: Any, key: Key, sample: Any = policy.sample) -> jax.Array:
                return evaluate(
                    discounted, lambda observation, key: sample(params, observation, key), episodes, key
                ).returns

            programs[policy.sample] = jax.jit(returns)
        every.append(np.asarray(programs[policy.sample](policy.params, jax.random.key(seed))))
    return np.stack(every)
