"""Studies: agents on tasks, one run for each pair, whose members are seeds and the settings to choose among.

A task is an environment, or a data set with the environment that its policies are evaluated in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlx import build, config, data, json_files
from rlx.config import RunConfig
from rlx.envs import no_env
from rlx.errors import RlxError
from rlx.runs import initial, loggers, saver
from rlx.runs.folders import STUDY
from rlx.settings import convert

MOST_EVALUATIONS = 10_000  # of as many a bandit takes a second for each seed


class Place(NamedTuple):
    """An environment, and the data set if agents learn from one."""

    path: str  # as `--dataset` of `rlx train`, or empty
    env: str
    backend: str | None
    settings: Mapping[str, Any]  # of the environment

    @property
    def task(self) -> str:
        """Its row of the table."""
        return "+".join(Path(path).name for path in self.paths) or self.env

    @property
    def paths(self) -> list[str]:
        """Of the data sets."""
        return self.path.split(",") if self.path else []


class Cell(NamedTuple):
    """One run of a study."""

    agent: str  # a column of the table: the agent's name, `iql@small` with a preset
    task: str  # a row of the table: the name of the data set, or of the environment
    config: RunConfig
    init_from: str | None = None  # as of `rlx train`

    @property
    def name(self) -> str:
        """Of its folder."""
        return _in_a_path(f"{self.agent}-{self.task}")


class Study(NamedTuple):
    """What is trained, and how it is evaluated."""

    cells: list[Cell]  # all agents on the first task, then on the next
    digests: dict[str, str]  # of every task the version of its data set, empty without one
    evaluations: tuple[int, ...]  # how many evaluation episodes may choose among the settings; empty for one setting
    init_from_digests: dict[str, str]  # digests of the policies of runs that `--init-from` names


def make(
    agents: Sequence[str],
    places: Sequence[Place],
    evaluations: Sequence[int] = (),
    preset: str | None = None,
    init_from: str | None = None,
    **settings: Any,
) -> Study:
    """A study of agents, `NAME` or `NAME@PRESET`, on tasks; a setting goes to the agents that have it.

    So does `init_from`: parts of runs to the agents that adopt them, a whole policy to its own agent. `{task}` in it
    stands for the name of the task, as in the names of folders.
    Hyper-parameters may have several values: each combination is trained, and `evaluations` episodes choose among them.
    Raises RlxError, before there is a folder, for what cannot be trained or compared.
    """
    cells, digests = [], {}
    for place in places:
        task = place.task
        if task in digests and place.path:
            raise RlxError(f"--dataset {place.path}: another data set is called {task}, too; rename the folder of one")
        if task in digests:
            raise RlxError(f"--env {task}: is there twice; leave one out")
        loaded = [data.read(Path(path)) for path in place.paths]
        digests[task] = _digest(loaded)
        for text in agents:
            cell = Cell(_column(text), task, _resolve(text, place, preset, settings))
            cells.append(_with_init_from(cell, init_from and init_from.replace("{task}", _in_a_path(task)), loaded))
    if init_from and not any(cell.init_from for cell in cells):
        raise RlxError(f"--init-from {init_from}: no agent of this study begins from that; leave it out")
    study = Study(cells, digests, tuple(evaluations), _init_from_digests(cells))
    _check(study)
    return study


def _with_init_from(cell: Cell, init_from: str | None, datasets: Sequence[data.Dataset]) -> Cell:
    """The cell, and what it begins from if that is for its agent. Raises RlxError for what cannot be trained."""
    configs = initial.configs(init_from)
    if "" in configs and configs[""].agent != cell.config.agent:
        configs = {}  # a whole policy of another agent
    prepared = build.setup(initial.described(cell.config, configs), datasets=datasets)
    if not configs:
        return cell
    driver = build.make_driver(prepared, build.parts(prepared.config)[0])
    if "" not in configs and configs.keys().isdisjoint(driver.task.agent.adopts):
        return cell
    initial.check(driver, cell.config.agent, str(init_from))
    return cell._replace(init_from=init_from)


def _init_from_digests(cells: Sequence[Cell]) -> dict[str, str]:
    """Digests of the policies that cells begin from, by their runs."""
    return {run: digest for cell in cells for run, digest in initial.digests(cell.init_from).items()}


def _in_a_path(name: str) -> str:
    """A name of agent or task as a part of a folder's."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


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
        first = next(other for other in study.cells if other.task == cell.task)
        steps, of_first = (one.config.train.total_env_steps for one in (cell, first))
        if steps != of_first:
            raise RlxError(
                f"{cell.agent} makes {steps:,} steps in {cell.config.env} and {first.agent} {of_first:,}; give all the"
                " same --total-env-steps" + ", 0 to learn from data alone" * bool(cell.config.train.dataset)
            )
        loggers.check(cell.config)
        saver.check_place(cell.config, Path())
    for count in study.evaluations:
        if not 1 <= count <= MOST_EVALUATIONS:
            raise RlxError(f"--evaluations {count}: must be at least 1 and at most {MOST_EVALUATIONS:,}")
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
    """Raises RlxError where a data set, or a run to begin from, is not the one that the study began with."""
    for path, task in {
        cell.config.train.dataset: cell.task for cell in study.cells if study.digests[cell.task]
    }.items():
        if _digest([data.read(Path(each)) for each in path.split(",")]) != study.digests[task]:
            raise RlxError(
                f"{path}: is another version than the study began with, and one table has one version of a set;"
                " restore it, or begin another study"
            )
    for run, digest in _init_from_digests(study.cells).items():
        if digest != study.init_from_digests[run]:
            raise RlxError(f"{run}: is not as it was when the study began; restore it, or begin another study")


def save(study: Study, folder: Path, more: Mapping[str, Any] | None = None) -> None:
    """Writes study.json."""
    cells = [
        config.to_json(cell.config) | {"column": cell.agent, "task": cell.task, "init_from": cell.init_from}
        for cell in study.cells
    ]
    content = {"cells": cells, "digests": study.digests, "evaluations": study.evaluations}
    content["init_from_digests"] = study.init_from_digests
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
                str(one["task"]),
                config.resolve(one["agent"], one["env"], one["backend"], **one["settings"]),
                None if one.get("init_from") is None else str(one["init_from"]),
            )
            for one in content["cells"]
        ]
        evaluations = tuple(convert("evaluations", int, count) for count in content["evaluations"])
        digests = {cell.task: str(content["digests"][cell.task]) for cell in cells}
        runs = {str(run) for cell in cells for run in initial.sources(cell.init_from).values()}
        init_from_digests = {run: str(content["init_from_digests"][run]) for run in runs}
        study = Study(cells, digests, evaluations, init_from_digests)
        if not cells:
            raise ValueError("no cells")
        _check(study)
        return study
    except (RlxError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RlxError(f"{path}: is damaged ({error}); restore it from a copy") from None
