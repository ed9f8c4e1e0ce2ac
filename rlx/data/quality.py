"""A data set's quality, in words and in two numbers: how good its episodes are, and how much they cover."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlx import statistics
from rlx.data.dataset import Dataset, episode_lengths, episode_returns, leaves, nonfinite
from rlx.data.limits import printable

BINS = 5


def describe(dataset: Dataset) -> list[str]:
    """Lines for people: sizes, episodes, returns, actions, odd values, and the two quality measures.

    They are trajectory quality TQ, the mean return normalised by the set's own reference returns, and state-action
    coverage (see `coverage`); both from arXiv 2111.04714.
    """
    rows, info = dataset.rows, dataset.info
    texts = {key: _plain(info[key]) for key in sorted(info.keys() - {"name", "format", "notes", "missing"})}
    sizes = f"{rows.observation.shape[1]} numbers an observation, {rows.action.shape[1]} an action"
    lines = [
        f"{dataset.name} ({info.get('format', 'in memory')}): {dataset.size:,} transitions, {sizes}",
        *(f"  {key} {text}" for key, text in texts.items() if text not in ("", "None")),
        _episodes(dataset),
        _returns(dataset),
        _actions(dataset),
        *_odd(dataset),
        *(f"note: {note}" for note in info.get("notes") or []),
        _quality(dataset),
        f"coverage: {coverage(dataset):.3f} distinct state-action bins a row ({BINS} bins a dimension)",
    ]
    extras = ", ".join(sorted(rows.extras))
    lines += [f"also stored: {extras}"] if extras else []
    return [printable(line, 300) for line in lines]


def _episodes(dataset: Dataset) -> str:
    lengths = episode_lengths(dataset)
    terminated = int(dataset.rows.terminated.sum())
    return (
        f"episodes: {len(lengths):,}, {terminated:,} terminated and {len(lengths) - terminated:,} truncated; "
        f"length {_five(lengths)}"
    )


def _five(values: np.ndarray) -> str:
    low, first, middle, third, high = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    return f"min {low:g}, quartiles {first:.6g} {middle:.6g} {third:.6g}, max {high:g}, mean {values.mean():.6g}"


def _returns(dataset: Dataset) -> str:
    if dataset.info.get("missing"):
        return f"returns: unknown, the file has no {' and '.join(dataset.info['missing'])}"
    return f"returns: {_five(episode_returns(dataset))}"


def _actions(dataset: Dataset) -> str:
    action = dataset.rows.action
    size = np.abs(action)
    at, outside = int(np.count_nonzero(size == 1)), int(np.count_nonzero(size > 1))
    return (
        f"actions: from {action.min():g} to {action.max():g}; of {action.size:,} numbers {at:,} at exactly +-1, "
        f"{outside:,} outside"
    )


def _odd(dataset: Dataset) -> list[str]:
    """Lines on NaN, infinities and dimensions that never change; one line where there are none."""
    lines = [
        f"odd: {name} has NaN or infinity in {len(at):,} rows, first in row {at[0]:,}"
        for name, at in nonfinite(dataset).items()
    ]
    for name in ("observation", "action"):
        leaf = leaves(dataset.rows)[name]
        constant = np.flatnonzero((leaf == leaf[0]).all(axis=0)).tolist()
        if constant:
            lines.append(f"odd: {name} dimensions {constant} never change")
    return lines or ["odd values: none"]


def _quality(dataset: Dataset) -> str:
    info = dataset.info
    random, expert = info.get("random_return"), info.get("expert_return")
    if random is None or expert is None or info.get("missing"):
        return "quality: unknown without the random and the expert return of its environment"
    mean = float(episode_returns(dataset).mean())
    if flaw := statistics.flaw_of_references(random, expert):
        return f"quality: unknown, since {flaw}; mean {mean:.1f}"
    score = float(statistics.normalised(mean, random, expert))
    scale = f"the data's {mean:.1f}; random {random:.1f} is 0, expert {expert:.1f} is 100"
    return f"quality: {score:.1f} mean normalised return ({scale})"


def coverage(dataset: Dataset, reference: Dataset | None = None, bins: int = BINS) -> float:
    """Distinct state-action pairs over those of a reference set, SACo of arXiv 2111.04714.

    Every dimension is cut into `bins` equal bins: actions over [-1, 1], observations over the range that the reference
    has. Without a reference the set is its own and pairs are counted over rows: 1 if no two rows share all bins. Only
    numbers of sets of about the same size, made with the same reference, compare.
    """
    scale = dataset if reference is None else reference
    of = dataset.size if reference is None else _distinct(reference, scale, bins)
    return _distinct(dataset, scale, bins) / of


def _range(column: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest finite number, or zeros."""
    finite = column[np.isfinite(column)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _distinct(dataset: Dataset, scale: Dataset, bins: int) -> int:
    """The number of different bins that rows fall into, counted by a 64-bit hash of the bins' numbers."""
    code = np.zeros(dataset.size, np.uint64)
    observed = zip(dataset.rows.observation.T, scale.rows.observation.T, strict=True)
    edges = [(column, *_range(reference)) for column, reference in observed]
    edges += [(column, -1.0, 1.0) for column in dataset.rows.action.T]
    for column, low, high in edges:
        width = max(high - low, 1e-12) / bins
        place = np.clip(np.nan_to_num((column - low) / width), 0, bins - 1).astype(np.uint64)
        code = (code ^ place) * np.uint64(0x9E3779B97F4A7C15)
        code ^= code >> np.uint64(29)
    return len(np.unique(code))


def _plain(value: Any) -> str:
    """A value of `info` to read: records as `key value`, numbers with one decimal, small ones with three digits."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(x)}" for key, x in value.items() if x is not None)
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
