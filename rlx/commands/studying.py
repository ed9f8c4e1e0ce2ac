"""`rlx study`, and going on with `rlx study --resume`."""

from __future__ import annotations

from pathlib import Path

from rlx.commands.arguments import ENV, Parser, add_settings, prepare_jax
from rlx.commands.training import environment
from rlx.errors import RlxError
from rlx.settings import Setting


def study(arguments: list[str]) -> int:
    """Compares agents on data sets or environments, in a table: `rlx study iql td3_bc --dataset A B --num-seeds 5`.

    On environments it is `rlx study sac tqc --env brax:ant --total-env-steps 2e5 --num-seeds 5`.
    """
    if arguments[:1] == ["--resume"]:
        return _resume(arguments)
    named = arguments[: next((i for i, word in enumerate(arguments) if word.startswith("-")), len(arguments))]
    if not named and not {"-h", "--help"}.intersection(arguments):
        raise RlxError(
            "name agents right after `rlx study`, as in `rlx study iql td3_bc --dataset DATA` or"
            " `rlx study sac tqc --env brax:ant --total-env-steps 2e5`; see `rlx list`"
        )
    from rlx import config

    known: dict[str, Setting] = {}
    for agent in named or ["iql"]:
        known = config.settings(agent.partition("@")[0]) | known
    parser = Parser(prog="rlx study", description=f"{study.__doc__}Go on with one by `rlx study --resume STUDY`.")
    columns = "agents, or AGENT@PRESET, where a preset may be a .json file of settings"
    parser.add_argument("agent", metavar="AGENT", nargs="+", help=columns)
    parser.add_argument("--dataset", nargs="+", default=[], help="data sets, files or folders as for `rlx train`")
    parser.add_argument("--env", nargs="+", default=[], help=f"{ENV}; of data sets one, by default each its own")
    parser.add_argument("--backend", help="of Brax environments: spring, positional, generalized or mjx")
    parser.add_argument("--preset", help="named settings of the agents that name none, or a .json file of them")
    several = "where a hyper-parameter has several values: evaluation episodes that choose; several: a table for each"
    parser.add_argument("--evaluations", type=int, nargs="+", default=[], metavar="N", help=several)
    begins = "begin from parts of other runs, NAME=RUN, or from a run; {task} in it is the data set's name"
    parser.add_argument("--init-from", metavar="RUN", help=begins)
    parser.add_argument("--run-dir", default="runs", help="folder that holds the runs")
    parser.add_argument("--run-name", help="name of this study's folder (default: from agent, environment and seed)")
    parser.add_argument("--overwrite", action="store_true", help="replace a study's folder that exists")
    parser.add_argument("--quiet", action="store_true", help="print nothing but the table")
    of_agents = {name: setting for name, setting in known.items() if name != "dataset"}
    add_settings(parser, {name: setting._replace(default="the agent's own") for name, setting in of_agents.items()})
    values = parser.parse(arguments)
    settings = {name: value for name, value in vars(values).items() if value is not None and name in of_agents}
    from rlx.runs import folders
    from rlx.sweeps import study as studies
    from rlx.sweeps import studying

    prepare_jax(settings.get("deterministic", False))
    if values.dataset:
        if len(values.env) > 1:
            raise RlxError("--env: name one environment to evaluate in, or none, where there are data sets")
        env = next(iter(values.env), None)
        places = [studies.Place(path, *environment(env, values.backend, path)) for path in values.dataset]
    else:
        places = [studies.Place("", *environment(env, values.backend, None)) for env in values.env or [None]]
    made = studies.make(values.agent, places, values.evaluations, values.preset, values.init_from, **settings)
    first = made.cells[0].config
    with folders.new(values.run_dir, values.run_name, first, values.overwrite, folders.STUDY, "study-") as folder:
        studying.begin(made, folder, quiet=values.quiet)
    return 0


def _resume(arguments: list[str]) -> int:
    """Goes on with a study that was interrupted, or shows a finished one again."""
    parser = Parser(prog="rlx study --resume", description=_resume.__doc__)
    parser.add_argument("--resume", required=True, metavar="STUDY", help="folder of the study")
    parser.add_argument("--quiet", action="store_true", help="print nothing but the table")
    values = parser.parse(arguments)
    from rlx.sweeps import study, studying

    made = study.load(Path(values.resume))
    prepare_jax(any(cell.config.train.deterministic for cell in made.cells))
    studying.resume(made, Path(values.resume), quiet=values.quiet)
    return 0
