"""What evaluation learns from the data set, by the offline driver: values of policies (FQE), and who collected (BC)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import build, config, data, experiment
from rlx.config import RunConfig
from rlx.data import Dataset
from rlx.envs import no_env
from rlx.ope import fqe
from rlx.ope.policies import Policy, actions, from_snapshots, in_blocks
from rlx.train.task import Task, observed

FQE: dict[str, Any] = {"offline_steps": 20_000, "critic_hidden_sizes": (256, 256)}
BC: dict[str, Any] = {"offline_steps": 5_000, "actor_hidden_sizes": (256, 256)}
LARGEST = 10.0  # of scaled returns: an optimiser's steps are of one size, whatever the rewards'


class Values(NamedTuple):
    """Estimates of C policies by their critics."""

    snapshot: Any  # agent and statistics, [C, ...]
    estimate: Callable[..., Any]  # (snapshot of one, observation [B, O], action [B, K, A]) -> [N, B, K M]
    limit: int | None  # as `fit_values` has it

    def atoms(self, candidate: int, observation: np.ndarray, time: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Estimates at raw observations `[n, O]` and K actions `[n, K, A]`: `[n, N, K M]`, in units of rewards."""
        one = jax.tree.map(lambda x: x[candidate], self.snapshot)
        rows = with_time(observation, time, self.limit)
        return in_blocks(lambda i, *leaves: np.asarray(self.estimate(one, *leaves)).swapaxes(0, 1), rows, action)


def with_time(observation: np.ndarray, time: np.ndarray, limit: int | None) -> np.ndarray:
    """Observations `[n, O]` with the share of the time limit that has passed, `[n, O + 1]`; as they are without one."""
    if limit is None:
        return observation
    return np.concatenate([observation, (time[:, None] / limit).astype(np.float32)], axis=1)


def fit_values(
    dataset: Dataset,
    policies: Sequence[Policy],
    gamma: float,
    limit: int | None,
    samples: int = 4,
    seed: int = 0,
    **settings: Any,
) -> Values:
    """Values of policies by FQE; `settings` are those of `rlx train`, `FQE` by default.

    With a time `limit` the value is that of the rest of an episode: an observation then holds the time, and what is cut
    at the limit ends there. Without, episodes have no end but terminations. Expectations over a stochastic policy are
    means of `samples` actions.
    """
    rows = dataset.rows
    at_limit = rows.truncated & (dataset.time + 1 >= (np.inf if limit is None else limit))
    chosen = [data.choose_parts(dataset, policy.parts).rows.next_observation for policy in policies]
    drawn = [actions(policy, rows, samples, seed) for policy, rows in zip(policies, chosen, strict=True)]
    width = max(x.shape[1] for x in drawn)
    target = np.stack([np.resize(x.swapaxes(0, 1), (width, *x[:, 0].shape)).swapaxes(0, 1) for x in drawn], axis=1)
    extended = data.make_dataset(
        {"name": dataset.name},
        observation=with_time(rows.observation, dataset.time, limit),
        action=rows.action,
        reward=rows.reward,
        terminated=rows.terminated | at_limit,
        truncated=rows.truncated & ~at_limit,
        next_observation=with_time(rows.next_observation, dataset.time + 1, limit),
        extras={fqe.TARGET_ACTION: target},
    )
    scale = LARGEST / max(float(np.abs(_discounted_returns(dataset, gamma)).max()), 1e-6)
    candidates = list(range(len(policies)))
    chosen_settings = FQE | {"reward_scale": scale} | settings | {"gamma": gamma, "candidate": candidates, "seed": seed}
    run_config, task, snapshot = _train("rlx.ope.fqe", extended, ratio="1:0", **chosen_settings)
    nets = fqe.make_networks(run_config.network, task.env.spec)

    def estimate(snapshot: Any, observation: jax.Array, action: jax.Array) -> jax.Array:
        seen = observed(task, snapshot["statistics"], observation)[:, None]
        seen = jnp.broadcast_to(seen, (*action.shape[:2], seen.shape[-1]))
        found = fqe.atoms(nets, snapshot["agent"].critic, seen, action)
        return found.reshape(*found.shape[:2], -1)

    return Values(snapshot, jax.jit(estimate), limit)


def fit_behaviour(dataset: Dataset, seed: int = 0, **settings: Any) -> Policy:
    """The Gaussian most likely to have made the data, by behaviour cloning; `settings` as in `fit_values`."""
    run_config, task, snapshot = _train("bc", dataset, ratio="0:1", **BC | settings | {"seed": seed})
    one = jax.tree.map(lambda x: jnp.asarray(x[0]), snapshot)
    return from_snapshots({"behaviour": one}, run_config, task)[0]


def _train(agent: str, dataset: Dataset, **settings: Any) -> tuple[RunConfig, Task, Any]:
    """The configuration of an offline run without an environment, its task, and the policy snapshot it ends with."""
    env = no_env.name_of(dataset.rows.observation.shape[1], dataset.rows.action.shape[1])
    chosen: dict[str, Any] = {"total_env_steps": 0, "dataset": "data"} | settings
    prepared = build.setup(config.resolve(agent, env, **chosen), datasets=[dataset])
    driver = build.make_driver(prepared, offline=True)
    *_, last = experiment.run(prepared, driver)
    return prepared.config, driver.task, driver.fetch(driver.policy_snapshot(last.report.state))


def _discounted_returns(dataset: Dataset, gamma: float) -> np.ndarray:
    """Of every episode, `[E]`."""
    return np.bincount(dataset.episode, weights=dataset.rows.reward * gamma ** dataset.time.astype(float))
