"""`rlx.fit`, `rlx.load`, and going on with a run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from rlx import agents, build, config, data, parallel
from rlx.api import training
from rlx.api.arguments import as_list, check_kind, speaks_python
from rlx.api.environments import environment
from rlx.api.following import Follower, Progress
from rlx.api.result import Result
from rlx.config import RunConfig
from rlx.data import Dataset
from rlx.errors import RlxError
from rlx.runs import folders, initial, runner
from rlx.train import other_names
from rlx.train.compile import keep_compiled_programs
from rlx.train.config import TrainConfig

Run = str | Path | Result  # the folder of one, or what it returned
OF_FOLDERS = ("tensorboard", "wandb", "checkpoint_dir", "checkpoint_every", "keep", "checkpoint_replay")
WRITE_IT = (
    "write it by rlx.data.write(dataset, path) (rlx.data.from_arrays makes a Dataset of a dict of arrays), and give"
    " the path"
)


@speaks_python
def fit(
    agent: str | ModuleType = "sac",
    env: Any = None,
    backend: str | None = None,
    *,
    dataset: Any = None,
    preset: str | None = None,
    init_from: Run | Mapping[str, Run] | None = None,
    run_dir: str | Path | None = None,
    run_name: str | None = None,
    overwrite: bool = False,
    callbacks: Any = (),
    progress: Progress = None,
    keep_training_state: bool = True,
    **settings: Any,
) -> Result:
    """Trains in this process and returns the result; the settings are those of `rlx train`, with underscores.

    `agent` is a name, or the module of an agent of your own (see `rlx.agents.register`); `env` is a name, or an
    environment of your own (see `rlx.types.Env`), by default that of the data set, if it has one. `dataset` is a
    path, a `rlx.data.Dataset` or a dict of arrays (see `rlx.data.from_arrays`), or a list of them. With `run_dir` the
    run has a folder in it, as the command makes it, and can be resumed; without, all stays in memory.

    `init_from` is a run to begin from, or the runs that give parts of other agents, by the names of the parts:
    `{"policy": result, "critic": "runs/calql"}`.

    `callbacks` are called with every line of metrics and the agent's state; one that returns True ends the run. So does
    Ctrl-C: the result is what was learnt until then. An exception in a callback is raised, with the result in its
    attribute `result`. `progress` shows a bar (by default on a terminal and in a notebook), or is a function that is
    called with every line of metrics. Without `keep_training_state` a result in memory cannot continue, and holds
    neither replay nor environments. Raises RlxError for a name, a setting or an object that cannot be.

        result = rlx.fit("sac", "gymnax:Pendulum-v1", total_env_steps=20_000, num_seeds=4)
    """
    follower = Follower(callbacks, progress, run_dir is not None)
    agent = agent if isinstance(agent, str) else agents.register(agent)
    keep_compiled_programs()
    paths, datasets = named_data(dataset)
    if paths:
        settings["dataset"] = ",".join(paths)
    named_env = environment(env, backend, datasets or paths)
    check_names(agent, settings)
    _check_runs(init_from)
    run_config = config.resolve(agent, named_env.name, named_env.backend, preset, **named_env.settings | settings)
    _check(run_config, settings, run_dir, run_name, overwrite, datasets)
    if run_dir is None:
        return _in_memory(run_config, named_env.env, datasets, init_from, follower, keep_training_state)
    check_kind("run_dir", run_dir, (str, Path), "the folder that holds runs")
    source = _in_folders(init_from)
    with folders.new(run_dir, run_name, run_config, overwrite) as folder:

        def train() -> Any:
            return runner.train(run_config, folder, source, env=named_env.env, follower=follower)

        result: Result = training.in_folder(Result, folder, train, follower, named_env.env)
        return result


def check_names(agent: str, settings: dict[str, Any]) -> None:
    """Raises RlxError for a name that is no setting of the agent and no argument of `fit`, with the nearest."""
    arguments = [name for name in inspect.signature(fit).parameters if name != "settings"]
    known = [*config.settings(agent), *arguments]
    for name in settings:
        if name not in known:
            meant = other_names.ARGUMENTS.get(name.lower())
            hint = f"did you mean {meant}?" if meant else config.nearest(name, known)
            if "did you mean" not in hint:
                hint = f"an environment's own goes in env_args={{{name!r}: ...}}; for others {hint}"
            raise RlxError(f"unknown setting {name!r} of {agent}: {hint}")


def _check_runs(init_from: Any) -> None:
    """Raises RlxError for an argument `init_from` that names no runs."""
    if isinstance(init_from, Mapping) and not init_from:
        raise RlxError("init_from: names no part; give the parts' runs, as in {'policy': RUN}, or leave it out")
    runs = init_from if isinstance(init_from, Mapping) else {"": init_from} if init_from is not None else {}
    for name, run in runs.items():
        label = f"init_from[{name!r}]" if name else "init_from"
        check_kind(label, run, (str, Path, Result), "a run's folder, or the result of one")


def _in_folders(init_from: Run | Mapping[str, Run] | None) -> str | None:
    """The argument `init_from` as the command has it. Raises RlxError for a result that has no run folder."""

    def place(run: Run) -> str:
        if isinstance(run, Result) and run.folder is None:
            raise RlxError(
                "init_from: this result has no run folder, which a run in a folder needs; save it by result.save"
            )
        return str(run.folder if isinstance(run, Result) else run)

    if isinstance(init_from, Mapping):
        return ",".join(f"{name}={place(run)}" for name, run in init_from.items())
    return None if init_from is None else place(init_from)


def _source_runs(init_from: Mapping[str, Run]) -> dict[str, initial.SourceRun]:
    """The runs that give parts, in memory or in folders."""
    return {
        name: initial.SourceRun(repr(run), run.config, run._task, run._snapshot)
        if isinstance(run, Result)
        else initial.source_run(Path(run))
        for name, run in init_from.items()
    }


class NamedData(NamedTuple):
    """Data sets as a run's configuration names them, and those that are in memory."""

    paths: list[str]
    datasets: list[Dataset]  # empty where all are files


