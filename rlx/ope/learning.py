"""What evaluation learns from the data set, by the offline driver: values of policies (FQE), and who collected (BC)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import build, config, data, experiment
from rlx.config import RunConfig
from rlx.data import Dataset
from rlx.envs import no_env
from rlx.ope import fqe, marginal, star
from rlx.ope.policies import Policy, actions, from_snapshots, in_blocks
from rlx.train.task import Task, observed
from rlx.types import Key

FQE: dict[str, Any] = {"offline_steps": 20_000, "critic_hidden_sizes": (256, 256), "layer_norm": True, "tau": 0.05}
BC: dict[str, Any] = {"offline_steps": 5_000, "actor_hidden_sizes": (256, 256)}
BLOCK = 2**12  # rows whose features are in memory at once
CLUSTERED = 2**17  # rows that k-means learns its centres from
STRETCH_S = 10.0  # see `rlx.train.loop.train`; nobody asks this training to end
LARGEST = 10.0  # of scaled returns: an optimiser's steps are of one size, whatever the rewards'


class Values(NamedTuple):
    """Estimates of C policies by their critics."""

    snapshot: Any  # agent and statistics, [C, ...]
    earlier: Any  # the same after three quarters of the updates
    estimate: Callable[..., Any]  # (snapshot of one, observation [B, O], action [B, K, A]) -> [N, B]
    draw: Callable[..., Any]  # (snapshot of one, observation, action, key) -> [N, B, K], returns
    limit: int | None  # as `fit_values` has it

    @property
    def before(self) -> Values:
        """What the critics said after three quarters of the updates; estimates that still move have not settled."""
        return self._replace(snapshot=self.earlier)

    def mean(self, candidate: int, observation: np.ndarray, time: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Means over K actions `[n, K, A]` of values at raw observations `[n, O]`: of each critic, `[n, N]`."""
        one = jax.tree.map(lambda x: x[candidate], self.snapshot)
        rows = with_time(observation, time, self.limit)
        return in_blocks(lambda i, *leaves: np.asarray(self.estimate(one, *leaves)).swapaxes(0, 1), rows, action)

    def returns(
        self, candidate: int, observation: np.ndarray, time: np.ndarray, action: np.ndarray, seed: int = 0
    ) -> np.ndarray:
        """A return after each action `[n, K, A]`, drawn from each critic's distribution: `[n, N, K]`."""
        one, key = jax.tree.map(lambda x: x[candidate], self.snapshot), jax.random.key(seed)
        rows = with_time(observation, time, self.limit)

        def drawn(i: int, *leaves: np.ndarray) -> np.ndarray:
            return np.asarray(self.draw(one, *leaves, jax.random.fold_in(key, i))).swapaxes(0, 1)

        return in_blocks(drawn, rows, action)


