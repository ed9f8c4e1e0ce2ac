"""Studies: agents on data sets, one run for each pair, whose members are seeds and the settings to choose among."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlx import build, config, data, json_files
from rlx.config import RunConfig
from rlx.envs import no_env
from rlx.errors import RlxError
from rlx.runs import loggers, saver
from rlx.runs.folders import STUDY
from rlx.settings import convert


class Place(NamedTuple):
    """A data set, and the environment that its policies are evaluated in."""

    path: str  # as `--dataset` of `rlx train`
    env: str
    backend: str | None
    settings: Mapping[str, Any]  # of the environment


class Cell(NamedTuple):
    """One run of a study."""

    agent: str  # a column of the table: the agent's name, `iql@small` with a preset
    dataset: str  # a row of the table
    config: RunConfig

    @property
    def name(self) -> str:
        """Of its folder."""
        return re.sub(r"[^A-Za-z0-9._-]", "-", f"{self.agent}-{self.dataset}")


class Study(NamedTuple):
    """What is trained, and how it is evaluated."""

    cells: list[Cell]  # all agents on the first data set, then on the next
    digests: dict[str, str]  # the version of every data set
    evaluations: tuple[int, ...]  # how many evaluation episodes may choose among the settings; empty for one setting


def make(
    agents: Sequence[str],
    places: Sequence[Place],
    evaluations: Sequence[int] = (),
    preset: str | None = None,
    **settings: Any,
) -> Study:
    """A study of agents, `NAME` or `NAME@PRESET`, on data sets; a setting goes to the agents that have it.

    Hyper-parameters may have several values: each combination is trained, and `evaluations` episodes choose among them.
    Raises RlxError, before there is a folder, for what cannot be trained or compared.
    """
    cells, digests = [], {}
    for place in places:
        name = "+".join(Path(path).name for path in place.path.split(","))
        if name in digests:
            raise RlxError(f"--dataset {place.path}: another data set is called {name}, too; rename the folder of one")
        loaded = [data.read(Path(path)) for path in place.path.split(",")]
        digests[name] = _digest(loaded)
        for text in agents:
            cell = Cell(_column(text), name, _resolve(text, place, preset, settings))
            build.setup(cell.config, datasets=loaded)
            cells.append(cell)
    study = Study(cells, digests, tuple(evaluations))
    _check(study)
    return study


def _digest(datasets: Sequence[data.Dataset]) -> str:
    return ",".join(map(data.digest, datasets))


def _split(text: str) -> tuple[str, str | None]:
    """Agent and preset of `AGENT@PRESET`."""
    agent, _, preset = text.partition("@")
    return agent, preset or None


def _column(text: str) -> str:
    """The heading of an agent's column: a preset's file without its folder."""
    agent, preset = _split(text)
    return f"{agent}@{Path(preset).name.removesuffix('.json')}" if preset else agent


def _resolve(text: str, place: Place, preset: str | None, settings: Mapping[str, Any]) -> RunConfig:
    agent, of_its_own = _split(text)
    known = config.settings(agent)
    mine = {name: value for name, value in settings.items() if name in known}
    chosen = {"on_nonfinite": "skip"} | dict(place.settings) | mine | {"dataset": place.path}
    return config.resolve(agent, place.env, place.backend, of_its_own or preset, **chosen)


def _check(study: Study) -> None:
    """Raises RlxError for cells that cannot be compared."""
    names = [cell.name for cell in study.cells]
    for cell in study.cells:
        if names.count(cell.name) > 1:
            raise RlxError(f"{cell.agent}: is there twice; give one of them another preset file, AGENT@FILE.json")
        if no_env.is_none(cell.config.env):
            raise RlxError("--no-env: a study compares greedy returns, so it needs an environment; name one by --env")
        if not cell.config.train.offline_steps:
            raise RlxError(f"{cell.agent}: learns from its environment alone; give --offline-steps, or leave it out")
        loggers.check(cell.config)
        saver.check_place(cell.config, Path())
    if any(count < 1 for count in study.evaluations):
        raise RlxError(f"--evaluations {min(study.evaluations)}: must be at least 1")
    varied = [cell for cell in study.cells if len(config.combinations(cell.config)) > 1]
    if varied and not study.evaluations:
        raise RlxError(
            f"{varied[0].agent} has several settings to choose among: say by how many evaluation episodes,"
            " as in --evaluations 10 100"
        )
    if study.evaluations and not varied:
        raise RlxError("--evaluations: every agent has one setting, so there is nothing to choose; leave it out")
    for cell in varied:
        if cell.config.train.eval_episodes < 2:
            raise RlxError("--eval-episodes 1: one half chooses among settings and the other evaluates; give 2 or more")


def check_versions(study: Study) -> None:
    """Raises RlxError where a data set is not the one that the study began with."""
    for path, name in {cell.config.train.dataset: cell.dataset for cell in study.cells}.items():
        if _digest([data.read(Path(each)) for each in path.split(",")]) != study.digests[name]:
            raise RlxError(
                f"{path}: is another version than the study began with, and one table has one version of a set;"
                " restore it, or begin another study"
            )


def save(study: Study, folder: Path, more: Mapping[str, Any] | None = None) -> None:
    """Writes study.json."""
    cells = [config.to_json(cell.config) | {"column": cell.agent, "dataset": cell.dataset} for cell in study.cells]
    content = {"cells": cells, "digests": study.digests, "evaluations": study.evaluations}
    json_files.write(folder / STUDY, content | dict(more or {}))


def load(folder: Path) -> Study:
    """What `save` wrote. Raises RlxError where there is no study, or a damaged one."""
    path = folder / STUDY
    if not path.is_file():
        raise RlxError(f"{folder}: holds no study (no {STUDY}); give a folder that `rlx study` made")
    content = json_files.read(path)
    try:
        cells = [
            Cell(
                str(one["column"]),
                str(one["dataset"]),
                config.resolve(one["agent"], one["env"], one["backend"], **one["settings"]),
            )
            for one in content["cells"]
        ]
        evaluations = tuple(convert("evaluations", int, count) for count in content["evaluations"])
        study = Study(cells, {cell.dataset: str(content["digests"][cell.dataset]) for cell in cells}, evaluations)
        if not cells:
            raise ValueError("no cells")
        _check(study)
        return study
    except (RlxError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RlxError(f"{path}: is damaged ({error}); restore it from a copy") from None
