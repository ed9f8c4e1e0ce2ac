"""Where the numbers of a wrapped environment's observations come from, for whoever runs a policy without wrappers.

Wrappers such as `history` put several single observations into one. `Wrapped.sources` says which number of which one
each of its numbers is, so that a robot's computer can do the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from rlx.types import Env


class Number(NamedTuple):
    """A number of an observation: this column of the single observation `lag` steps ago, or of the episode's first."""

    column: int
    lag: int = 0


@dataclass(frozen=True)
class Sources:
    """Of all numbers of an observation. The column after the last one is the share of the episode that is over."""

    size: int  # numbers of a single observation
    numbers: tuple[Number, ...]
    time_limit: int | None = None  # steps that the share is of; None where no number is the share
    problem: str = ""  # why single observations are not enough

    @property
    def is_plain(self) -> bool:
        """Whether every number is one of the single observation of the same step."""
        return self.time_limit is None and not any(number.lag for number in self.numbers)

    def stacked(self, pieces: Iterable[slice], length: int) -> Sources:
        """With the last `length` observations, of each piece the oldest first."""
        parts = [(self.numbers[piece], lag) for piece in pieces for lag in reversed(range(length))]
        return replace(self, numbers=tuple(Number(n.column, n.lag + lag) for part, lag in parts for n in part))

    def with_time(self, limit: int) -> Sources:
        """With the share of an episode of `limit` steps as the last number."""
        return replace(self, numbers=(*self.numbers, Number(self.size)), time_limit=limit)

    def cut(self, pieces: Iterable[slice]) -> Sources:
        """With these pieces alone."""
        numbers = tuple(number for piece in pieces for number in self.numbers[piece])
        has_time = any(number.column == self.size for number in numbers)
        return replace(self, numbers=numbers, time_limit=self.time_limit if has_time else None)

    def repeated(self) -> Sources:
        """Of every so many steps: those between are not shown, so nothing that is inside may need them."""
        problem = "" if self.is_plain else "put action_repeat before history and time_observation"
        return replace(self, problem=problem)


def sources(env: Env) -> Sources:
    """The sources of an environment's observations; without wrappers, number i is number i of the current one."""
    named: Any = getattr(env, "sources", None)
    size = env.spec.observation_size
    inputs = Sources(size, tuple(map(Number, range(size))))
    return named if isinstance(named, Sources) and len(named.numbers) == size else inputs
