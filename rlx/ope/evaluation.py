"""Policies evaluated from a data set by every estimator, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import data
from rlx.data import Dataset
from rlx.errors import RlxError
from rlx.ope import estimators, intervals, kernels, learning, policies, trajectories
from rlx.ope.estimates import Inputs, Process, estimate, rows_of
from rlx.ope.estimators import make_batch
from rlx.ope.policies import Policy
from rlx.ope.table import FEW, Row, Table
from rlx.ope.trajectories import Trajectories

SAMPLES = 4  # actions in the mean over a stochastic policy
INTERVALS = ("bootstrap", *intervals.OF_TERMS)
SETTLED = 0.1  # standard deviations of the data's returns by which values may change in the last quarter of updates
FAR = 2.0  # a mean of ratios, which should be 1, beyond this or below its inverse is worth a note


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
    intervals over episodes, or "t", "bernstein" or "hoeffding" where an estimate is a mean of terms.

    Raises RlxError for a data set without complete episodes or rewards, and for a policy of another environment.
    """
    _check(gamma, densities, interval, bootstraps, level, bandwidth)
    source, chosen = data.as_dataset(dataset), policies.named(candidates, greedy)
    for policy in chosen:
        check_fits(policy, source)
    episodes, complete, notes = _complete(source)
    limit = trajectories.time_limit_of(source) if (episodes.complete & ~episodes.terminated).any() else None
    log_ratio = q = v = marginal = of_state = None
    spread: dict[str, float] = {}
    change: dict[str, float] = {}
    returns = np.asarray(estimators.returns(make_batch(episodes.reward, episodes.mask), gamma))
    if densities != "none":
        log_prob, more = _behaviour(source, densities, seed)
        ratios = [_log_ratio(policy, source, log_prob, bandwidth, seed) for policy in chosen]
        pairs = zip(chosen, ratios, strict=True)
        notes += more + [note for policy, ratio in pairs if (note := _ratio_note(policy, ratio, bool(more)))]
        log_ratio = jnp.stack([episodes.pad(x) for x in ratios])
    if values is not False:
        settings = dict(values) if isinstance(values, Mapping) else {}
        q, v, spread, change = _values(source, chosen, episodes, gamma, limit, seed, settings)
        notes += _change_note(change, returns)
    if features:
        options = {"complete": complete, "gamma": gamma, "limit": limit, "samples": SAMPLES, "seed": seed}
        options |= {"number": features}
        marginal = _marginals(source, chosen, episodes, options, [None] * len(chosen))
        if log_ratio is not None:
            of_state = _marginals(source, chosen, episodes, options, ratios)
    inputs = Inputs(log_ratio, q, v, marginal, of_state)
    if all(part is None for part in inputs):
        raise RlxError("values, densities, features: without any of them nothing can be estimated; leave one out")
    processes = _processes(source, episodes, limit, clusters, window, seed) if log_ratio is not None else []
    counts = intervals.bootstrap_counts(len(episodes.mask), bootstraps, seed)
    states, sizes = [one.state for one in processes], tuple(one._replace(state=None) for one in processes)
    results = jax.device_get(estimate(episodes.reward, episodes.mask, inputs, gamma, counts, level, states, sizes))
    rows, distributions = rows_of(chosen, results, interval, level)
    notes += [note for policy in chosen if (note := _size_note(policy, rows, len(episodes.mask)))]
    on_policy = intervals.student(returns, level)
    return Table(rows, distributions, on_policy, len(returns), spread, notes, change)


def _check(gamma: float, densities: str, interval: str, bootstraps: int, level: float, bandwidth: float | None) -> None:
    if not 0 <= gamma <= 1:
        raise RlxError(f"gamma {gamma:g}: must be 0 to 1")
    if bandwidth is not None and not bandwidth > 0:
        raise RlxError(f"bandwidth {bandwidth:g}: must be above 0")
    if not 0 < level < 1:
        raise RlxError(f"level {level:g}: must be between 0 and 1, as 0.95")
    if bootstraps < 1:
        raise RlxError(f"bootstraps {bootstraps}: must be at least 1")
    for name, value, choices in (
        ("densities", densities, ("data", "estimated", "none")),
        ("interval", interval, INTERVALS),
    ):
        if value not in choices:
            raise RlxError(f"{name} {value}: must be {', '.join(choices[:-1])} or {choices[-1]}")


