"""`rlx train`, and going on with `rlx train --resume`."""

from __future__ import annotations

from pathlib import Path

from rlx.commands.arguments import ENV, Parser, add_cluster, add_settings, join_cluster, prepare_jax
from rlx.errors import RlxError

MISSING = "missing --env, as in --env brax:ant; see `rlx list`"


def train(arguments: list[str]) -> int:
    """Trains an agent: `rlx train sac --env brax:ant`; `rlx train sac --help` shows every setting."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(
            "usage: rlx train AGENT --env ENV [settings]\n       rlx train --resume RUN [--total-env-steps N]\n\n"
            "`rlx train AGENT --help` shows the settings, `rlx list` the agents and environments;\n"
            "`rlx train --resume RUN` goes on with a run that was interrupted, to the same bits,\n"
            "and with --total-env-steps N also with one that has finished, to that many steps"
        )
        return 0
    if arguments[:1] == ["--resume"]:
        return _resume(arguments)
    if not arguments or arguments[0].startswith("-"):
        raise RlxError("name the agent right after `rlx train`, as in `rlx train sac --env brax:ant`; see `rlx list`")
    from rlx import config, parallel
    from rlx.runs import folders, runner

    agent = arguments[0]
    parser = Parser(prog=f"rlx train {agent}", description=train.__doc__)
    parser.add_argument("--env", help=ENV)
    parser.add_argument("--no-env", action="store_true", help="learn from the data set alone; nothing is evaluated")
    parser.add_argument("--backend", help="of Brax environments: spring, positional, generalized or mjx")
    parser.add_argument("--preset", help="named settings, as in `rlx list` after @, or a .json file of them")
    parser.add_argument("--run-dir", default="runs", help="folder that holds the runs")
    parser.add_argument("--run-name", help="name of this run's folder (default: from agent, environment and seed)")
    parser.add_argument("--overwrite", action="store_true", help="replace a run folder that exists")
    parser.add_argument(
        "--init-from",
        metavar="RUN",
        help="start from this run's agent and statistics, or by NAME=RUN from a part of another agent's",
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but the summary")
    add_cluster(parser)
    add_settings(parser, config.settings(agent))
    values = parser.parse(arguments[1:])
    settings = {
        name: value for name, value in vars(values).items() if value is not None and name in config.settings(agent)
    }
    prepare_jax(settings.get("deterministic", False))
    if join_cluster(values):
        settings.setdefault("num_devices", parallel.device_count())
    if values.no_env and values.env is not None:
        raise RlxError(f"--no-env: contradicts --env {values.env}; leave one of them out")
    env = "none" if values.no_env else values.env
    env, backend, of_data = environment(env, values.backend, settings.get("dataset"))
    resolved = config.resolve(agent, env, backend, values.preset, **of_data | settings)
    new = folders.new(values.run_dir, values.run_name, resolved, values.overwrite)
    with parallel.all_or_none(), new as folder:
        runner.train(resolved, folder, init_from=values.init_from, quiet=values.quiet)
    return 0


def environment(
    env: str | None, backend: str | None, dataset: str | None
) -> tuple[str, str | None, dict[str, list[str]]]:
    """Name, backend and settings of the environment that was named, or else of that the data set was collected in.

    For "none" the name holds the sizes of the data. Code of the user's own has to be named, and then has the settings
    that the data set was collected with, too.
    """
    from rlx import data, envs
    from rlx.envs import no_env
    from rlx.train.datasets import environment_of

    if env is not None and env != "none" and not (dataset and envs.is_user_code(env)):
        return env, backend, {}
    if dataset is None:
        raise RlxError("missing --dataset: --no-env learns from data" if env else MISSING)
    loaded = data.read(dataset.split(",")[0])
    if env == "none":
        return no_env.name_of(loaded.rows.observation.shape[1], loaded.rows.action.shape[1]), None, {}
    if env is not None and loaded.info.get("env") != env:
        return env, backend, {}
    if not loaded.info.get("env"):
        raise RlxError(
            f"--dataset {dataset}: names no environment; give one by --env to evaluate policies in, or --no-env"
        )
    name, of_backend, of_data = environment_of(loaded, env)
    return name, backend or of_backend, of_data


def _resume(arguments: list[str]) -> int:
    """Goes on with a run that was interrupted; with a larger total, also with one that has finished."""
    from rlx import config, parallel
    from rlx.runs import runner

    parser = Parser(prog="rlx train --resume", description=_resume.__doc__)
    parser.add_argument("--resume", required=True, metavar="RUN", help="run folder")
    parser.add_argument("--quiet", action="store_true", help="print nothing but the summary")
    add_cluster(parser)
    known = config.settings("sac")
    changeable = {name: known[name]._replace(default="the run's own") for name in known if name in runner.CHANGEABLE}
    add_settings(parser, changeable)
    _refuse_changes(arguments)
    values = parser.parse(arguments)
    changes = {name: value for name, value in vars(values).items() if value is not None and name in changeable}
    prepare_jax(runner.is_deterministic(Path(values.resume)))
    join_cluster(values)
    with parallel.all_or_none():
        runner.resume(Path(values.resume), changes, values.quiet)
    return 0


def _refuse_changes(arguments: list[str]) -> None:
    """Raises RlxError for a setting of what the run computes."""
    from rlx import agents, config
    from rlx.runs import runner
    from rlx.settings import flag_of

    flags = {word.split("=")[0] for word in arguments if word.startswith("--")}
    fixed = {name for agent in agents.REGISTRY for name in config.settings(agent)} - set(runner.CHANGEABLE)
    for flag in sorted(flags & {flag_of(name) for name in fixed}):
        raise RlxError(f"{flag}: a resumed run keeps its settings; begin another from it by --init-from RUN")