def named_data(dataset: Any) -> NamedData:
    """The argument `dataset`: paths stay paths, unless one of them is in memory."""
    parts = as_list(dataset)
    if all(isinstance(part, (str, Path)) for part in parts):
        return NamedData([path for part in parts for path in str(part).split(",")], [])
    datasets = [data.as_dataset(part) for part in parts]
    numbers = [f" {i}" if len(datasets) > 1 else "" for i in range(1, len(datasets) + 1)]
    named = zip(datasets, numbers, strict=True)
    return NamedData([f"{one.name} (in memory{number})".replace(",", ";") for one, number in named], datasets)


def _check(
    run_config: RunConfig,
    settings: dict[str, Any],
    run_dir: Any,
    run_name: str | None,
    overwrite: bool,
    datasets: list[Dataset],
) -> None:
    """Raises RlxError for what this call cannot honour."""
    check_determinism(run_config.train)
    if run_dir is not None:
        if datasets:
            raise RlxError(f"run_dir: a run folder names its data set; {WRITE_IT}")
        return
    defaults = {field.name: field.default for field in fields(TrainConfig)}
    asked = [name for name in OF_FOLDERS if name in settings and getattr(run_config.train, name) != defaults[name]]
    asked += ["run_name"] * (run_name is not None) + ["overwrite"] * overwrite
    if asked:
        raise RlxError(f"{asked[0]}: is about a run folder; give run_dir, too, or leave it out")


def check_determinism(train: TrainConfig) -> None:
    """Raises RlxError where a GPU was to give the same bits every time, and jax has begun without that."""
    if train.deterministic and not parallel.is_deterministic():
        raise RlxError(
            f"deterministic: jax has begun without it; set XLA_FLAGS={parallel.DETERMINISTIC} before Python starts"
        )


def _in_memory(
    run_config: RunConfig,
    env: Any,
    datasets: list[Dataset],
    init_from: Run | Mapping[str, Run] | None,
    follower: Follower,
    keep_training_state: bool,
) -> Result:
    if isinstance(init_from, Result):
        configs = {"": init_from.config}
    elif isinstance(init_from, Mapping):
        source_runs = _source_runs(init_from)
        configs = {name: run.config for name, run in source_runs.items()}
    else:
        configs = initial.configs(_in_folders(init_from))
    prepared = build.setup(initial.described(run_config, configs), env, datasets=datasets)
    driver = build.make_driver(prepared, build.parts(prepared.config)[0])
    if isinstance(init_from, Result):
        snapshot = init_from._snapshot
        initial.check_same_shapes(f"init_from: {init_from}", driver, snapshot)
    elif isinstance(init_from, Mapping):
        snapshot = initial.adopted(driver, run_config.agent, source_runs)
    else:
        snapshot = initial.snapshot(driver, run_config.agent, _in_folders(init_from))
    result: Result = training.in_memory(
        Result, prepared, datasets, driver, snapshot, None, env, follower, keep_training_state, []
    )
    return result


@speaks_python
def load(path: str | Path, env: Any = None, env_args: dict[str, Any] | None = None) -> Result:
    """The result in a run folder: of `rlx train`, of `rlx.fit(run_dir=...)`, or saved by `Result.save`.

    `env` is an object or a name with its `env_args`: the environment of a run where that was an object, the one to
    evaluate in of a run that had none, or another one for the policy. Raises RlxError where there is no run, or none
    that has saved a policy, and for an environment of other sizes.
    """
    check_kind("path", path, (str, Path), "the path of a run folder")
    if env_args and not isinstance(env, str):
        raise RlxError("env_args: goes with the name of an environment; give env, such as 'file.py:Name'")
    result: Result = training.load(Result, Path(path), env, env_args or {})
    return result
