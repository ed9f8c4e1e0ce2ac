"""What rlx learns from: flat observations of floats, and actions in [-1, 1]. Readers bring arrays to that."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rlx.errors import RlxError

UNBOUNDED = 1e30  # bounds from here on are none: float32's largest number stands for infinity in some spaces
ROUNDING = 1e-3  # how far beyond +-1 an action may lie by rounding alone


def check_observation(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raises RlxError if observations are not `[n, O]` of floats."""
    if cure := _cure(shape, dtype):
        each = f"{dtype} {list(shape[1:])}"
        raise RlxError(f"{path}: one observation is {each}; rlx reads flat vectors of floats: {cure}")


def check_action(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raises RlxError if actions are not `[n, A]` of floats."""
    if cure := _cure(shape, dtype):
        each = f"{dtype} {list(shape[1:])}"
        if dtype.kind != "f":
            each, cure = f"{each}, as of a discrete choice", "cast continuous ones to float32"
        raise RlxError(f"{path}: one action is {each}; rlx needs vectors of floats in [-1, 1]: {cure}")


def _cure(shape: tuple[int, ...], dtype: np.dtype) -> str:
    """What makes flat vectors of floats of these rows; empty where they are."""
    axes = "" if len(shape) == 2 else "give them as [n, size]" if len(shape) < 2 else "flatten them to [n, size]"
    axes = axes or "give one number or more" * (shape[1] == 0)
    return " and ".join(filter(None, (axes, "" if dtype.kind == "f" else "cast them to float32")))


def affine(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half width `[A]` float64 of a box of actions: `native = centre + half * unit`, for each dimension.

    A dimension that lacks a bound on either side has none: its numbers are those in [-1, 1], centre 0 and half 1.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    bounded = (np.abs(low) < UNBOUNDED) & (np.abs(high) < UNBOUNDED)
    low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    return (low + high) / 2, (high - low) / 2


def to_unit(
    path: Path, action: np.ndarray, low: np.ndarray | None = None, high: np.ndarray | None = None
) -> tuple[np.ndarray, list[str]]:
    """Actions `[n, A]` in [-1, 1] as float32, and a note on each change made.

    Bounds `[A]` other than +-1 are mapped to +-1, dimension by dimension (see `affine`). What then lies beyond by
    rounding is clipped; raises RlxError for what lies further out.
    """
    notes = []
    if low is not None and high is not None:
        centre, half = affine(low, high)
        if not np.all(half > 0):
            raise RlxError(f"{path}: the action space is empty, from {low.tolist()} to {high.tolist()}: write it again")
        if np.any(centre != 0) or np.any(half != 1):
            action = (action.astype(np.float64) - centre) / half
            notes.append(f"actions were mapped to [-1, 1] from {low.tolist()} .. {high.tolist()}")
    action = np.asarray(action, np.float32)
    beyond = np.abs(action) > 1  # False for NaN, which `nonfinite` finds
    if beyond.any():
        furthest = float(np.abs(action[beyond]).max())
        if furthest > 1 + ROUNDING:
            raise RlxError(f"{path}: actions reach {furthest:g}; rlx needs them in [-1, 1]: rescale them")
        action = np.clip(action, -1, 1)
        notes.append(
            f"{np.count_nonzero(beyond)} numbers of actions were clipped to [-1, 1], the furthest {furthest:.6f}"
        )
    return action, notes
