"""A data set in memory: rows of complete episodes, one after the other, and metadata about their origin."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from rlx.data.limits import printable
from rlx.errors import RlxError
from rlx.replay import Cursor, Replay, Row

LOG_PROB = "log_prob"  # the extra that holds log mu(a|s), [n], of the policy that collected


class Dataset(NamedTuple):
    """Transitions on the host, every leaf of `rows` `[n, ...]`, as the environment showed them: nothing normalised.

    Rows of an episode are consecutive and in order; the last one of each is `terminated` or `truncated`, also where it
    was the file that ended. `next_observation` is the true successor and never another episode's first observation.
    """

    rows: Any  # Row of observation [n, O], action [n, A], reward, terminated, truncated [n], next_observation [n, O]
    episode: np.ndarray  # [n] int32, number of the episode
    time: np.ndarray  # [n] int32, steps since the episode began
    info: dict[str, Any]  # JSON values: name, format, env, backend, episode_length, random_return, expert_return, ...

    @property
    def size(self) -> int:
        return len(self.episode)

    @property
    def discount(self) -> np.ndarray:
        """0 where the task ended, else 1, `[n]`."""
        return 1.0 - self.rows.terminated.astype(np.float32)

    @property
    def name(self) -> str:
        return printable(self.info.get("name", "the data set"))


def make_dataset(
    info: dict[str, Any],
    *,
    observation: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    next_observation: ArrayLike,
    extras: Mapping[str, ArrayLike] = MappingProxyType({}),
) -> Dataset:
    """A data set of arrays `[n, ...]`, the fields of `Row`; an episode ends at each row that is flagged.

    The last row counts as truncated unless its episode ended; a row that is both is terminated. Numbers become
    float32. Raises RlxError where there are no rows or where shapes do not agree.
    """
    place = info.get("name", "the data set")
    terminated, truncated = as_flags(place, "terminated", terminated), as_flags(place, "truncated", truncated)
    truncated[-1:] = True
    truncated &= ~terminated
    columns: dict[str, Any] = {
        "observation": _float32(observation),
        "action": _float32(action),
        "reward": _float32(reward),
        "terminated": terminated,
        "truncated": truncated,
        "next_observation": _float32(next_observation),
        "extras": {name: _float32(leaf) for name, leaf in extras.items()},
    }
    dataset = Dataset(Row(**columns), *_episodes(terminated | truncated), info)
    check(dataset)
    return dataset


def as_flags(place: Any, name: str, values: ArrayLike) -> np.ndarray:
    """Flags of any numeric type as bool. Raises RlxError, which names place and flag, for what is neither 0 nor 1."""
    numbers = np.asarray(values)
    if (odd := np.argwhere((numbers != 0) & (numbers != 1))).size:
        row = tuple(odd[0])
        raise RlxError(f"{place}: {name} is {numbers[row]:g} in row {row[0]}; flags are 0 or 1: write it again")
    return numbers.astype(bool)


def log_prob_of(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The extras of a file's arrays: the log-probabilities of its actions, where it has them."""
    return {LOG_PROB: arrays[LOG_PROB]} if LOG_PROB in arrays else {}


def _float32(leaf: ArrayLike) -> np.ndarray:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and `nonfinite` reports it
        return np.ascontiguousarray(leaf, np.float32)


