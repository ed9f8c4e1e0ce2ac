"""Which devices a run uses, and how many logical shards it has."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from rlx import parallel
from rlx.errors import RlxError
from rlx.train.config import TrainConfig


class Placement(NamedTuple):
    """Which devices a run uses."""

    groups: list[list[Any]]  # devices that collect, learn values and learn policies; the same ones where not split
    shards: int  # logical, in all
    split: bool


def lay_out(train: TrainConfig, split: tuple[int, int, int] | None) -> Placement:
    """Devices and logical shards; `split` counts each process's devices. Raises RlxError for what cannot be."""
    groups = parallel.split_devices(split) if split else [parallel.pick_devices(train.num_devices)] * 3
    unit = math.lcm(*map(len, groups)) if train.spread == "data" else 1
    shards = train.num_shards or unit
    if shards % unit:
        raise RlxError(f"--num-shards {shards}: must be a multiple of {unit}, so that every device holds as many")
    if split and train.spread != "data":
        raise RlxError("--spread seeds: does not go with a split; use --split 1 or --driver fused")
    return Placement(groups, shards, split is not None)


def asked_split(train: TrainConfig) -> tuple[int, int, int] | None:
    """The split that the configuration names, None where one program does everything."""
    if train.driver == "fused" or train.split == "1":
        return None
    return parse_split(train.split, parallel.local_device_count())


def axes_of(placement: Placement, over_devices: bool) -> parallel.Axes:
    """What gradients and statistics are averaged over; an axis with one row is none, which spares tracing it."""
    devices = [len(group) if over_devices else 1 for group in placement.groups]
    several = {parallel.DEVICE: max(devices) > 1, parallel.SHARD: any(placement.shards > count for count in devices)}
    return tuple(axis for axis, needed in several.items() if needed)


def parse_split(text: str, devices: int) -> tuple[int, int, int]:
    """`"2,1,1"` as device counts of collectors, value learners and policy learners.

    Raises RlxError for a group of zero, or a sum that is not the number of devices.
    """
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise RlxError(f"--split {text}: must be 1, auto, or three integers (collect,value,policy) such as 2,1,1")
    collectors, values, policies = (int(part) for part in parts)
    if min(collectors, values, policies) < 1:
        raise RlxError(f"--split {text}: every role needs a device; --split 1 runs all three on one")
    if collectors + values + policies != devices:
        total = collectors + values + policies
        raise RlxError(
            f"--split {text}: adds up to {total} devices but there are {devices}; on one device use --split 1"
        )
    return collectors, values, policies
