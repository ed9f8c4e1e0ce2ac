"""Mirror symmetry of a robot: every minibatch is followed by its mirrored rows, in which left and right change places.

A table has for each number the one that takes its place, counted from 1, with a minus where the sign turns: (2, 1, -3)
swaps the first two and turns the third. Rewards, and extras that are neither observations nor actions, stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.errors import RlxError
from rlx.train.config import TrainConfig
from rlx.types import Read, Spec, Transition

COLUMNS = {"observation": "observation", "next_observation": "observation", "action": "action"}  # and their tables


def check(config: TrainConfig, spec: Spec) -> None:
    """Raises RlxError for a table of another size, that is no reordering, or that mirrored twice is not the same."""
    tables = {"observation": config.mirror_observation, "action": config.mirror_action}
    if not any(tables.values()):
        return
    for name, size in (("observation", spec.observation_size), ("action", spec.action_size)):
        table, flag = np.asarray(tables[name], int), f"--mirror-{name}"
        if sorted(abs(table)) != list(range(1, size + 1)):
            raise RlxError(f"{flag}: must name each of the {size} numbers of an {name} once, as 2 1 -3 does of three")
        row = np.arange(1.0, size + 1)
        if not np.array_equal(flip(flip(row, tables[name]), tables[name]), row):
            raise RlxError(f"{flag}: mirrored twice, an {name} must be as it was; check which numbers change places")


def flip(x: Any, table: Sequence[int]) -> Any:
    """The mirrored `[..., X]`."""
    index = np.abs(np.asarray(table)) - 1
    return x[..., index] * np.sign(table).astype(x.dtype)


def with_mirrored(config: TrainConfig, batch: Transition, reads: Mapping[str, Read]) -> Transition:
    """Minibatches `[N, B, ...]` with the mirrored rows behind them, `[N, 2B, ...]`; without tables as they are."""
    if not config.mirror_observation:
        return batch
    tables = {"observation": config.mirror_observation, "action": config.mirror_action}
    columns = COLUMNS | {name: COLUMNS[read.column] for name, read in reads.items() if read.column in COLUMNS}

    def doubled(name: str, x: jax.Array | None) -> jax.Array | None:
        if x is None:
            return None
        return jnp.concatenate([x, flip(x, tables[columns[name]]) if name in columns else x], axis=1)

    fields: dict[str, Any] = {name: doubled(name, x) for name, x in batch._asdict().items() if name != "extras"}
    return Transition(**fields, extras={name: doubled(name, x) for name, x in batch.extras.items()})  # type: ignore[misc]