def _episodes(ended: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Episode numbers and times, `[n]` int32, of rows of which `ended` `[n]` close an episode."""
    starts = np.concatenate([[True], ended[:-1]])[: len(ended)]
    episode = np.cumsum(starts) - 1
    time = np.arange(len(ended)) - np.flatnonzero(starts)[episode]
    return episode.astype(np.int32), time.astype(np.int32)


def leaves(rows: Any) -> dict[str, np.ndarray]:
    """Every array of `rows` by its name; extras as `extras/NAME`."""
    plain = {name: leaf for name, leaf in rows._asdict().items() if name != "extras"}
    return plain | {f"extras/{name}": np.asarray(leaf) for name, leaf in rows.extras.items()}


def check(dataset: Dataset) -> None:
    """Raises RlxError, naming the quantity, unless shapes agree and episodes are complete, in order and flagged.

    What is no Dataset is refused, too.
    """
    if not isinstance(dataset, Dataset):
        raise RlxError(
            f"dataset: is of type {type(dataset).__name__}; give a Dataset: rlx.data.from_arrays makes one of a dict of"
            " arrays, rlx.data.read of a path"
        )
    n, rows = dataset.size, dataset.rows
    if n == 0:
        raise RlxError(f"{dataset.name} holds no transitions: collect it again or choose another file")
    ranks = {"observation": 2, "action": 2, "next_observation": 2, "reward": 1, "terminated": 1, "truncated": 1}
    for name, leaf in leaves(rows).items():
        if len(leaf) != n or leaf.ndim != ranks.get(name, leaf.ndim):
            wanted = f"{n} rows" + (f" of {ranks[name]} axes" if name in ranks else "")
            raise RlxError(f"{dataset.name}: {name} is {list(leaf.shape)}, which should have {wanted}: write it again")
    if rows.next_observation.shape != rows.observation.shape:
        shapes = f"{list(rows.observation.shape)} and {list(rows.next_observation.shape)}"
        raise RlxError(f"{dataset.name}: observation and next_observation differ in shape, {shapes}: write it again")
    if np.any(rows.terminated & rows.truncated):
        raise RlxError(f"{dataset.name}: rows are terminated and truncated at once: build it with `make_dataset`")
    ended = rows.terminated | rows.truncated
    if not ended[-1]:
        raise RlxError(
            f"{dataset.name}: the last row ends no episode: flag it truncated, or build it with `make_dataset`"
        )
    for name, actual, expected in zip(("episode", "time"), dataset[1:3], _episodes(ended), strict=True):
        if not np.array_equal(actual, expected):
            at = int(np.flatnonzero(actual != expected)[0]) if len(actual) == n else n
            raise RlxError(
                f"{dataset.name}: {name} does not fit the flags from row {at} on: build it with `make_dataset`"
            )


def digest(dataset: Dataset) -> str:
    """A digest of all rows, to the bit: the same for the same content, wherever and in whatever format it is stored."""
    sha = hashlib.sha256()
    for name, leaf in sorted(leaves(dataset.rows).items()):
        sha.update(f"{name} {leaf.dtype} {leaf.shape}".encode())
        sha.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def ends(dataset: Dataset) -> np.ndarray:
    """The last row of each episode, `[E]`."""
    return np.flatnonzero(dataset.rows.terminated | dataset.rows.truncated)


def episode_returns(dataset: Dataset) -> np.ndarray:
    """The sum of rewards of each episode, `[E]` float64. Raises RlxError where the set has no rewards."""
    require_rewards(dataset)
    return np.bincount(dataset.episode, weights=dataset.rows.reward)


def episode_lengths(dataset: Dataset) -> np.ndarray:
    """The steps of each episode, `[E]`."""
    return np.bincount(dataset.episode)


def return_range(dataset: Dataset) -> float:
    """The best minus the worst episode return, by which rewards are scaled: 1000 / range (arXiv 2110.06169).

    Raises RlxError where all returns are equal or where the set has no rewards.
    """
    returns = episode_returns(dataset)
    spread = float(returns.max() - returns.min())
    if not (np.isfinite(spread) and spread > 0):
        raise RlxError(
            f"{dataset.name}: episode returns span {spread:g}, so rewards cannot be scaled by it: scale by hand"
        )
    return spread


def require_rewards(dataset: Dataset) -> None:
    """Raises RlxError if the file has no rewards, as OGBench's."""
    if missing := dataset.info.get("missing"):
        raise RlxError(
            f"{dataset.name} has no {' and '.join(missing)}, without which nothing can be learnt: put arrays of that "
            "name into the file, or use rlx.data.with_rewards"
        )


def with_rewards(dataset: Dataset, reward: ArrayLike, mask: ArrayLike) -> Dataset:
    """The set under another task: rewards `[n]`, and masks `[n]` that are 0 where that task ended.

    An ended task ends the episode, and the rows after it begin one of their own. Raises RlxError for other shapes.
    """
    reward, mask = np.asarray(reward), np.asarray(mask)
    for name, array in (("rewards", reward), ("masks", mask)):
        if array.shape != (dataset.size,):
            raise RlxError(f"{dataset.name}: {name} are {list(array.shape)}, but there are {dataset.size} transitions")
    info = {key: value for key, value in dataset.info.items() if key != "missing"}
    ended = dataset.rows.truncated | dataset.rows.terminated
    rows = dataset.rows._replace(reward=reward, terminated=mask == 0, truncated=ended)
    return make_dataset(info, **rows._asdict())


def concatenate(datasets: Sequence[Dataset]) -> Dataset:
    """One set after the other. Info and extras that differ between sets are dropped; names, notes and the policies that
    collected are joined, and `behaviour_return` is their mean over rows.

    Raises RlxError where sizes of observations or actions differ.
    """
    if not datasets:
        raise RlxError("concatenate: there is no data set to join; give at least one")
    first = datasets[0]
    for other in datasets[1:]:
        for name in ("observation", "action"):
            sizes = [getattr(each.rows, name).shape[1] for each in (first, other)]
            if sizes[0] != sizes[1]:
                raise RlxError(
                    f"{first.name} and {other.name} differ in the size of one {name}, {sizes[0]} and {sizes[1]}: "
                    "join sets of one environment"
                )
    shared = set.intersection(*(set(each.rows.extras) for each in datasets))
    parts = [each.rows._replace(extras={name: each.rows.extras[name] for name in sorted(shared)}) for each in datasets]
    rows = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    info = {key: value for key, value in first.info.items() if all(each.info.get(key) == value for each in datasets)}
    info["name"] = " + ".join(dict.fromkeys(each.name for each in datasets))
    for key in ("notes", "missing"):
        if words := list(dict.fromkeys(word for each in datasets for word in each.info.get(key) or [])):
            info[key] = words
    if all(each.info.get("behaviours") and each.info.get("behaviour_return") is not None for each in datasets):
        returns = [each.info["behaviour_return"] for each in datasets]
        info["behaviours"] = [behaviour for each in datasets for behaviour in each.info["behaviours"]]
        info["behaviour_return"] = float(np.average(returns, weights=[each.size for each in datasets]))
    return make_dataset(info, **rows._asdict())


def choose_parts(dataset: Dataset, parts: Mapping[str, tuple[int, int]]) -> Dataset:
    """The set with these named parts of its observations, by range, as its info names them; without names, all of it.

    Raises RlxError for a part that it lacks, or that has another size.
    """
    ranges = dataset.info.get("observation_parts") or {}
    if not ranges or not parts:
        return dataset
    for name, (start, end) in parts.items():
        if name not in ranges:
            raise RlxError(f"{dataset.name}: has no observation {name!r}; it has {', '.join(map(printable, ranges))}")
        if ranges[name][1] - ranges[name][0] != end - start:
            raise RlxError(f"{dataset.name}: observation {name!r} is not as large as the environment's, {end - start}")
    order = np.concatenate([np.arange(*ranges[name]) for name in parts])
    rows, size = dataset.rows, dataset.rows.observation.shape[1]
    if order.max(initial=0) >= size:
        raise RlxError(f"{dataset.name}: its info names columns of observations beyond their {size}: write it again")
    chosen = {name: getattr(rows, name)[:, order] for name in ("observation", "next_observation")}
    ranges = {name: list(columns) for name, columns in parts.items()}
    return dataset._replace(rows=rows._replace(**chosen), info=dataset.info | {"observation_parts": ranges})


def take(dataset: Dataset, keep: np.ndarray) -> Dataset:
    """The rows where `keep` `[n]` is true; an episode is truncated before each row that is left out."""
    follows = np.append(keep[1:], True)
    rows = dataset.rows._replace(truncated=dataset.rows.truncated | ~follows)
    return make_dataset(dataset.info, **jax.tree.map(lambda leaf: leaf[keep], rows)._asdict())


def clip_actions(dataset: Dataset, limit: float = 1 - 1e-5) -> tuple[Dataset, int]:
    """The set with actions in +-`limit`, for policies that squash, and how many numbers of actions were changed.

    At exactly +-1 the density of a squashed policy has no finite gradient; it is done once, here, and counted.
    """
    action = dataset.rows.action
    clipped = np.clip(action, -np.float32(limit), np.float32(limit))
    changed = int(np.count_nonzero(clipped != action))
    return dataset._replace(rows=dataset.rows._replace(action=clipped)), changed


def nonfinite(dataset: Dataset, max_magnitude: float = math.inf) -> dict[str, np.ndarray]:
    """Row numbers with NaN, infinity or numbers beyond +-`max_magnitude` by quantity, of those that have any.

    Rewards that are missing do not count.
    """
    bad_rows = {}
    for name, leaf in leaves(dataset.rows).items():
        if name == "reward" and dataset.info.get("missing"):
            continue
        good = np.isfinite(leaf) & (np.abs(leaf) <= max_magnitude)
        bad = ~good.reshape(len(leaf), -1).all(axis=1)
        if bad.any():
            bad_rows[name] = np.flatnonzero(bad)
    return bad_rows


def drop_nonfinite(dataset: Dataset, max_magnitude: float = math.inf) -> Dataset:
    """The set without the rows that `nonfinite` names.

    The row before becomes truncated, and the rows that follow are a new episode, so returns are those of the pieces.
    """
    keep = np.ones(dataset.size, bool)
    for rows in nonfinite(dataset, max_magnitude).values():
        keep[rows] = False
    return dataset if keep.all() else take(dataset, keep)


def to_replay(dataset: Dataset, reward_shift: float = 0.0) -> Replay:
    """A full ring on the host, rows `[n, 1, ...]` of NumPy, for `rlx.replay.sample` to draw from as it does online.

    `reward_shift` is added to every reward. Raises RlxError where the set has no rewards.
    """
    require_rewards(dataset)
    rows = dataset.rows._replace(reward=dataset.rows.reward + np.float32(reward_shift))
    cursor: dict[str, Any] = {"head": np.zeros((), np.int32), "size": np.asarray(dataset.size, np.int32)}
    return Replay(rows=jax.tree.map(lambda leaf: leaf[:, None], rows), cursor=Cursor(**cursor))
