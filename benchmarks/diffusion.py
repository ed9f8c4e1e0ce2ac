"""What diffusion policies cost: DQL's update over EDP's, and SRPO's actions over those of a chain of 15 steps.

`python -m benchmarks.diffusion` prints processor time, of each in turn, so that what slows the machine slows both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import agents
from rlx.types import Agent, Spec, Transition

SPEC = Spec(jax.ShapeDtypeStruct((17,), jnp.float32), jax.ShapeDtypeStruct((6,), jnp.float32), 1000)
SMALL: dict[str, Any] = {"score_width": 64, "score_blocks": 2, "critic_hidden_sizes": (64, 64)}
KEY = jax.random.key(0)


def make(name: str, **config: Any) -> tuple[Agent, Any]:
    """An agent, and its first state."""
    module = agents.load(name)
    agent: Agent = module.make(module.Config(**config), SPEC)
    return agent, jax.jit(agent.init)(KEY)


def compare(name: str, slow: Callable[[], Any], fast: Callable[[], Any], calls: int, rounds: int = 7) -> None:
    """Prints milliseconds of a call of each, and the median of the ratios of neighbours."""

    def milliseconds(function: Callable[[], Any], count: int) -> float:
        start = time.process_time()
        for _ in range(count):
            jax.block_until_ready(function())
        return (time.process_time() - start) / count * 1000

    for function in (slow, fast):
        jax.block_until_ready(function())  # compiles
    times = np.array([(milliseconds(slow, max(calls // 10, 1)), milliseconds(fast, calls)) for _ in range(rounds)])
    ratios = np.sort(times[:, 0] / times[:, 1])
    first, second = np.median(times, axis=0)
    print(f"{name}: {first:.3g} ms over {second:.3g} ms, {np.median(ratios):.3g} ({ratios[0]:.3g} to {ratios[-1]:.3g})")


def updates(steps: int) -> None:
    """A whole update of both halves, minibatches of 256, with chains of so many steps."""
    normal = np.random.default_rng(0).normal
    rows, one = jnp.float32(normal(size=(2, 256, 17))), jnp.ones(256)
    batch = Transition(rows[0], jnp.tanh(jnp.float32(normal(size=(256, 6)))), one, one, rows[1])

    def update(name: str) -> Callable[[], Any]:
        agent, state = make(name, diffusion_steps=steps, **SMALL)
        compiled = jax.jit(agent.update)
        return lambda: compiled(state, batch, KEY)

    compare(f"update of dql over edp, {steps} steps", update("dql"), update("edp"), calls=20)


def actions(rows: int, small: bool, calls: int, rounds: int = 7) -> None:
    """Actions at so many observations: SRPO's policy, and IDQL's chain of 15 steps without a choice among samples."""
    observation, sizes = jnp.ones((rows, 17)), SMALL if small else {}

    def act(name: str, **config: Any) -> Callable[[], Any]:
        agent, state = make(name, **sizes, **config)
        policy, compiled = agent.acting_params(state), jax.jit(agent.act_greedy)
        return lambda: compiled(policy, observation, KEY)[0]

    chain = act("idql", diffusion_steps=15, num_samples=1)
    policy = act("srpo", actor_hidden_sizes=(64, 64) if small else (256, 256))
    name = f"actions at {rows} observations, {'small' if small else 'default'} networks"
    compare(f"{name}: idql over srpo", chain, policy, calls, rounds)


if __name__ == "__main__":
    updates(100)
    actions(1, small=True, calls=1000)
    actions(4096, small=True, calls=10)
    actions(1, small=False, calls=1000)
    actions(4096, small=False, calls=10, rounds=3)
