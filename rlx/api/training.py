"""Training on behalf of Python: in memory or in a run folder, from the beginning or on from where a run was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rlx import build, config, envs
from rlx.api.arguments import in_python
from rlx.api.following import Follower, Progress
from rlx.config import RunConfig
from rlx.data import Dataset
from rlx.envs import arguments, no_env
from rlx.errors import RlxError, say
from rlx.experiment import Moment, run
from rlx.runs import extend, folders, metrics, policies, recording, runner, summaries
from rlx.runs.signals import Interrupted
from rlx.train.compile import keep_compiled_programs
from rlx.train.loop import Resumed
from rlx.train.report import record

MEMORY = Path("this run")  # in place of a run folder, in messages
MakeResult = Callable[..., Any]  # the class `rlx.Result`, which is in a module that imports this one


class Trained(NamedTuple):
    """A run that ended in this process, with all that it takes to go on."""

    setup: build.Setup
    datasets: Sequence[Dataset]  # those that are in memory only
    moment: Moment  # the last one; its training state is on the devices
    rates: summaries.Rates
    wall_time_s: float


def in_memory(
    make_result: MakeResult,
    prepared: build.Setup,
    datasets: Sequence[Dataset],
    driver: Any,
    snapshot: Any,
    resumed: Resumed | None,
    env: Any,
    follower: Follower,
    keep_training_state: bool,
    before: list[dict[str, Any]],
) -> Any:
    """Trains in memory, and returns the result; `before` are the lines of metrics from before it was resumed."""
    for note in prepared.notes:
        say(f"rlx: {in_python(note)}")
    spent_s = before[-1]["wall_time_s"] if before else 0.0
    last_step = before[-1]["run_step"] if before else -1
    with follower.interrupts as interrupts, follower.console(prepared.config) as console:
        for moment in run(prepared, driver, snapshot, resumed, interrupts.asked, console.begin):
            report = moment.report
            line = record(report, spent_s + follower.clock())
            is_new = bool(report.metrics) and report.run_step > last_step
            if is_new:
                console.show(line)
            if follower.saw(line if is_new else None, moment):
                break
            if report.ended:
                follower.stopped = "interrupted"
    if recording.is_last(prepared, moment) and not follower.error:
        follower.stopped = ""
    lines = [*before, *follower.lines]
    trained = Trained(prepared, datasets, moment, follower.rates, spent_s + follower.clock())
    learned = moment.driver.fetch(moment.driver.policy_snapshot(moment.report.state))
    result = make_result(
        prepared.config,
        learned,
        lines,
        env=env,
        evaluation=follower.evaluation,
        trained=trained if keep_training_state else None,
        stopped=follower.stopped,
        run_step=moment.report.run_step,
    )
    return _ended(result, follower)


def _ended(result: Any, follower: Follower) -> Any:
    """The result, or the exception of a callback with the result in it."""
    if result.stopped:
        say(f"rlx: {result.stopped} at step {result.run_step:,}")
    if follower.error is not None:
        follower.error.result = result  # type: ignore[attr-defined]
        follower.error.add_note(
            f"What was learnt is in this exception's `result`: {result!r}. In a notebook: `sys.last_value.result`."
        )
        raise follower.error
    return result


def in_folder(make_result: MakeResult, folder: Path, train: Callable[[], Any], follower: Follower, env: Any) -> Any:
    """The result of a run that `train` trains in a folder."""
    try:
        train()
    except Interrupted as end:
        if follower.interrupts.number is not None:
            follower.stopped = "interrupted"
            if follower.interrupts.number != 2:  # SIGTERM and SIGHUP end the process, once all is saved
                say(f"rlx: {end}")
                raise SystemExit(end.code) from None
    moment = follower.moment
    if moment is None:  # it had finished before
        return load(make_result, folder, env)
    learned = moment.driver.fetch(moment.driver.policy_snapshot(moment.report.state))
    run_config, lines = follower.run_config, metrics.read(folder / "metrics.jsonl")
    assert run_config is not None
    stopped, evaluation = follower.stopped, follower.evaluation
    run_step = moment.report.run_step
    result = make_result(
        run_config, learned, lines, env=env, evaluation=evaluation, folder=folder, stopped=stopped, run_step=run_step
    )
    return _ended(result, follower)


def resume(
    make_result: MakeResult, folder: Path, totals: dict[str, Any], env: Any, callbacks: Any, progress: Progress
) -> Any:
    """Goes on with a run in its folder, as `rlx train --resume`."""
    follower = Follower(callbacks, progress, in_folder=True)
    keep_compiled_programs()

    def train() -> Any:
        return runner.resume(folder, totals, quiet=True, env=env, follower=follower)

    return in_folder(make_result, folder, train, follower, env)


def go_on(result: Any, trained: Trained, totals: dict[str, Any], callbacks: Any, progress: Progress) -> Any:
    """Goes on with a run in memory."""
    follower = Follower(callbacks, progress, in_folder=False)
    saved, moment = result.config, trained.moment
    longer = extend.longer(saved, MEMORY, totals)
    if not result.stopped and not extend.is_longer(longer, saved):
        name = extend.TOTALS[not saved.train.total_env_steps]
        raise RlxError(f"{name}: the run is finished; give more than {getattr(saved.train, name)} to make it longer")
    prepared = build.setup(longer, result._env, datasets=trained.datasets)
    prepared = extend.at_same_intervals(prepared, saved, MEMORY, (moment.report.run_step, moment.offline))
    driver = build.make_driver(prepared, moment.offline)
    training_state = moment.driver.training_state(moment.report.state, moment.report.totals)
    resumed = Resumed(training_state, moment.report.iteration, moment.report.learned)
    return in_memory(
        type(result), prepared, trained.datasets, driver, None, resumed, result._env, follower, True, result.metrics
    )


def _with_named(run_config: RunConfig, name: str, env_args: Mapping[str, Any]) -> tuple[RunConfig, Any]:
    """A run's configuration in the environment of a name, and an object in place of one that no name stands for."""
    if run_config.env.isidentifier() or no_env.is_none(run_config.env):
        return run_config, envs.make(name, **env_args)
    if name == run_config.env and not env_args:
        return run_config, None
    train = replace(run_config.train, env_args=tuple(arguments.texts(env_args)), env_params=())
    return replace(run_config, env=name, backend=None, train=train), None


def load(make_result: MakeResult, folder: Path, env: Any, env_args: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The result in a run folder. Raises RlxError where there is no run, or none that has saved a policy."""
    run_config = config.from_json(folder / "config.json")
    if isinstance(env, str):
        run_config, env = _with_named(run_config, env, env_args)
    if env is not None and no_env.is_none(run_config.env):
        known, spec = envs.make(run_config.env).spec, envs.wrap(env).spec
        sizes = [f"{one.observation_size} numbers an observation, {one.action_size} an action" for one in (known, spec)]
        if sizes[0] != sizes[1]:
            raise RlxError(f"env: {folder} learned from {sizes[0]}, not {sizes[1]}; give an environment of its sizes")
    keep_compiled_programs()
    snapshot = policies.load_snapshot(folder, policies.acting_driver(run_config, env, folder))
    state = folders.status(folder).state
    stopped = "" if state == "finished" else state
    lines = metrics.read(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    return make_result(run_config, snapshot, lines, env=env, folder=folder, stopped=stopped)
