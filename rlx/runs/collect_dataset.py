"""Data sets made on disk: a run's policies or an environment's controllers act, or a run's saved replay is taken.

The run is only read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlx import data, json_files
from rlx.data import Dataset, limits
from rlx.errors import RlxError, say_compiling
from rlx.parallel import machine
from rlx.runs import checkpoint, saved_replay
from rlx.runs.behaviours import EXPLORING, OF_RUNS, Exploration, counts, shares
from rlx.runs.collector import Collector
from rlx.runs.collectors import EnvCollector, RunCollector
from rlx.types import Spec

MOST = 10**12  # transitions
COPIES = 3  # of all rows, at most at once


def make_dataset(
    place: Path | str,
    kind: str,
    size: int,
    out: Path,
    seed: int = 0,
    step: int | None = None,
    env: str | None = None,
    backend: str | None = None,
    env_args: Sequence[str] = (),
    exploration: Exploration = EXPLORING,
) -> Dataset:
    """Writes `size` transitions to `out` as a Minari data set, and returns them.

    `place` is a run's folder, or an environment's name. A run's `kind` is random; expert, the last policy; medium, the
    policy a third of the way there; mixed, half of each; shares of these, such as "random=0.95,expert=0.05"; or
    replay, what the run itself collected, all of it where that is less. An environment's is random, one of its
    controllers, or shares. `step` chooses another checkpoint for medium (also in mixed) or expert; `env`, `backend` and
    `env_args` another environment of the same sizes; `exploration` how the behaviours explore. The set's info has the
    random and the expert return in this environment, and those of its behaviours; a note says where a behaviour is not
    what its name promises. Raises RlxError for an impossible run, environment or kind.
    """
    _check(kind, size, out, seed, step, exploration)
    collector = _collector(place, kind, size, seed, step, env, backend, env_args, exploration)
    if isinstance(collector, RunCollector) and kind == "replay":
        dataset = saved_replay.read(collector.saved, collector.folder, size)
        say_compiling(f"took {dataset.size:,} transitions of {place}; evaluating random actions and its last policy")
        return _written(collector, kind, dataset, [], [], out)
    parts, spec = shares(kind, collector.names), collector.task.env.spec
    if exploration.noise and spec.num_actions:
        raise RlxError(
            f"--noise {exploration.noise:g}: is of continuous actions, and those here are discrete; leave it out"
        )
    sizes = counts(parts.values(), size)
    if 0 in sizes:
        raise RlxError(f"--kind {kind}: of {size} transitions {list(parts)[sizes.index(0)]} has none; collect more")
    _check_memory(spec, size)
    say_compiling(f"collecting {size:,} transitions of {place}, {kind}")
    chosen = collector.choose(list(parts), step)
    dataset = data.concatenate([collector.collect(b, n) for b, n in zip(chosen, sizes, strict=True)])
    behaviours = [collector.describe(b, share) for b, share in zip(chosen, parts.values(), strict=True)]
    return _written(collector, kind, dataset, behaviours, collector.mismatches(chosen), out)


def _collector(
    place: Path | str,
    kind: str,
    size: int,
    seed: int,
    step: int | None,
    env: str | None,
    backend: str | None,
    env_args: Sequence[str],
    exploration: Exploration,
) -> Collector:
    """The environment or the run. Raises RlxError for what says nothing about it."""
    if is_env(place):
        if env is not None or step is not None or kind == "replay":
            raise RlxError(
                f"{place}: is an environment, so --env, --step and --kind replay say nothing; leave them out"
            )
        if exploration.greedy:
            raise RlxError(f"--greedy: is of policies, and {place} has controllers, which act in one way; leave it out")
        return EnvCollector(str(place), size, seed, exploration, backend, env_args)
    shares(kind, OF_RUNS if kind != "replay" else [kind])  # what is misspelt is said before anything is read
    folder = Path(place)
    if kind == "replay" and (env or backend or env_args):
        raise RlxError("--env, --backend, --env-args: replay is of the run's own environment; leave them out")
    collector = RunCollector(folder, size, seed, exploration, env, backend, env_args)
    if step is not None:
        checkpoint.choose(folder / "checkpoints", step)
    return collector


def is_env(place: Path | str) -> bool:
    """Whether this names an environment, and no folder."""
    return isinstance(place, str) and ":" in place and not Path(place).exists()


def _check(kind: str, size: int, out: Path, seed: int, step: int | None, exploration: Exploration) -> None:
    """Raises RlxError for what cannot be, before anything is read."""
    if not 1 <= size <= MOST:
        raise RlxError(f"--num-transitions {size:,}: must be at least 1 and at most {MOST:,}")
    if not 0 <= seed < 2**32:
        raise RlxError(f"--seed {seed}: must be at least 0 and under 2^32")
    without_policy = {part.partition("=")[0] for part in kind.split(",")} <= {"random", "replay"}
    if step is not None and without_policy:
        raise RlxError(f"--step {step}: goes with --kind medium, expert or mixed; leave it out")
    if not 0 <= exploration.noise <= 10:
        raise RlxError(f"--noise {exploration.noise:g}: must be at least 0 and at most 10")
    if exploration != EXPLORING and without_policy:
        raise RlxError(f"--greedy, --noise: say how policies act, and --kind {kind} has none; leave them out")
    if out.exists():
        raise RlxError(f"{out}: already exists; choose another --out")
    json_files.check_place(out, "--out")


def _written(
    collector: Collector, kind: str, dataset: Dataset, behaviours: list[dict[str, object]], notes: list[str], out: Path
) -> Dataset:
    info = collector.info(kind, dataset, behaviours) | {"name": out.name, "notes": notes}
    dataset = dataset._replace(info=info)
    data.write(dataset, out)
    return dataset


def _check_memory(spec: Spec, size: int) -> None:
    """Raises RlxError for more transitions than memory holds: blocks off the device, joined columns, the set."""
    row = 4 * (2 * spec.observation_size + spec.action_size + 3)  # reward, log-probability and flags
    needed, free = COPIES * row * size, machine.free_memory()
    if free is not None and needed > free:
        raise RlxError(
            f"--num-transitions {size}: needs {needed / limits.GIB:,.1f} GiB of memory but {free / limits.GIB:,.1f} are"
            " free; collect fewer"
        )
