"""Policies that collect data sets, and whether they are as good as their names promise."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MEDIUM = 1 / 3  # of the way from the random to the expert return, as D4RL's medium policies (arXiv 2004.07219)
SHARES = {"medium": (MEDIUM / 2, (MEDIUM + 1) / 2), "expert": (1 / 2, np.inf)}  # nearer to it than to either end
CLEARLY = 2  # standard errors that a policy must be above random actions


class Behaviour(NamedTuple):
    """A policy that collects."""

    name: str
    step: int | None  # of the checkpoint; None acts at random


def mismatch(behaviour: Behaviour, returns: np.ndarray, random: np.ndarray, last: np.ndarray) -> str | None:
    """Why a policy with these exploring returns `[N]` is not what its name promises; None if it is.

    It and the run's last policy must be clearly above random actions, and its share of the way from them to the last
    policy nearer to its name's own than to either end.
    """
    if behaviour.name not in SHARES:
        return None
    mean, low, high = (float(x.mean()) for x in (returns, random, last))
    if not clearly_above(last, random):
        text = f"the run's last policy returns {high:.1f} and random actions {low:.1f}"
        return f"{text}, so there is no {behaviour.name} policy; collect from a run that has learnt more"
    share, (least, most) = (mean - low) / (high - low), SHARES[behaviour.name]
    if least <= share <= most and clearly_above(returns, random):
        return None
    text = f"the {behaviour.name} policy, of step {behaviour.step}, returns {mean:.1f} as it explores"
    way = f"{share:.0%} of the way from random actions' {low:.1f} to the last policy's {high:.1f}"
    return f"{text}, {way}; choose another by --step, or train with a smaller --eval-every"


def clearly_above(returns: np.ndarray, others: np.ndarray) -> bool:
    """Whether the mean of some returns `[N]` is over that of others `[M]` by more than chance would have it."""
    error = np.sqrt(returns.var(ddof=1) / len(returns) + others.var(ddof=1) / len(others))
    return bool(returns.mean() - others.mean() > CLEARLY * error)
