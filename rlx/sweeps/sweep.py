"""Sweeps: combinations of hyper-parameters trained as members of one program or of a few, and the best of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rlx import build, config, json_files
from rlx.config import RunConfig
from rlx.envs import no_env
from rlx.errors import RlxError
from rlx.runs import loggers, saver
from rlx.settings import convert
from rlx.sweeps.space import Dimension, Range, grid, parse_range, sample, take_ranges
from rlx.types import COUNT


class Sweep(NamedTuple):
    """What is trained."""

    base: RunConfig  # what all runs have in common; its `hypers` are one value each
    space: dict[str, Dimension]  # of the hyper-parameters that vary
    random: int  # samples; 0 for the grid of all combinations
    combinations: list[dict[str, float]]  # each once
    chunk: int  # combinations that are trained at once
    confirm: int  # fresh seeds on which the best is trained again


def make(
    agent: str,
    env: str,
    backend: str | None = None,
    preset: str | None = None,
    random: int = 0,
    chunk: int | None = None,
    confirm: int = 0,
    **settings: Any,
) -> Sweep:
    """A sweep over the hyper-parameters with several values, or text such as `"1e-5:1e-3:log"` to sample from.

    With `random` so many combinations are sampled, else all of the values are trained. A value that diverges ends no
    other: updates that are not finite are left out, by default. Raises RlxError where nothing
    varies and, before there is a folder, for what cannot be trained.
    """
    if no_env.is_none(env):
        raise RlxError("--no-env: a sweep ranks by greedy returns, so it needs an environment; name one by --env")
    known = config.settings(agent)
    hypers = [name for name, setting in known.items() if setting.section == "hypers"]
    ranges, rest = take_ranges(known, settings)
    base = config.resolve(agent, env, backend, preset, **{"on_nonfinite": "skip"} | rest)
    space = ranges | {name: values for name, values in base.hypers.items() if len(values) > 1}
    space = {name: space[name] for name in hypers if name in space}
    base = replace(base, hypers={name: values[:1] for name, values in base.hypers.items()})
    _check(space, hypers, random, confirm, chunk)
    rows = sample(space, random, base.train.seed) if random else grid(space)
    combinations = [dict(row) for row in dict.fromkeys(tuple(row.items()) for row in rows)]  # a repeat is no more seeds
    if base.train.spread == "seeds":
        _check_division(base, len(combinations), chunk, confirm)
    loggers.check(base)
    saver.check_place(base, Path())
    return Sweep(base, space, random, combinations, _fitting(base, len(combinations), chunk), confirm)


def _check(space: Mapping[str, Dimension], hypers: Sequence[str], random: int, confirm: int, chunk: int | None) -> None:
    for flag, count, least in (("random", random, 0), ("confirm", confirm, 0), ("chunk", chunk, 1)):
        if count is not None and not least <= count <= COUNT[1]:
            raise RlxError(f"--{flag} {count}: must be at least {least} and at most {COUNT[1]}")
    if not space:
        raise RlxError(f"nothing to sweep: give several values, or a range, to one of {', '.join(hypers)}")
    ranges = [name for name, dimension in space.items() if isinstance(dimension, Range)]
    if ranges and not random:
        raise RlxError(f"--{ranges[0].replace('_', '-')}: a range goes with --random N, how many samples to train")


def _check_division(base: RunConfig, count: int, chunk: int | None, confirm: int) -> None:
    """Raises RlxError where a run of the sweep has not as many members on every device."""
    devices, seeds, size = base.train.num_devices, base.train.num_seeds, min(chunk or count, count)
    what = f"{count} combinations" if chunk is None else f"--chunk {chunk} of {count} combinations"
    for named, runs_at_once in ((what, size * seeds), (what, count % size * seeds), (f"--confirm {confirm}", confirm)):
        if runs_at_once % devices:
            must = f"must divide over {devices} devices, with --spread seeds"
            raise RlxError(f"{named}: {runs_at_once} runs at once {must}")


def _fitting(base: RunConfig, count: int, chunk: int | None) -> int:
    """How many combinations to train at once: `chunk`, or as many as memory holds, shared out evenly.

    Raises RlxError for an environment, a data set or devices that do not exist.
    """
    prepared, seeds, devices = build.setup(base), base.train.num_seeds, base.train.num_devices
    if chunk is not None:
        return min(chunk, count)
    unit = devices // math.gcd(devices, seeds) if base.train.spread == "seeds" else 1  # that every device has as many
    most = build.most_members(prepared, unit * seeds, count * seeds) // seeds
    even = math.ceil(count / math.ceil(count / most))
    return even + -even % unit


def chunks(sweep: Sweep) -> list[list[dict[str, float]]]:
    """The combinations that are trained together."""
    return [sweep.combinations[i : i + sweep.chunk] for i in range(0, len(sweep.combinations), sweep.chunk)]


def chunk_config(sweep: Sweep, part: Sequence[Mapping[str, float]], folder: Path) -> RunConfig:
    """The run of some combinations, in a sweep's folder."""
    varied = {name: tuple(combination[name] for combination in part) for name in sweep.space}
    train = replace(sweep.base.train, checkpoint_dir=checkpoint_dir(sweep, folder))
    return replace(sweep.base, train=train, hypers=sweep.base.hypers | varied, paired=True)


def checkpoint_dir(sweep: Sweep, folder: Path) -> str:
    """The sweep's subfolder of `--checkpoint-dir`, since every sweep has a chunk-0."""
    base = sweep.base.train.checkpoint_dir
    return f"{base.rstrip('/')}/{folder.resolve().name}" if base else ""


def save(sweep: Sweep, folder: Path, more: Mapping[str, Any] | None = None) -> None:
    """Writes sweep.json."""
    space = {
        name: str(dimension) if isinstance(dimension, Range) else dimension for name, dimension in sweep.space.items()
    }
    content = config.to_json(sweep.base) | {"varied": space} | sweep._asdict() | dict(more or {})
    del content["base"], content["space"]
    json_files.write(folder / "sweep.json", content)


def load(folder: Path) -> Sweep:
    """What `save` wrote. Raises RlxError where there is no sweep, or a damaged one."""
    path = folder / "sweep.json"
    if not path.is_file():
        raise RlxError(f"{folder}: holds no sweep (no sweep.json); give a folder that `rlx sweep` made")
    base, content = config.from_json(path), json_files.read(path)
    try:
        space = {
            name: parse_range(name, dimension) if isinstance(dimension, str) else tuple(dimension)
            for name, dimension in content["varied"].items()
        }
        combinations = [{name: float(row[name]) for name in space} for row in content["combinations"]]
        random, chunk, confirm = (convert(name, int, content[name]) for name in ("random", "chunk", "confirm"))
        if not combinations:
            raise ValueError("no combinations")
        _check(space, list(base.hypers), random, confirm, chunk)
        sweep = Sweep(base, space, random, combinations, chunk, confirm)
        every = config.flat(chunk_config(sweep, combinations, folder)) | {"num_seeds": 1}
        config.resolve(base.agent, base.env, base.backend, paired=True, **every)  # refuses what is no setting
        return sweep
    except (RlxError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RlxError(f"{path}: is damaged ({error}); restore it from a copy") from None
