"""Data sets with a share of corrupted rows, to compare how robustly agents learn (Yang et al., arXiv 2310.12955)."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlx.data.dataset import LOG_PROB, Dataset, check, require_rewards
from rlx.errors import RlxError, unknown

COLUMNS = {
    "observation": "observation",
    "action": "action",
    "reward": "reward",
    "dynamics": "next_observation",
}
REWARD_SPAN = 30.0


def corrupt(dataset: Dataset, what: str, rate: float = 0.3, scale: float = 1.0, seed: int = 0) -> Dataset:
    """The set with a share `rate` of rows corrupted at random, as in arXiv 2310.12955, section 5.1.

    `what` is one of `COLUMNS`. Observations, actions or successors ("dynamics") of those rows are moved by
    U[-scale, scale] times the column's standard deviation, actions clipped to +-1; rewards become
    U[-30 scale, 30 scale]. An observation and the successor of the row before it are separate, so one of them stays as
    it was; log-probabilities of corrupted actions are dropped. Raises RlxError for another `what`, and for a rate
    outside 0 to 1, a scale or a seed that cannot be.
    """
    check(dataset)
    require_rewards(dataset)
    if what not in COLUMNS:
        raise unknown("corruption", what, COLUMNS)
    if not 0 <= rate <= 1:
        raise RlxError(f"corruption rate {rate:g}: must be between 0 and 1")
    if not 0 < scale < 1e6:
        raise RlxError(f"corruption scale {scale:g}: must be over 0 and under 10^6")
    if not 0 <= seed < 2**32:
        raise RlxError(f"corruption seed {seed}: must be at least 0 and under 2^32")
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(dataset.size)[: round(rate * dataset.size)]
    column = getattr(dataset.rows, COLUMNS[what]).copy()
    noise = rng.uniform(-scale, scale, size=column[chosen].shape).astype(np.float32)
    if what == "reward":
        column[chosen] = REWARD_SPAN * noise
    else:
        column[chosen] += noise * column.std(axis=0)
    extras = dict(dataset.rows.extras)
    if what == "action":
        column = column.clip(-1.0, 1.0)
        extras.pop(LOG_PROB, None)  # it is of the actions that were taken
    note = f"{what} of {len(chosen)} of {dataset.size} rows corrupted at random, scale {scale:g}, seed {seed}"
    info: dict[str, Any] = dataset.info | {"notes": [*(dataset.info.get("notes") or []), note]}
    return dataset._replace(rows=dataset.rows._replace(**{COLUMNS[what]: column}, extras=extras), info=info)
