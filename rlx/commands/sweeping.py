"""`rlx sweep`, and going on with `rlx sweep --resume`."""

from __future__ import annotations

from pathlib import Path

from rlx.commands.arguments import ENV, Parser, add_settings, prepare_jax
from rlx.commands.training import environment
from rlx.errors import RlxError


def sweep(arguments: list[str]) -> int:
    """Tries many settings at once: `rlx sweep sac --env brax:ant --critic-lr 1e-5:1e-2:log --random 32`."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(
            "usage: rlx sweep AGENT --env ENV [settings]\n       rlx sweep --resume SWEEP\n\n"
            "a hyper-parameter takes several values, every combination of which is trained (a grid), or with\n"
            "--random N a range, LOW:HIGH or LOW:HIGH:log, to sample from; `rlx sweep AGENT --help` shows them all,\n"
            "and --confirm, --chunk, --run-name and others that say how to sweep.\n"
            "`rlx sweep --resume SWEEP` goes on with a sweep that was interrupted"
        )
        return 0
    if arguments[:1] == ["--resume"]:
        return _resume(arguments)
    if not arguments or arguments[0].startswith("-"):
        raise RlxError("name the agent right after `rlx sweep`, as in `rlx sweep sac --env brax:ant`; see `rlx list`")
    from rlx import config

    agent = arguments[0]
    known = config.settings(agent)
    parser = Parser(prog=f"rlx sweep {agent}", description=sweep.__doc__)
    parser.add_argument("--env", help=ENV)
    parser.add_argument("--backend", help="of Brax environments: spring, positional, generalized or mjx")
    parser.add_argument("--preset", help="named settings, or a .json file of them, below what is swept")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="train N random samples (default: a grid)")
    parser.add_argument("--confirm", type=int, default=0, metavar="N", help="train the best again, on N fresh seeds")
    parser.add_argument("--chunk", type=int, metavar="N", help="combinations at once (default: as many as fit)")
    parser.add_argument("--run-dir", default="runs", help="folder that holds the runs")
    parser.add_argument("--run-name", help="name of this sweep's folder (default: from agent, environment and seed)")
    parser.add_argument("--overwrite", action="store_true", help="replace a sweep's folder that exists")
    parser.add_argument("--quiet", action="store_true", help="print nothing but the results")
    add_settings(parser, {name: setting._replace(many=True) for name, setting in known.items()})
    values = parser.parse(arguments[1:])
    settings = {name: value for name, value in vars(values).items() if value is not None and name in known}
    from rlx.runs import folders
    from rlx.sweeps import running
    from rlx.sweeps import sweep as sweeping

    prepare_jax(settings.get("deterministic", False))
    dataset = settings.get("dataset", [None])[0]
    env, backend, of_data = environment(values.env, values.backend, dataset)
    settings = of_data | settings
    made = sweeping.make(agent, env, backend, values.preset, values.random, values.chunk, values.confirm, **settings)
    new = folders.new(values.run_dir, values.run_name, made.base, values.overwrite, folders.SWEEP, "sweep-")
    with new as folder:
        running.begin(made, folder, quiet=values.quiet)
    return 0


def _resume(arguments: list[str]) -> int:
    """Goes on with a sweep that was interrupted, or shows a finished one again."""
    parser = Parser(prog="rlx sweep --resume", description=_resume.__doc__)
    parser.add_argument("--resume", required=True, metavar="SWEEP", help="folder of the sweep")
    parser.add_argument("--quiet", action="store_true", help="print nothing but the results")
    values = parser.parse(arguments)
    from rlx.sweeps import running, sweep

    folder = Path(values.resume)
    made = sweep.load(folder)
    prepare_jax(made.base.train.deterministic)
    running.resume(made, folder, quiet=values.quiet)
    return 0
