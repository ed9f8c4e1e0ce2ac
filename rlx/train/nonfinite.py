"""Numbers that are not finite, counted on the device: of which quantity, in which iteration first, and how often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import normalize, parallel
from rlx.types import Metrics

NEVER = 2**31 - 1
OUTLIERS = "observation outliers"  # finite, but far from all others
ENOUGH = 1000  # samples before an outlier is reported


class Alarm(NamedTuple):
    """Of one quantity."""

    first: jax.Array  # [] int32, the iteration; NEVER where all was well
    number: jax.Array  # [] float32, environments or updates with such numbers


Alarms = dict[str, Alarm]  # by quantity


class Learned(NamedTuple):
    """What updates report; of several updates, leaves lead with their number."""

    metrics: Metrics
    bad: dict[str, jax.Array]  # float32, updates in which a quantity was not finite

    def inspected(self, name: str, half: Any) -> Learned:
        """The same with what the half that they made looks like, unless each update was inspected already."""
        return self._replace(bad=inspect(name, half) | self.bad)


def watch_statistics(
    before: normalize.Statistics, after: normalize.Statistics, observation: jax.Array, axes: parallel.Axes
) -> dict[str, jax.Array]:
    """What an update of the statistics shows, [] float32 each, for the report of bad numbers.

    Whether they are not finite, and how many of the observations `[..., O]` are outliers, see `normalize.is_far`.
    """
    outliers = normalize.is_far(before, observation).any(axis=-1).sum(dtype=jnp.float32)
    enough = before.count >= ENOUGH
    returns = {} if after.returns is None else {"return statistics": _unsound(after.returns)}
    return returns | {
        OUTLIERS: parallel.sum(jnp.where(enough, outliers, 0.0), axes),
        "observation statistics": _unsound(after),
    }


def _unsound(statistics: normalize.Statistics) -> jax.Array:
    return (~finite((statistics.mean, statistics.variance))).astype(jnp.float32)


def sound(numbers: dict[str, jax.Array], iteration: jax.Array) -> Alarms:
    """Alarms of one iteration, from how often each quantity was bad in it."""
    return {name: Alarm(jnp.where(n > 0, iteration, NEVER), n.astype(jnp.float32)) for name, n in numbers.items()}


def _is_alarm(node: Any) -> bool:
    return isinstance(node, Alarm)


def add(one: Any, other: Any) -> Any:
    """The sum of two reports, pytrees of numbers and alarms: of an alarm, the first iteration and all its
    occurrences."""

    def both(a: Any, b: Any) -> Any:
        return Alarm(jnp.minimum(a.first, b.first), a.number + b.number) if _is_alarm(a) else a + b

    return jax.tree.map(both, one, other, is_leaf=_is_alarm)


def pack(report: Any) -> dict[str, jax.Array]:
    """A report as a vector for each type of its numbers, and one for the alarms' first iterations; see `add_packed`."""
    groups: dict[str, list[jax.Array]] = {}
    for kind, leaf in zip(_kinds(report), jax.tree.leaves(report), strict=True):
        groups.setdefault(kind, []).append(leaf.ravel())
    return {kind: jnp.concatenate(leaves) for kind, leaves in groups.items()}


def unpack(packed: dict[str, jax.Array], like: Any) -> Any:
    """The report that was packed, in the structure and the shapes of `like`."""
    ends, leaves = dict.fromkeys(packed, 0), []
    for kind, leaf in zip(_kinds(like), jax.tree.leaves(like), strict=True):
        begin, ends[kind] = ends[kind], ends[kind] + leaf.size
        leaves.append(packed[kind][begin : ends[kind]].reshape(leaf.shape))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def add_packed(one: dict[str, jax.Array], other: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """`add` of two packed reports: a kernel for each vector, where a GPU would need one for each number."""
    return {kind: jnp.minimum(x, other[kind]) if kind == "first" else x + other[kind] for kind, x in one.items()}


def _kinds(report: Any) -> list[str]:
    """Which vector each leaf belongs to."""
    nodes = jax.tree.leaves(report, is_leaf=_is_alarm)
    pairs = [("first", node.number.dtype.name) if _is_alarm(node) else (node.dtype.name,) for node in nodes]
    return [kind for pair in pairs for kind in pair]


def zeros_like(shapes: Any) -> Any:
    """What to start such a sum from, as NumPy arrays."""

    def zeros(node: Any) -> Any:
        if _is_alarm(node):
            return type(node)(np.full(node.first.shape, NEVER, np.int32), np.zeros(node.number.shape, np.float32))
        return np.zeros(node.shape, node.dtype)

    return jax.tree.map(zeros, shapes, is_leaf=_is_alarm)


def finite(tree: Any) -> jax.Array:
    """Whether every number of a pytree is finite, [] bool; numbers so large that their sum is not count as not finite.

    A sum shows NaN and infinity as well as a test of each number does, at a sixth of the price on a CPU.
    """
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.isfinite(jnp.stack([x.sum(dtype=jnp.float32) for x in leaves])).all() if leaves else jnp.bool_(True)


def inspect(name: str, half: Any) -> dict[str, jax.Array]:
    """Whether gradients or parameters of an agent's half are bad, [] float32 each.

    A bad gradient stays in the optimiser's first moments. Targets follow the parameters, second moments the gradients.
    """
    groups: dict[str, list[Any]] = {f"{name} gradients": [], f"{name} parameters": []}
    for path, leaf in jax.tree_util.tree_leaves_with_path(half):
        text = jax.tree_util.keystr(path)
        if "target" not in text and not text.endswith(".nu") and ".nu[" not in text and ".nu." not in text:
            groups[f"{name} gradients" if "opt_state" in text else f"{name} parameters"].append(leaf)
    return {quantity: (~finite(leaves)).astype(jnp.float32) for quantity, leaves in groups.items()}


def watched(name: str, update: Callable[..., tuple[Any, Metrics]], skip: bool) -> Callable[..., tuple[Any, Learned]]:
    """`update(half, ...)` that tells which of its metrics are not finite; with `skip`, bad updates are left out."""

    def watching(half: Any, *arguments: Any) -> tuple[Any, Learned]:
        new, metrics = update(half, *arguments)
        bad = {quantity: (~jnp.isfinite(x).all()).astype(jnp.float32) for quantity, x in metrics.items()}
        if skip:
            bad |= inspect(name, new)
            fine = finite((new, metrics))
            new = jax.tree.map(lambda after, before: jnp.where(fine, after, before), new, half)
        return new, Learned(metrics, bad)

    return watching


def summary(learned: Learned, skip: bool) -> Learned:
    """Of many updates: metrics as means (with `skip`, over the finite ones), bad ones counted."""

    def mean(x: jax.Array) -> jax.Array:
        return jnp.nanmean(jnp.where(jnp.isfinite(x), x, jnp.nan)) if skip else x.mean()

    return Learned(jax.tree.map(mean, learned.metrics), jax.tree.map(jnp.sum, learned.bad))