def with_time(observation: np.ndarray, time: np.ndarray, limit: int | None) -> np.ndarray:
    """Observations `[n, O]` with the share of the time limit that has passed, `[n, O + 1]`; as they are without one."""
    if limit is None:
        return observation
    return np.concatenate([observation, (time[:, None] / limit).astype(np.float32)], axis=1)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises RlxError for settings that `fit_values` does not take."""
    chosen: dict[str, Any] = FQE | {"total_env_steps": 0, "dataset": "data"} | dict(settings)
    build.final_plan(config.resolve("rlx.ope.fqe", no_env.name_of(1, 1), **chosen))


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
        extras={fqe.TARGET_ACTION: target.reshape(len(target), -1)},
    )
    scale = LARGEST / max(float(np.abs(_discounted_returns(dataset, gamma)).max()), 1e-6)
    candidates = list(range(len(policies)))
    least, most = return_bounds(rows.reward, gamma, limit)
    of_data = {"reward_scale": scale, "least": least, "most": most, "num_candidates": len(policies)}
    chosen_settings = FQE | of_data | settings | {"gamma": gamma, "candidate": candidates, "seed": seed}
    run_config, task, earlier, snapshot = _train("rlx.ope.fqe", extended, ratio="1:0", **chosen_settings)
    nets = fqe.make_networks(run_config.network, task.env.spec)

    def seen(snapshot: Any, observation: jax.Array, action: jax.Array) -> jax.Array:
        normalised = observed(task, snapshot["statistics"], observation)[:, None]
        return jnp.broadcast_to(normalised, (*action.shape[:2], normalised.shape[-1]))

    def estimate(snapshot: Any, observation: jax.Array, action: jax.Array) -> jax.Array:
        rows = seen(snapshot, observation, action)
        return fqe.returns(nets, snapshot["agent"].critic, rows, action).mean(axis=-1)

    def draw(snapshot: Any, observation: jax.Array, action: jax.Array, key: Key) -> jax.Array:
        return fqe.draws(nets, snapshot["agent"].critic, seen(snapshot, observation, action), action, key)

    return Values(snapshot, earlier, jax.jit(estimate), jax.jit(draw), limit)


def return_bounds(reward: np.ndarray, gamma: float, limit: int | None) -> tuple[float, float]:
    """The least and the largest return of an episode of at most `limit` steps whose rewards are within the data's.

    Without these bounds values of actions that the data lacks may grow without end, each from the next.
    """
    steps = np.inf if limit is None else limit
    total = float(steps) if gamma == 1 else (1 - gamma**steps) / (1 - gamma)
    ends = min(0.0, float(reward.min())), max(0.0, float(reward.max()))
    least, most = (min(max(total * end, -fqe.UNBOUNDED), fqe.UNBOUNDED) if end else 0.0 for end in ends)
    return least, most


def marginal_weights(
    dataset: Dataset,
    policy: Policy,
    complete: np.ndarray,
    gamma: float,
    limit: int | None,
    samples: int,
    number: int,
    seed: int = 0,
    ratio: np.ndarray | None = None,
) -> np.ndarray:
    """Marginal weights of every row, `[n]`, over the episodes that are `complete` `[E]`; 0 in the others.

    Of states and actions, or with `ratio` `[n]`, pi(a|s) / mu(a|s), of states. Features are `number` random Fourier
    features of observation (see `with_time`) and action. `limit` and `samples` are as in `fit_values`.
    """
    keep = complete[dataset.episode]
    rows, time = dataset.rows, dataset.time[keep]
    observation = with_time(rows.observation, dataset.time, limit)
    state, following = observation[keep], with_time(rows.next_observation, dataset.time + 1, limit)[keep]
    if ratio is None:
        mine = data.choose_parts(dataset, policy.parts).rows
        taken = rows.action[keep][:, None]
        after = actions(policy, mine.next_observation[keep], samples, seed)
        at_start = actions(policy, mine.observation[keep][time == 0], samples, seed + 1)
    else:
        taken = after = np.zeros((len(state), 1, 0), np.float32)
        at_start = taken[time == 0]
    known = np.concatenate([state, taken[:, 0]], axis=1)
    mean, scale = known.mean(axis=0), np.maximum(known.std(axis=0), 1e-3)
    going_on = ~(rows.terminated | (dataset.time + 1 >= (np.inf if limit is None else limit)))[keep]
    weight = going_on if ratio is None else going_on * ratio[keep]
    states, actions_of = (state, following, state[time == 0]), (taken, after, at_start)
    args = states, actions_of, (mean, scale), weight.astype(np.float32), (gamma**time).astype(np.float32)
    every = np.zeros(dataset.size, np.float32)
    every[keep] = _weights(*args, gamma, jax.random.key(seed), number)
    return every


@partial(jax.jit, static_argnames="number")
def _weights(
    states: Any, actions: Any, unit: Any, weight: Any, base: Any, gamma: Any, key: Key, number: int
) -> jax.Array:
    """Marginal weights of rows from their states `[n, O]` and actions `[n, K, A]`, here, next and first.

    Features are made block by block, twice, since those of a million rows take gigabytes.
    """

    def features(state: jax.Array, action: jax.Array) -> jax.Array:
        """The mean over K actions, `[n, D]`, one action at a time."""

        def add(total: jax.Array, one: jax.Array) -> tuple[jax.Array, None]:
            x = (jnp.concatenate([state, one], axis=-1) - unit[0]) / unit[1]
            return total + marginal.fourier_features(x, key, number), None

        total, _ = jax.lax.scan(add, jnp.zeros((len(state), number + 1)), action.swapaxes(0, 1))
        return total / action.shape[1]

    def blocks(leaf: Any) -> jax.Array:
        """`[n, ...]` as `[blocks, BLOCK, ...]`, with rows of zeros, which weigh nothing, at the end."""
        padding = [(0, -len(leaf) % BLOCK)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, padding).reshape(-(-len(leaf) // BLOCK), BLOCK, *leaf.shape[1:])

    def add(sums: Any, block: Any) -> tuple[Any, None]:
        (state, following), (taken, after), weight, base = block
        here, later = features(state, taken), features(following, after)
        more = marginal.equations(here, here - gamma * weight[:, None] * later, base)
        return jax.tree.map(jnp.add, sums, more), None

    taken = states[0], actions[0]
    zeros = jnp.zeros((number + 1, number + 1)), jnp.zeros(number + 1)
    sums, _ = jax.lax.scan(add, zeros, jax.tree.map(blocks, (states[:2], actions[:2], weight, base)))
    alpha = marginal.solve(sums, features(states[2], actions[2]))
    sizes = jax.lax.map(lambda block: features(*block) @ alpha, jax.tree.map(blocks, taken))
    return base * (1 + sizes.reshape(-1)[: len(base)])


def abstract_states(dataset: Dataset, number: int, seed: int = 0) -> np.ndarray:
    """The cluster of every row, `[n]`, by k-means of observations of unit variance.

    Of many rows the centres are those of `CLUSTERED` random ones.
    """
    x = dataset.rows.observation
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-3)
    some = x
    if len(x) > CLUSTERED:
        some = x[np.random.default_rng(seed).choice(len(x), CLUSTERED, replace=False)]
    centres, state = jax.jit(star.cluster, static_argnums=2)(some, jax.random.key(seed), number)
    if some is x:
        return np.asarray(state)
    nearest = jax.jit(star.nearest)
    return in_blocks(lambda i, rows: np.asarray(nearest(rows, centres)), x)


def fit_behaviour(dataset: Dataset, seed: int = 0, **settings: Any) -> Policy:
    """The Gaussian most likely to have made the data, by behaviour cloning; `settings` as in `fit_values`."""
    run_config, task, _, snapshot = _train("bc", dataset, ratio="0:1", **BC | settings | {"seed": seed})
    one = jax.tree.map(lambda x: jnp.asarray(x[0]), snapshot)
    return from_snapshots({"behaviour": one}, run_config, task)[0]


def _train(agent: str, dataset: Dataset, **settings: Any) -> tuple[RunConfig, Task, Any, Any]:
    """The configuration of an offline run without an environment, its task, and its policy snapshots after three
    quarters of the updates and at the end."""
    env = no_env.name_of(dataset.rows.observation.shape[1], dataset.rows.action.shape[1])
    updates = settings["offline_steps"]
    chosen: dict[str, Any] = {"total_env_steps": 0, "dataset": "data", "log_every": math.ceil(updates / 4)} | settings
    prepared = build.setup(config.resolve(agent, env, **chosen), datasets=[dataset])
    driver = build.make_driver(prepared, offline=True)
    earlier = snapshot = None
    for _, report, _ in experiment.run(prepared, driver, stretch_s=STRETCH_S):
        snapshot = driver.fetch(driver.policy_snapshot(report.state))
        if earlier is None and 4 * report.run_step >= 3 * updates:
            earlier = snapshot
    return prepared.config, driver.task, earlier, snapshot


def _discounted_returns(dataset: Dataset, gamma: float) -> np.ndarray:
    """Of every episode, `[E]`."""
    return np.bincount(dataset.episode, weights=dataset.rows.reward * gamma ** dataset.time.astype(float))