def check_fits(policy: Policy, dataset: Dataset) -> None:
    """Raises RlxError for a policy of another environment, or of other sizes, than the data set."""
    for what, one, other in (
        ("environment", policy.env, dataset.info.get("env")),
        ("backend", policy.backend, dataset.info.get("backend")),
    ):
        if one and other and one != other and not one.startswith("none:"):
            raise RlxError(
                f"{policy.name}: its {what} is {one}, but {dataset.name} is of {other}; choose data of its own"
            )
    rows = data.choose_parts(dataset, policy.parts).rows
    sizes = rows.observation.shape[1], rows.action.shape[1]
    if policy.sizes is not None and policy.sizes != sizes:
        mine, theirs = (" and ".join(map(str, x)) for x in (policy.sizes, sizes))
        raise RlxError(
            f"{policy.name}: reads observations and actions of {mine} numbers, but {dataset.name} has {theirs}; choose"
            " data of its own environment"
        )


def _complete(dataset: Dataset) -> tuple[Trajectories, np.ndarray, list[str]]:
    """The complete episodes, which of all these are, `[E]`, and a note on the others."""
    if bad := data.nonfinite(dataset):
        name, at = next(iter(bad.items()))
        raise RlxError(f"{dataset.name}: {name} is not finite in {len(at)} rows, first in row {at[0]}; mend the file")
    every = trajectories.from_dataset(dataset)
    cut, count = int((~every.complete).sum()), len(every.mask)
    if count - cut < 2:
        raise RlxError(
            f"{dataset.name}: {count - cut} of its {count} episodes are complete, and an estimate needs two; the others"
            " were cut before the task or the time limit ended them: collect more transitions"
        )
    note = f"{dataset.name}: {cut} of {count} episodes were cut by the end of recording, and are left out"
    return every.select(every.complete), every.complete, [note] * (cut > 0)


def _behaviour(dataset: Dataset, densities: str, seed: int) -> tuple[np.ndarray, list[str]]:
    """log mu(a|s) of every row, `[n]`, and a note where it is estimated."""
    stored = dataset.rows.extras.get(trajectories.LOG_PROB)
    if stored is not None and densities == "data":
        return stored, []
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


def _ratio_note(policy: Policy, log_ratio: np.ndarray, is_estimated: bool) -> str:
    """A note where importance ratios do not average 1, as over the data they do for true densities, else empty."""
    mean = float(np.exp(np.minimum(log_ratio, 80.0), dtype=np.float64).mean())
    if 1 / FAR <= mean <= FAR:
        return ""
    why = "the data hardly has its actions"
    if mean > 1:
        wrong = (
            "estimated densities are not those of who collected",
            "the data's log_prob are no densities of its actions",
        )
        why = wrong[0] if is_estimated else wrong[1]
    return f"{policy.name}: importance ratios average {mean:.3g} and not 1: perhaps {why}"


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


def _change_note(change: Mapping[str, float], returns: np.ndarray) -> list[str]:
    """A note where values still changed when their learning ended, else none."""
    allowed = SETTLED * max(float(returns.std()), 0.01 * float(np.abs(returns).max()))
    moving = {name: by for name, by in change.items() if not abs(by) <= allowed}
    if not moving:
        return []
    name = max(moving, key=lambda name: abs(moving[name]))
    return [
        f"values of {len(moving)} of {len(change)} policies have not settled: that of {name} changed by"
        f" {moving[name]:.3g} in the last quarter of the updates, more than {allowed:.2g} (a tenth of the returns'"
        " deviation); take more (--updates, or offline_steps of values), or leave DM, DR, WDR, MDR and SMDR alone"
    ]


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
    numbers, windows = ([x] if isinstance(x, int) else list(x) for x in (clusters, window))
    processes = []
    for number in (min(number, dataset.size) for number in numbers if number):
        state = episodes.pad(learning.abstract_states(dataset, number, seed))
        for steps in windows:
            alone = len(numbers) == len(windows) == 1
            processes.append(Process("STAR" if alone else f"STAR {number} {steps}", number, steps, limit, state))
    return processes


def _size_note(policy: Policy, rows: Sequence[Row], episodes: int) -> str:
    """A note where the effective sample size of a policy's estimates is small, else empty."""
    few = [row for row in rows if row.policy == policy.name and not row.is_credible]
    if not few:
        return ""
    sizes = dict.fromkeys(f"{row.sample_size:.1f}" for row in few)
    names = ", ".join(row.estimator for row in few)
    return (
        f"{policy.name}: {' and '.join(sizes)} effective of {episodes} episodes, under {FEW}: {names} (?) should not"
        " be trusted"
    )
