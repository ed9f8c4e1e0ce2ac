"""Data sets: one form in memory, readers and a writer for the formats that people have, and what a set is worth."""

from rlx.data.arrays import from_arrays
from rlx.data.corruption import corrupt
from rlx.data.dataset import (
    Dataset,
    check,
    choose_parts,
    clip_actions,
    concatenate,
    digest,
    drop_nonfinite,
    episode_lengths,
    episode_returns,
    make_dataset,
    nonfinite,
    return_range,
    to_replay,
    with_rewards,
)
from rlx.data.files import as_dataset, convert, info, read
from rlx.data.metadata import check_info
from rlx.data.minari_format import write
from rlx.data.quality import coverage, describe
from rlx.data.trajectories import returns_to_go, split, trajectory_weights

__all__ = [
    "Dataset",
    "as_dataset",
    "check",
    "check_info",
    "choose_parts",
    "clip_actions",
    "concatenate",
    "convert",
    "corrupt",
    "coverage",
    "describe",
    "digest",
    "drop_nonfinite",
    "episode_lengths",
    "episode_returns",
    "from_arrays",
    "info",
    "make_dataset",
    "nonfinite",
    "read",
    "return_range",
    "returns_to_go",
    "split",
    "to_replay",
    "trajectory_weights",
    "with_rewards",
    "write",
]
