"""What a robot's computer needs in addition to a policy: a contract, example rows, and a runner without rlx.

The contract says what the numbers mean, as far as the environment describes them. The runner, `run_policy.py`, computes
actions with NumPy, onnxruntime or jax, whichever the policy has a file for, stacks single observations where the policy
reads several, and checks itself on the example rows.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rlx import json_files
from rlx.envs.sources import sources
from rlx.errors import RlxError
from rlx.types import Env, EnvState

CONTRACT, EXAMPLES, RUNNER = "contract.json", "examples.npz", "run_policy.py"
ROWS = 100  # of the examples
STEPS = 20  # of the example episode, or twice the history where that is longer


class Reading(NamedTuple):
    """How single observations become what a policy reads."""

    single: list[int]  # the numbers of the environment's single observation that are needed
    columns: list[int]  # of each number that is read, its place among those; the one after the last: the time's share
    lags: list[int]  # and how many steps ago it was observed, if the episode is that old
    time_limit: int | None  # steps that the share is of

    @property
    def is_plain(self) -> bool:
        """Whether a single observation is what the policy reads."""
        return self.columns == list(range(len(self.single))) and not any(self.lags)


def reading(env: Env) -> Reading:
    """Of the actor. Raises RlxError where single observations at the policy's own rate are not enough."""
    spec, every = env.spec, sources(env)
    read = every.cut(slice(*spec.parts[name]) for name in spec.actor_parts) if spec.actor_parts else every
    if read.problem and not read.is_plain:
        raise RlxError(f"--bundle: the policy reads observations between its steps; {read.problem}")
    single = list(dict.fromkeys(number.column for number in read.numbers if number.column < read.size))
    place = {column: i for i, column in enumerate([*single, read.size])}
    columns, lags = [place[number.column] for number in read.numbers], [number.lag for number in read.numbers]
    return Reading(single, columns, lags, read.time_limit)


def contract(env: Env) -> dict[str, Any]:
    """Sizes, ranges, names, units and rates of what a policy reads and commands, as JSON; null where the environment
    does not say.

    Names and units are those of a single observation, `single_size` numbers. Where a policy reads other numbers than
    those, number i is `columns[i]` of `lags[i]` steps ago, or of the episode's first; the column after the last one is
    the share of `time_limit` steps that is over.
    An environment says so in an optional method `interface()`, a dictionary with any of the keys below "observation"
    and "action", and "control_dt" in seconds. A command to the robot is `offset + scale * action`.
    """
    spec = env.spec
    described: dict[str, Any] = getattr(env, "interface", dict)()
    read, of_single = reading(env), described.get("observation", {})
    observation: dict[str, Any] = {"size": spec.actor_size, "single_size": len(read.single), "names": None}
    observation |= {"units": None, "columns": None, "lags": None, "time_limit": read.time_limit}
    for name in ("names", "units"):
        if of_single.get(name) and len(of_single[name]) == sources(env).size:
            observation[name] = [of_single[name][column] for column in read.single]
    if not read.is_plain:
        observation |= {"columns": read.columns, "lags": read.lags}
    action = {"size": spec.action_size, "low": -1.0, "high": 1.0, "names": None, "units": None}
    action |= {"scale": None, "offset": None}
    content = {
        "observation": observation,
        "action": action | described.get("action", {}),
        "control_dt": described.get("control_dt"),
        "episode_length": spec.episode_length,
    }
    return json_files.plain(content)


def example_rows(statistics: Any) -> np.ndarray:
    """Observations `[ROWS, O]` as wide as the training run's, twice their standard deviation, so that clips are met."""
    mean, std = np.asarray(statistics.mean), np.sqrt(np.asarray(statistics.variance))
    noise = np.random.default_rng(0).normal(size=(ROWS, mean.size))
    return (mean + 2 * np.maximum(std, 1e-3) * noise).astype(np.float32)


def example_episode(env: Env, act: Callable[[jax.Array], jax.Array]) -> dict[str, np.ndarray]:
    """The first steps of an episode, single observations and actions; empty where the policy reads those as they are.

    Raises RlxError where what the policy reads cannot be made of single observations, as with noise on past ones.
    """
    read = reading(env)
    if read.is_plain:
        return {}
    count = max(STEPS, 2 * max(read.lags))

    def step(state: EnvState, key: jax.Array) -> tuple[EnvState, tuple[jax.Array, jax.Array]]:
        observation = env.spec.actor_observation(state.observation)
        action = act(observation)
        return env.step(state, action, key)[0], (observation, action)

    keys = jax.random.split(jax.random.key(0), count + 1)
    roll = jax.jit(lambda keys: jax.lax.scan(step, env.reset(keys[0]), keys[1:])[1])
    observations, actions = map(np.asarray, roll(keys))
    pairs = list(zip(read.columns, read.lags, strict=True))
    single = observations[:, [pairs.index((column, 0)) for column in range(len(read.single))]]
    times = np.arange(count, dtype=np.float32) / (read.time_limit or 1)
    rows = np.column_stack([single, times])
    stacked = [rows[np.maximum(np.arange(count) - lag, 0), column] for column, lag in pairs]
    if not np.allclose(np.column_stack(stacked), observations, atol=1e-5):
        raise RlxError(
            "--bundle: what the policy reads is not made of single observations; name history after other wrappers"
        )
    return {"episode_observation": single, "episode_action": actions}


def files(env: Env, observations: np.ndarray, act: Callable[[jax.Array], jax.Array]) -> dict[str, bytes]:
    """The files of a bundle in addition to the policy's, with what the agent does at `observations` `[ROWS, O]`."""
    examples, rows = io.BytesIO(), {"observation": observations, "action": jax.jit(jax.vmap(act))(observations)}
    np.savez(examples, **rows, **example_episode(env, act))  # type: ignore[arg-type]  # names of arrays, not options
    text = json.dumps(contract(env), indent=1, allow_nan=False)
    runner = (Path(__file__).parent / "runner.py").read_bytes()
    return {CONTRACT: text.encode(), EXAMPLES: examples.getvalue(), RUNNER: runner}
