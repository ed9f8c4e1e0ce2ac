"""All estimates of several policies in one program, and the rows of a table that they make."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx.ope import cumulative, estimators, intervals, star
from rlx.ope.estimators import MARGINALISED, MODELLED, OF_STATES, TERMS, WEIGHTED, make_batch
from rlx.ope.policies import Policy
from rlx.ope.table import Distribution, Row
from rlx.statistics import Interval

TAIL = 0.25  # the share of returns whose mean is the CVaR of the table
PER_TRAJECTORY = ("TIS", "SNTIS")  # weighted by the product of an episode's ratios
PER_DECISION = tuple(name for name in WEIGHTED if name not in PER_TRAJECTORY)  # by that of the steps so far


class Inputs(NamedTuple):
    """What estimators read of C policies in N episodes of at most T steps."""

    log_ratio: jax.Array | None  # [C, N, T]; None without densities
    q: jax.Array | None  # [C, N, T]; None without values
    v: jax.Array | None  # [C, N, T]
    marginal: jax.Array | None  # [C, N, T]; None without marginal weights
    of_state: jax.Array | None  # [C, N, T]; None without them or without densities


class Process(NamedTuple):
    """An abstract reward process of STAR."""

    name: str
    clusters: int
    window: int
    limit: int | None  # the time limit of an episode
    state: Any  # [N, T], the clusters of the steps; None in what is compiled


@partial(jax.jit, static_argnames=("level", "processes"))
def estimate(
    reward: Any,
    mask: Any,
    inputs: Inputs,
    gamma: Any,
    counts: Any,
    level: float,
    states: Sequence[Any],
    processes: tuple[Process, ...],
) -> dict[str, Any]:
    """Everything that the table has, by name, each `[C, ...]`; `states` are the clusters of STAR's `processes`."""

    def of_one(inputs: Inputs) -> dict[str, Any]:
        batch = make_batch(reward, mask, *inputs)
        needs = (
            (WEIGHTED, inputs.log_ratio),
            (MODELLED, inputs.q),
            (MARGINALISED, inputs.marginal),
            (OF_STATES, inputs.of_state),
        )
        left_out = {name for names, part in needs if part is None for name in names}
        used = {name: f for name, f in estimators.ESTIMATORS.items() if name not in left_out}

        def every(weights: jax.Array) -> dict[str, jax.Array]:
            results = {name: estimate(batch, gamma, weights) for name, estimate in used.items()}
            for process, state in zip(processes, states, strict=True):
                sizes = process.clusters, process.window
                value = star.value(batch, state, *sizes, gamma, weights, process.limit)
                results[process.name] = value
            return results

        results: dict[str, Any] = {"estimates": intervals.bootstrap(every, counts, level)}
        results["terms"] = {name: terms(batch, gamma) for name, terms in TERMS.items() if name in used}
        if inputs.log_ratio is not None:
            last = estimators.log_weights(batch)[:, -1]
            results["sizes"] = {
                **dict.fromkeys(PER_TRAJECTORY, estimators.effective_sample_size(last)),
                **dict.fromkeys(PER_DECISION, estimators.per_decision_sample_size(batch, gamma)),
                **dict.fromkeys(OF_STATES, estimators.marginal_sample_size(batch, gamma)),
            }
            x = jnp.sort(estimators.returns(batch, gamma))
            cdf = cumulative.self_normalised(batch, gamma, x, jnp.ones(len(x)))
            std = jnp.sqrt(cumulative.variance(x, cdf))
            lower = cumulative.quantile(x, cdf, 0.5), cumulative.cvar(x, cdf, TAIL)
            results["distribution"] = cumulative.mean(x, cdf), std, *lower
        return results

    return jax.lax.map(of_one, inputs)


def rows_of(
    chosen: Sequence[Policy], results: dict[str, Any], interval: str, level: float
) -> tuple[list[Row], list[Distribution]]:
    """What `estimate` returns, as rows of the table."""
    rows, distributions = [], []
    for i, policy in enumerate(chosen):
        sizes = {name: float(x[i]) for name, x in results.get("sizes", {}).items()}
        estimated = results["estimates"][0]
        for name in [*estimators.ESTIMATORS, *(name for name in estimated if name not in estimators.ESTIMATORS)]:
            if name not in estimated:
                continue
            value = Interval(*(float(x[name][i]) for x in results["estimates"]))
            if interval != "bootstrap" and name in results["terms"]:
                value = intervals.OF_TERMS[interval](results["terms"][name][i], level)
            rows.append(Row(policy.name, name, value, sizes.get(name, float("nan"))))
        if "distribution" in results:
            mean, std, median, cvar = (float(x[i]) for x in results["distribution"])
            distributions.append(Distribution(policy.name, mean, std, median, cvar, sizes["SNTIS"]))
    return rows, distributions
