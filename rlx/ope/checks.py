"""What an evaluation refuses, and what it remarks on: arguments, policies, densities, weights and values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rlx import data
from rlx.data import Dataset
from rlx.errors import RlxError
from rlx.ope import intervals
from rlx.ope.policies import Policy
from rlx.ope.table import FEW, Row

INTERVALS = ("bootstrap", *intervals.OF_TERMS)
RANGES = {"features": (0, 5_000), "clusters": (0, 5_000), "window": (1, 1_000_000)}  # a square matrix has as many rows
TOO_SMALL = 10.0  # the mean of 1 / density, in volumes of the actions, that is no matter of chance: it should be 1
SETTLED = 0.1  # standard deviations of the data's returns by which values may change in the last quarter of updates
FAR = 2.0  # a mean of ratios, which should be 1, beyond this or below its inverse is worth a note


def check_arguments(
    gamma: float, densities: str, interval: str, bootstraps: int, level: float, bandwidth: float | None, seed: int
) -> None:
    if not 0 <= gamma <= 1:
        raise RlxError(f"gamma {gamma:g}: must be 0 to 1")
    if bandwidth is not None and not 0 < bandwidth < math.inf:
        raise RlxError(f"bandwidth {bandwidth:g}: must be above 0 and finite")
    if not 0 < level < 1:
        raise RlxError(f"level {level:g}: must be between 0 and 1, as 0.95")
    if not 0 <= seed < 2**32:
        raise RlxError(f"seed {seed}: must be 0 to {2**32 - 1}")
    if bootstraps < 1:
        raise RlxError(f"bootstraps {bootstraps}: must be at least 1")
    for name, value, choices in (
        ("densities", densities, ("data", "estimated", "none")),
        ("interval", interval, INTERVALS),
    ):
        if value not in choices:
            raise RlxError(f"{name} {value}: must be {', '.join(choices[:-1])} or {choices[-1]}")


def check_numbers(name: str, numbers: Sequence[int]) -> None:
    """Raises RlxError for a number of features or clusters, or a window, that is out of range."""
    low, high = RANGES[name]
    if wrong := [x for x in numbers if not low <= x <= high]:
        raise RlxError(f"{name} {wrong[0]}: must be {low} to {high:,}")


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


def density_note(dataset: Dataset, log_prob: np.ndarray) -> list[str]:
    """A note on numbers that densities of actions in [-1, 1]^A hardly have, else none.

    The mean of 1 / mu(a|s) over mu's own actions is the volume that they take, at most 2^A.
    """
    uniform = -dataset.rows.action.shape[1] * math.log(2)
    inverse = float(np.exp(np.clip(uniform - log_prob, -80.0, 80.0), dtype=np.float64).mean())
    why = ""
    if np.ptp(log_prob) == 0 and abs(log_prob[0] - uniform) > 0.01:
        why = f"is {log_prob[0]:.3g} in every row, where that of uniform actions is {uniform:.3g}"
    elif inverse > TOO_SMALL:
        why = f"is too small: 1 / exp(log_prob) averages {inverse:.3g} times the volume of all actions"
    return [f"{dataset.name}: log_prob {why}; perhaps these are no log-densities"] * bool(why)


def ratio_note(policy: Policy, log_ratio: np.ndarray, is_estimated: bool) -> str:
    """A note where importance ratios do not average 1, as over the data they do for true densities, else empty."""
    mean = float(np.exp(np.minimum(log_ratio, 80.0), dtype=np.float64).mean())
    if 1 / FAR <= mean <= FAR:
        return ""
    why = "the data hardly has its actions" + ("" if is_estimated else ", or the data's log_prob are too large")
    if mean > 1:
        wrong = (
            "estimated densities are not those of who collected",
            "the data's log_prob are no densities of its actions",
        )
        why = wrong[0] if is_estimated else wrong[1]
    return f"{policy.name}: importance ratios average {mean:.3g} and not 1: perhaps {why}"


def scale_of(returns: np.ndarray) -> float:
    """What a change of values is measured in: the returns' deviation, at least a hundredth of the largest return."""
    return max(float(returns.std()), 0.01 * float(np.abs(returns).max()))


def change_note(change: Mapping[str, float], returns: np.ndarray) -> list[str]:
    """A note where values still changed when their learning ended, else none."""
    allowed = SETTLED * scale_of(returns)
    moving = {name: by for name, by in change.items() if not abs(by) <= allowed}
    if not moving:
        return []
    name = max(moving, key=lambda name: abs(moving[name]))
    return [
        f"values of {len(moving)} of {len(change)} policies have not settled: that of {name} changed by"
        f" {moving[name]:.3g} in the last quarter of the updates, more than {allowed:.2g} (a tenth of the returns'"
        " deviation); take more (--updates, or offline_steps of values), or leave DM, DR, WDR, MDR and SMDR alone"
    ]


def size_note(policy: Policy, rows: Sequence[Row], episodes: int) -> str:
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
