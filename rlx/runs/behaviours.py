"""Policies that collect data sets, and whether they are as good as their names promise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from rlx.errors import RlxError, unknown

MEDIUM = 1 / 3  # of the way from the random to the expert return, as D4RL's medium policies (arXiv 2004.07219)
SHARES = {"medium": (MEDIUM / 2, (MEDIUM + 1) / 2), "expert": (1 / 2, np.inf)}  # nearer to it than to either end
CLEARLY = 2  # standard errors that a policy must be above random actions


OF_RUNS = ("random", "medium", "expert")
MIXED = "medium=0.5,expert=0.5"


class Behaviour(NamedTuple):
    """Who collects: random actions, a policy of a run, or a controller of the environment."""

    name: str
    step: int | None  # of the checkpoint; None for all but policies


class Exploration(NamedTuple):
    """How a behaviour explores: by default as in training."""

    greedy: bool = False
    noise: float = 0.0  # deviation of Gaussian noise on actions


EXPLORING = Exploration()


def shares(kind: str, names: Iterable[str]) -> dict[str, float]:
    """The share of the transitions that each behaviour collects, of those that there are: a name for all of them,
    "mixed" for half medium and half expert, or such as "random=0.95,expert=0.05".

    Raises RlxError for a name that there is not, and where the shares are not positive or do not add up to 1.
    """
    names = list(names)
    of_runs = ["mixed", "replay"] if set(OF_RUNS) <= set(names) else []
    if "=" not in kind:
        known = _known("--kind", kind, [*names, *of_runs])
        return shares(MIXED, names) if known == "mixed" else {known: 1.0}
    found: dict[str, float] = {}
    for part in kind.split(","):
        name, _, text = part.partition("=")
        try:
            share = float(text)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1 or name in found:
            raise RlxError(f"--kind {kind}: give each behaviour a share once, as in random=0.95,expert=0.05")
        found[_known(f"--kind {kind}:", name, names)] = share
    if abs(sum(found.values()) - 1) > 1e-6:
        raise RlxError(f"--kind {kind}: the shares add up to {sum(found.values()):g}; make that 1")
    return found


def _known(flag: str, name: str, names: list[str]) -> str:
    if name not in names:
        raise unknown(flag, name, names)
    return name


def counts(shares: Iterable[float], size: int) -> list[int]:
    """Whole numbers of transitions by share, `size` in all."""
    ends = np.ceil(np.cumsum(list(shares)) * size - 1e-6).astype(int)
    return np.diff(ends, prepend=0).tolist()


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
