"""Looking at runs: `rlx eval`, `rlx runs`, `rlx diff`, `rlx compare`, `rlx export`, `rlx list`."""

from __future__ import annotations

from pathlib import Path

from rlx.commands.arguments import Parser, add_env_args, prepare_jax, show
from rlx.errors import RlxError, printable, say

GO = "go where you trained, or give the folder that --run-dir named"


def evaluate(arguments: list[str]) -> int:
    """Evaluates a run's policy: `rlx eval RUN --episodes 100`."""
    parser = Parser(prog="rlx eval", description=evaluate.__doc__)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--episodes", type=int, help="greedy episodes per seed (default: as in training)")
    parser.add_argument("--eval-seed", type=int, help="seed of the starts (default: as in training)")
    parser.add_argument("--step", type=int, help="checkpoint to evaluate, in environment steps (default: the last)")
    add_env_args(parser)
    values = parser.parse(arguments)
    from rlx.runs import policies

    prepare_jax()
    show(policies.evaluate(Path(values.run), values.episodes, values.eval_seed, values.step, values.env_args))
    return 0


def runs(arguments: list[str]) -> int:
    """Lists runs: `rlx runs [ROOT]`."""
    parser = Parser(prog="rlx runs", description=runs.__doc__)
    parser.add_argument(
        "root", metavar="ROOT", nargs="?", default="runs", help="folder that holds runs (default: runs)"
    )
    root = Path(parser.parse(arguments).root)
    from rlx.runs import folders

    try:
        statuses = folders.all_runs(root)
    except (FileNotFoundError, NotADirectoryError):
        raise RlxError(f"{root}: is no folder in {Path.cwd()}; {GO}") from None
    if not statuses:
        raise RlxError(f"{root}: holds no runs; {GO}")
    rows = [("run", "state", "step", "resumes at", "return", "size")]
    for run in statuses:
        step, saved = ("-" if x is None else f"{x:,}" for x in (run.run_step, run.saved_step))
        value = "-" if run.eval_return is None else f"{run.eval_return:.1f}"
        rows.append((printable(run.name), run.state, step, saved, value, f"{run.size_bytes / 2**20:,.1f} MiB"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, state, *figures in rows:
        cells = [name.ljust(widths[0]), state.ljust(widths[1])]
        show("  ".join(cells + [text.rjust(width) for text, width in zip(figures, widths[2:], strict=True)]))
    for run in statuses:
        if run.damage:
            say(f"rlx: {run.damage}")
        for path in folders.damaged_checkpoints(root / run.name):
            say(f"rlx: {path}: is a damaged checkpoint that was set aside; delete it when you have looked at it")
    return 0


def diff(arguments: list[str]) -> int:
    """Says where two runs differ: `rlx diff RUN RUN`; exit code 0 where they are the same, else 1."""
    parser = Parser(prog="rlx diff", description=diff.__doc__)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("other", metavar="RUN", help="another run folder")
    parser.add_argument("--verbose", action="store_true", help="every number and leaf that differs, in full")
    values = parser.parse(arguments)
    from rlx.analysis.diff import differences

    lines = differences(Path(values.run), Path(values.other), values.verbose)
    show("\n".join(lines or ["the same"]))
    return 1 if lines else 0


def compare(arguments: list[str]) -> int:
    """Statistics between runs: `rlx compare RUN RUN`; how good, how sure, which is better, which is sooner."""
    parser = Parser(prog="rlx compare", description=compare.__doc__)
    parser.add_argument("run", metavar="RUN", nargs="+", help="run folders, all of one environment")
    parser.add_argument("--metric", default="eval", help="eval, or a name in metrics.jsonl (default: eval)")
    levels = "values to reach (default: half and nine tenths of the way to the best run's last)"
    parser.add_argument("--thresholds", type=float, nargs="+", metavar="FLOAT", help=levels)
    parser.add_argument("--format", default="table", choices=("table", "md", "csv"), help="how to print it")
    values = parser.parse(arguments)
    from rlx.analysis import compare as comparing
    from rlx.analysis import curves

    of_runs = curves.read([Path(run) for run in values.run], values.metric)
    show(comparing.text(comparing.compare(of_runs, values.thresholds), values.format))
    return 0


def export(arguments: list[str]) -> int:
    """Exports a policy: `rlx export RUN --out DIR` writes files that run without rlx."""
    parser = Parser(prog="rlx export", description=export.__doc__)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the policy")
    parser.add_argument("--step", type=int, help="checkpoint to export, in environment steps (default: the last)")
    parser.add_argument("--member", type=int, default=0, help="which of the run's members, from 0 (default: 0)")
    parser.add_argument("--onnx", action="store_true", help="write ONNX too; needs the extra onnx")
    bundle = "what a robot needs too: ONNX, a contract of observations and actions, example rows and a runner"
    parser.add_argument("--bundle", action="store_true", help=bundle)
    values = parser.parse(arguments)
    from rlx import config
    from rlx.export.policy import save

    made = save(Path(values.run), Path(values.out), values.step, values.member, values.onnx, values.bundle)
    name, of = f"seed {made['seed']}", ""
    if made["members"] > 1:
        label = config.member_labels(config.members(config.from_json(Path(values.run) / "config.json")))[values.member]
        name = f"{label} {name}".strip()
        of = f" (member {made['member']} of {made['members']}; --member chooses)"
    print(f"{made['agent']} on {made['env']}, {name}{of}, step {made['run_step']:,}: {values.out}")
    for name, file in made["files"].items():
        print(f"  {name:14}{file['bytes'] / 1024:9,.1f} KiB")
    return 0


def list_names(arguments: list[str]) -> int:
    """Lists agents, environments and presets."""
    Parser(prog="rlx list", description=list_names.__doc__).parse(arguments)
    from rlx import agents, envs

    print("where to start")
    for task, names in agents.STARTS.items():
        print(f"  {task:56}{', '.join(names)}")
    print("agents")
    width = 2 + max(map(len, agents.REGISTRY))
    for name in agents.REGISTRY:
        module = agents.load(name)
        print(f"  {name:{width}}{(module.__doc__ or '').splitlines()[0]}")
        print(f"  {'':{width}}presets: {', '.join(agents.tuned_settings(name)) or 'none'}")
    print("environments")
    for name, backends in envs.names().items():
        print(f"  {name:32}{', '.join(backends)}")
    return 0
