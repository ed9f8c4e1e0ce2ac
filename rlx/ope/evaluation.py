"""Policies evaluated from a data set by every estimator, as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import data
from rlx.data import Dataset
from rlx.data.dataset import LOG_PROB
from rlx.errors import RlxError
from rlx.ope import checks, estimators, intervals, kernels, learning, policies, trajectories
from rlx.ope.estimates import Inputs, Process, estimate, rows_of
from rlx.ope.estimators import make_batch
from rlx.ope.policies import Policy
from rlx.ope.table import Table
from rlx.ope.trajectories import Trajectories

SAMPLES = 4  # actions in the mean over a stochastic policy


def evaluate(
    candidates: Any,
    dataset: Any,
    *,
    gamma: float = 0.99,
    greedy: bool = False,
    values: Mapping[str, Any] | bool = True,
    densities: str = "data",
    features: int = 200,
    clusters: int | Sequence[int] = 50,
    window: int | Sequence[int] = 5,
    bandwidth: float | None = None,
    interval: str = "bootstrap",
    bootstraps: int = 200,
    level: float = 0.95,
    seed: int = 0,
    begins: Callable[[], None] | None = None,
) -> Table:
    """Estimates of policies' values from the episodes of other policies.

    `candidates` are folders of runs, results of `rlx.fit`, `rlx.ope.Policy`s, a list of these, or a dict that names
    them; they act as they explore, or `greedy`. `dataset` is a path, a `rlx.data.Dataset` or a dict of arrays. The
    value is the mean discounted return of an episode, up to the environment's time limit.

    `values` are settings of fitted Q evaluation, such as `{"offline_steps": 50_000}`; False leaves it out, and with it
    the direct and the doubly robust estimates. `densities` of the policies that collected are the "data"'s log_prob,
    or estimated by behaviour cloning where it has none; "estimated"; or "none". `features` is the number of random
    features of marginal weights, which need no densities; 0 leaves these estimates out. `clusters` and `window` are
    those of STAR (see `rlx.ope.star`), or several, each pair an estimator; 0 clusters leave it out. The `bandwidth` of
    the kernel of deterministic policies is by default that of `rlx.ope.kernels.bandwidth`. Intervals are "bootstrap"
    intervals over episodes, or "t", "bernstein" or "hoeffding" where an estimate is a mean of terms. `begins` is called
    once all that can be refused at once has been looked at.

    Raises RlxError for a data set without complete episodes or rewards, and for a policy of another environment.
    """
    checks.check_arguments(gamma, densities, interval, bootstraps, level, bandwidth, seed)
    for name, numbers in (("features", [features]), ("clusters", _several(clusters)), ("window", _several(window))):
        checks.check_numbers(name, numbers)
    if values is False and densities == "none" and not features:
        raise RlxError("values, densities, features: without any of them nothing can be estimated; leave one out")
    if isinstance(values, Mapping):
        learning.check_settings({name: value for name, value in values.items() if name != "samples"})
    source, chosen = data.as_dataset(dataset), policies.named(candidates, greedy)
    for policy in chosen:
        checks.check_fits(policy, source)
    if begins is not None:
        begins()
    episodes, complete, notes = _complete(source)
    limit = trajectories.time_limit_of(source) if (episodes.complete & ~episodes.terminated).any() else None
    log_ratio = q = v = marginal = of_state = None
    spread: dict[str, float] = {}
    change: dict[str, float] = {}
    returns = np.asarray(estimators.returns(make_batch(episodes.reward, episodes.mask), gamma))
    if densities != "none":
        log_prob, more = _behaviour(source, densities, seed)
        ratios = [_log_ratio(policy, source, log_prob, bandwidth, seed) for policy in chosen]
        pairs, is_estimated = zip(chosen, ratios, strict=True), log_prob is not source.rows.extras.get(LOG_PROB)
        notes += more + [note for policy, ratio in pairs if (note := checks.ratio_note(policy, ratio, is_estimated))]
        log_ratio = jnp.stack([episodes.pad(x) for x in ratios])
    if values is not False:
        settings = dict(values) if isinstance(values, Mapping) else {}
        q, v, spread, change = _values(source, chosen, episodes, gamma, limit, seed, settings)
        notes += checks.change_note(change, returns)
    if features:
        options = {"complete": complete, "gamma": gamma, "limit": limit, "samples": SAMPLES, "seed": seed}
        options |= {"number": features}
        marginal = _marginals(source, chosen, episodes, options, [None] * len(chosen))
        if log_ratio is not None:
            of_state = _marginals(source, chosen, episodes, options, ratios)
    inputs = Inputs(log_ratio, q, v, marginal, of_state)
    processes = _processes(source, episodes, limit, clusters, window, seed) if log_ratio is not None else []
    counts = intervals.bootstrap_counts(len(episodes.mask), bootstraps, seed)
    states, sizes = [one.state for one in processes], tuple(one._replace(state=None) for one in processes)
    results = jax.device_get(estimate(episodes.reward, episodes.mask, inputs, gamma, counts, level, states, sizes))
    rows, distributions = rows_of(chosen, results, interval, level)
    notes += [note for policy in chosen if (note := checks.size_note(policy, rows, len(episodes.mask)))]
    on_policy = intervals.student(returns, level)
    return Table(rows, distributions, on_policy, len(returns), spread, notes, change)


def _several(numbers: int | Sequence[int]) -> list[int]:
    return [numbers] if isinstance(numbers, int) else list(numbers)


def _complete(dataset: Dataset) -> tuple[Trajectories, np.ndarray, list[str]]:
    """The complete episodes, which of all these are, `[E]`, and a note on the others."""
    if bad := data.nonfinite(dataset):
        name, at = next(iter(bad.items()))
        raise RlxError(f"{dataset.name}: {name} is not finite in {len(at)} rows, first in row {at[0]}; mend the file")
    every = trajectories.from_dataset(dataset)
    cut, count = int((~every.complete).sum()), len(every.mask)
    if count - cut < 2:
        if not cut:
            raise RlxError(f"{dataset.name}: holds one episode, and an estimate needs two: collect more transitions")
        known = "" if dataset.info.get("episode_length") else ", or name the time limit (episode_length of its info)"
        raise RlxError(
            f"{dataset.name}: {count - cut} of its {count} episodes are complete, and an estimate needs two; the others"
            f" were cut before the task or the time limit ended them: collect more transitions{known}"
        )
    note = f"{dataset.name}: {cut} of {count} episodes were cut by the end of recording, and are left out"
    return every.select(every.complete), every.complete, [note] * (cut > 0)


def _behaviour(dataset: Dataset, densities: str, seed: int) -> tuple[np.ndarray, list[str]]:
    """log mu(a|s) of every row, `[n]`, and a note where it is estimated or odd."""
    stored = dataset.rows.extras.get(LOG_PROB)
    if stored is not None and densities == "data":
        return stored, checks.density_note(dataset, stored)
    why = (
        "has no log_prob (rlx collect and make_dataset's extras store it)"
        if stored is None
        else "has a log_prob that is not used"
    )
    note = f"{dataset.name}: {why}, so the policy that collected is estimated by behaviour cloning"
    behaviour = learning.fit_behaviour(dataset, seed)
    return policies.log_probs(behaviour, dataset.rows.observation, dataset.rows.action), [note]


def _log_ratio(
    policy: Policy, dataset: Dataset, log_prob: np.ndarray, bandwidth: float | None, seed: int
) -> np.ndarray:
    """log pi(a|s) - log mu(a|s) of every row, `[n]`; of a deterministic policy with a kernel for pi."""
    rows = data.choose_parts(dataset, policy.parts).rows
    if policy.log_prob is not None:
        return policies.log_probs(policy, rows.observation, rows.action) - log_prob
    target = policies.actions(policy, rows.observation, seed=seed)[:, 0]
    width = kernels.bandwidth(rows.action, target) if bandwidth is None else bandwidth
    return np.asarray(kernels.log_kernel(rows.action, target, width)) - log_prob


def _values(
    dataset: Dataset,
    chosen: Sequence[Policy],
    episodes: Trajectories,
    gamma: float,
    limit: int | None,
    seed: int,
    settings: dict[str, Any],
) -> tuple[jax.Array, jax.Array, dict[str, float], dict[str, float]]:
    """Q of the actions taken and V, `[C, N, T]` both; of the mean value of a start, by policy, how much the critics
    differ, and how much it changed in the last quarter of the updates."""
    samples = settings.pop("samples", SAMPLES)
    fitted = learning.fit_values(dataset, chosen, gamma, limit, samples, seed, **settings)
    q, v, spread, change = [], [], {}, {}
    start = episodes.row[:, 0]
    at_start = dataset.rows.observation[start], dataset.time[start]
    for i, policy in enumerate(chosen):
        rows = data.choose_parts(dataset, policy.parts).rows
        drawn = policies.actions(policy, rows.observation, samples, seed + 1)
        estimate = partial(fitted.mean, i, dataset.rows.observation, dataset.time)
        of_data, of_policy = (estimate(action) for action in (rows.action[:, None], drawn))  # [n, critics]
        q.append(episodes.pad(of_data.mean(axis=1)))
        v.append(episodes.pad(of_policy.mean(axis=1)))
        spread[policy.name] = float(of_policy[start].mean(axis=0).std())
        before = fitted.before.mean(i, *at_start, drawn[start])
        change[policy.name] = float(of_policy[start].mean() - before.mean())
    return jnp.stack(q), jnp.stack(v), spread, change


def _marginals(
    dataset: Dataset,
    chosen: Sequence[Policy],
    episodes: Trajectories,
    options: Mapping[str, Any],
    log_ratios: Sequence[np.ndarray | None],
) -> jax.Array:
    """Marginal weights `[C, N, T]`, of states and actions, or with log-ratios `[n]` of states."""
    weights = []
    for policy, log_ratio in zip(chosen, log_ratios, strict=True):
        ratio = None if log_ratio is None else np.exp(np.minimum(log_ratio, estimators.MAX_LOG_WEIGHT))
        weights.append(episodes.pad(learning.marginal_weights(dataset, policy, **options, ratio=ratio)))
    return jnp.stack(weights)


def _processes(
    dataset: Dataset,
    episodes: Trajectories,
    limit: int | None,
    clusters: int | Sequence[int],
    window: int | Sequence[int],
    seed: int,
) -> list[Process]:
    """STAR's, one for each number of clusters and each window."""
    numbers, windows = _several(clusters), _several(window)
    processes = []
    for number in (min(number, dataset.size) for number in numbers if number):
        state = episodes.pad(learning.abstract_states(dataset, number, seed))
        for steps in windows:
            alone = len(numbers) == len(windows) == 1
            processes.append(Process("STAR" if alone else f"STAR {number} {steps}", number, steps, limit, state))
    return processes
