"""The result of an evaluation, as records and as text."""

from __future__ import annotations

import csv
import io
import math
from typing import NamedTuple

from rlx.analysis.compare import FORMATS, aligned, markdown
from rlx.errors import RlxError
from rlx.statistics import Interval

FEW = 30  # effective sample size, in episodes, below which an estimate should not be trusted


class Row(NamedTuple):
    """One estimate of one policy's value."""

    policy: str
    estimator: str
    value: Interval
    sample_size: float  # effective sample size, in episodes; NaN of an estimator without weights

    @property
    def is_credible(self) -> bool:
        """Whether the effective sample size is large enough; true of an estimator without weights."""
        return not self.sample_size < FEW


class Distribution(NamedTuple):
    """The distribution of one policy's return, by self-normalised importance sampling."""

    policy: str
    mean: float
    std: float
    median: float
    cvar: float  # the mean of the worst quarter of returns
    sample_size: float


class Table(NamedTuple):
    """Estimates for every policy and estimator, and what to know of them; printing shows it."""

    rows: list[Row]
    distributions: list[Distribution]  # empty without densities
    behaviour: Interval  # the mean discounted return of the data's episodes
    episodes: int
    spread: dict[str, float]  # of the critics' mean values, by policy: standard deviation over the ensemble
    notes: list[str]
    change: dict[str, float] = {}  # noqa: RUF012 -- of DM in the last quarter of the updates, by policy

    @property
    def policies(self) -> list[str]:
        """Their names, in order."""
        return list(dict.fromkeys(row.policy for row in self.rows))

    @property
    def estimators(self) -> list[str]:
        """Their names, in order."""
        return list(dict.fromkeys(row.estimator for row in self.rows))

    def row(self, policy: str, estimator: str) -> Row:
        """One estimate. Raises RlxError where there is none of these names."""
        for row in self.rows:
            if (row.policy, row.estimator) == (policy, estimator):
                return row
        names = f"{', '.join(self.policies)}; {', '.join(self.estimators)}"
        raise RlxError(f"no estimate {estimator} of {policy}: this table has {names}")

    def estimates(self, estimator: str) -> list[float]:
        """One estimator's values, in the order of `policies`."""
        return [self.row(policy, estimator).value.estimate for policy in self.policies]

    def text(self, format: str = "table") -> str:
        """To print: aligned columns ("table"), Markdown ("md"), or CSV with all digits ("csv")."""
        if format not in FORMATS:
            raise RlxError(f"format {format}: must be {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
        if format == "csv":
            return self._csv()
        layout = markdown if format == "md" else aligned
        low, high = self.behaviour[1:]
        data = f"{self.episodes} episodes return {self.behaviour.estimate:.4g} ({low:.4g} to {high:.4g}), discounted"
        tables = [layout(table) for table in (self._values(), self._returns()) if len(table) > 1]
        return "\n\n".join([data, *tables, *(["\n".join(self.notes)] if self.notes else [])])

    def __str__(self) -> str:
        return self.text()

    def _values(self) -> list[list[str]]:
        """A line for each policy: estimates and half the width of their intervals; "?" where they are not credible."""
        names = self.estimators
        learnt = {"DM spread": self.spread, "DM change": self.change}
        learnt = {name: of_policy for name, of_policy in learnt.items() if of_policy}
        table = [["policy", *names, *learnt]]
        for policy in self.policies:
            rows = [self.row(policy, name) for name in names]
            cells = [f"{_number(r.value.estimate)} +-{_number((r.value.high - r.value.low) / 2)}" for r in rows]
            marked = [cell + ("" if row.is_credible else " ?") for cell, row in zip(cells, rows, strict=True)]
            table.append([policy, *marked, *(_number(of_policy[policy]) for of_policy in learnt.values())])
        return table

    def _returns(self) -> list[list[str]]:
        table = [["return by SNIS", "mean", "std", "median", "CVaR 25 %", "effective episodes"]]
        for one in self.distributions:
            mark = "" if one.sample_size >= FEW else " ?"
            cells = [_number(x) + mark for x in (one.mean, one.std, one.median, one.cvar)]
            table.append([one.policy, *cells, f"{one.sample_size:.1f}"])
        return table

    def _csv(self) -> str:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["policy", "estimator", "value", "low", "high", "effective_episodes", "is_credible"])
        for row in self.rows:
            size = "" if math.isnan(row.sample_size) else row.sample_size
            writer.writerow([row.policy, row.estimator, *row.value, size, int(row.is_credible)])
        return buffer.getvalue().rstrip("\n")


def _number(x: float) -> str:
    return f"{x:.1f}" if 10 <= abs(x) < 1e6 else f"{x:.3g}"
