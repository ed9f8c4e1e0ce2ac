"""What a driver trains: agent, environment and settings of one part of a run, and what its reports add up.

The three roles of an iteration are pure functions of a `Task` and one logical shard: collecting is in
`rlx.train.acting`, both kinds of learning in `rlx.train.learning`; drivers decide where and in which order they run.
An iteration collects one block of K vector steps, and makes `bursts` of `critic_updates` critic and `actor_updates`
actor updates: a burst for each vector step, on minibatches drawn from replay, or, on-policy, for each epoch, on
minibatches that hold every row of the newest block once. Random keys depend on (root key, role, iteration, logical
shard or global environment, update), never on the device.
"""

from __future__ import annotations

from typing import NamedTuple

import jax

from rlx import normalize, parallel, replay
from rlx.envs.base import VectorEnv
from rlx.replay import Replay
from rlx.rollout import Episodes
from rlx.train import columns
from rlx.train.columns import Columns
from rlx.train.config import TrainConfig
from rlx.train.nonfinite import Alarms
from rlx.train.plan import Plan
from rlx.types import Agent, Env, Metrics, Read

# the first index of every key
INIT_AGENT, INIT_ENV, POOL, COLLECT, ACT, SAMPLE, CRITIC, ACTOR, OFFLINE, HOLD = range(10)


class Task(NamedTuple):
    """All that a driver needs: the agent, the environment (alone and as one shard's batch) and the settings."""

    agent: Agent
    env: Env
    batch: VectorEnv  # one logical shard of environments
    config: TrainConfig
    plan: Plan
    axes: parallel.Axes  # what gradients and statistics are averaged over
    columns: Columns = Columns()  # of replay rows, in addition to the fields

    @property
    def reads(self) -> dict[str, Read]:
        """The extras of a minibatch."""
        return columns.reads(self.agent, self.columns.recorded)

    @property
    def reach(self) -> int:
        """Vector steps from the first row of a sample to the last one that it depends on, both included."""
        return replay.reach(self.reads, self.config.n_step, self.agent.window)


Tables = tuple[Replay, ...]  # data sets, each a full ring of one column


class Source(NamedTuple):
    """What minibatches are drawn from: what was collected, data sets, or a share of each."""

    ring: Replay | None
    data: Tables | None = None


class Totals(NamedTuple):
    """What a driver reports, added up over iterations (see `total`); the host divides."""

    metrics: Metrics  # of the iterations that learned, each a mean over its updates
    learned: jax.Array  # [] iterations that learned
    episodes: Episodes
    lags: dict[str, jax.Array] = {}  # noqa: RUF012 -- of the pipeline: iterations by staleness 0, 1, 2, more, of each input [4]
    alarms: Alarms = {}  # noqa: RUF012 -- of each quantity that is watched


def observed(task: Task, statistics: normalize.Statistics, observation: jax.Array) -> jax.Array:
    """The observation as agents see it: normalised and clipped where the run normalises, `[..., O]`."""
    if not task.config.normalize_observations:
        return observation
    normalized = normalize.normalize(statistics, observation, task.config.observation_clip)
    if mask := task.env.spec.action_mask:  # which is 0 or 1
        columns = slice(*task.env.spec.parts[mask])
        normalized = normalized.at[..., columns].set(observation[..., columns])
    return normalized
