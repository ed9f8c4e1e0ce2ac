"""The command line: `rlx train`, `rlx eval`, `rlx list`. Flags come from the dataclasses that they fill."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rlx.interrupts import Interrupted
from rlx.types import RlxError


class Parser(argparse.ArgumentParser):
    """Argparse with one-line errors that reach `main`, and no guessing at shortened flags."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        said = message.removeprefix("argument ").replace("the following arguments are required:", "missing")
        raise RlxError(f"{said}; see `{self.prog} --help`")

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parses all of `arguments`. Raises RlxError naming an unknown flag and the nearest known one."""
        found, unknown = self.parse_known_args(list(arguments))
        for text in unknown:
            from rlx.config import nearest

            flag = text.split("=")[0]
            raise RlxError(f"unknown argument {flag!r} of `{self.prog}`: {nearest(flag, self._option_string_actions)}")
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. A user's mistake is one line on the error stream and exit code 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(arguments)
    except RlxError as error:
        print(f"rlx: {error}", file=sys.stderr)
        return 2
    except Interrupted as end:
        print(f"rlx: {end}", file=sys.stderr)
        return end.code
    except KeyboardInterrupt:
        print("rlx: interrupted", file=sys.stderr)
        return 130


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: rlx COMMAND ...\n\ncommands:")
        for name, command in COMMANDS.items():
            print(f"  {name:8}{(command.__doc__ or '').splitlines()[0]}")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from rlx import __version__

        print(f"rlx {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        from difflib import get_close_matches

        close = get_close_matches(arguments[0], [*COMMANDS, "--help", "--version"], n=1)
        raise RlxError(
            f"unknown command {arguments[0]!r}: " + (f"did you mean {close[0]}?" if close else "see `rlx --help`")
        )
    return COMMANDS[arguments[0]](arguments[1:])


def train(arguments: list[str]) -> int:
    """Trains an agent: `rlx train sac --env brax:ant`; `rlx train sac --help` shows every setting."""
    from rlx import config, folders, parallel, runs

    if arguments[:1] in (["-h"], ["--help"]):
        print(
            "usage: rlx train AGENT --env ENV [settings]\n       rlx train --resume RUN\n\n"
            "`rlx train AGENT --help` shows the settings, `rlx list` the agents and environments;\n"
            "`rlx train --resume RUN` goes on with a run that was interrupted, to the same bits"
        )
        return 0
    if arguments[:1] == ["--resume"]:
        return _resume(arguments)
    if not arguments or arguments[0].startswith("-"):
        raise RlxError("name the agent right after `rlx train`, as in `rlx train sac --env brax:ant`; see `rlx list`")
    agent = arguments[0]
    parser = Parser(prog=f"rlx train {agent}", description=train.__doc__)
    parser.add_argument("--env", help="environment, as in `rlx list` (default: the data set's own)")
    parser.add_argument("--backend", help="of Brax environments: spring, positional, generalized or mjx")
    parser.add_argument("--preset", help="named settings for the environment, as in `rlx list` after @")
    parser.add_argument("--run-dir", default="runs", help="folder that holds the runs")
    parser.add_argument("--run-name", help="name of this run's folder (default: from agent, environment and seed)")
    parser.add_argument("--overwrite", action="store_true", help="replace a run folder that exists")
    parser.add_argument("--init-from", metavar="RUN", help="start from this run's agent and statistics")
    parser.add_argument("--quiet", action="store_true", help="print nothing but the summary")
    _add_cluster(parser)
    _add_settings(parser, config.settings(agent))
    found = parser.parse(arguments[1:])
    given = {name: value for name, value in vars(found).items() if value is not None and name in config.settings(agent)}
    if given.get("deterministic"):
        parallel.ask_for_determinism()
    if _join_cluster(found):
        given.setdefault("num_devices", parallel.device_count())
    env, backend = _environment(found.env, found.backend, given.get("dataset"))
    resolved = config.resolve(agent, env, backend, found.preset, **given)
    _keep_compiled_programs()
    folder = folders.choose_folder(Path(found.run_dir), found.run_name, resolved, found.overwrite)
    with parallel.all_or_none():
        runs.train(resolved, folder, init_from=found.init_from, quiet=found.quiet)
    return 0


def _environment(env: str | None, backend: str | None, dataset: str | None) -> tuple[str, str | None]:
    """The environment that was named, or else that in which the data set was collected."""
    if env is not None:
        return env, backend
    if dataset is None:
        raise RlxError("missing --env; see `rlx list`")
    from rlx import data

    known = data.read(dataset).info
    if not known.get("env"):
        raise RlxError(f"--dataset {dataset}: does not tell of an environment; name one by --env, to judge policies in")
    return str(known["env"]), backend or known.get("backend")


def _resume(arguments: list[str]) -> int:
    """Goes on with a run that was interrupted."""
    from rlx import config, parallel, runs, wholes

    parser = Parser(prog="rlx train --resume", description=_resume.__doc__)
    parser.add_argument("--resume", required=True, metavar="RUN", help="run folder")
    parser.add_argument("--quiet", action="store_true", help="print nothing but the summary")
    _add_cluster(parser)
    _add_settings(parser, {name: s for name, s in config.settings("sac").items() if name in wholes.HOW})
    found = parser.parse(arguments)
    changes = {name: value for name, value in vars(found).items() if value is not None and name in wholes.HOW}
    if runs.is_deterministic(Path(found.resume)):
        parallel.ask_for_determinism()
    _join_cluster(found)
    _keep_compiled_programs()
    with parallel.all_or_none():
        runs.resume(Path(found.resume), changes, found.quiet)
    return 0


def evaluate(arguments: list[str]) -> int:
    """Judges a run's policy: `rlx eval RUN --episodes 100`."""
    parser = Parser(prog="rlx eval", description=evaluate.__doc__)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--episodes", type=int, help="greedy episodes per seed (default: as in training)")
    parser.add_argument("--eval-seed", type=int, help="seed of the starts (default: as in training)")
    parser.add_argument("--step", type=int, help="checkpoint to judge, in environment steps (default: the last)")
    given = parser.parse(arguments)
    from rlx import runs

    _keep_compiled_programs()
    print(runs.judge(Path(given.run), given.episodes, given.eval_seed, given.step))
    return 0


def collect(arguments: list[str]) -> int:
    """Makes a data set from a run: `rlx collect RUN --kind medium --out DIR`."""
    parser = Parser(prog="rlx collect", description=collect.__doc__)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--kind", default="expert", help="random, medium, expert, mixed or replay (default: expert)")
    parser.add_argument("--num-transitions", default="1e6", help="how many (default: 1e6)")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder, in Minari's format")
    parser.add_argument("--env", help="another environment of the same sizes (default: the run's)")
    parser.add_argument("--backend", help="of Brax environments (default: the run's)")
    parser.add_argument("--step", type=int, help="checkpoint that acts (default: by --kind)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the episodes")
    given = parser.parse(arguments)
    from rlx import collecting
    from rlx.config import convert
    from rlx.data import describe

    size = convert("--num-transitions", int, given.num_transitions)
    _keep_compiled_programs()
    made = collecting.make_dataset(
        Path(given.run), given.kind, size, Path(given.out), given.seed, given.step, given.env, given.backend
    )
    print("\n".join(describe(made)))
    return 0


def data(arguments: list[str]) -> int:
    """Looks at data sets: `rlx data info PATH`, `rlx data convert PATH OUT`."""
    parser = Parser(prog="rlx data", description=data.__doc__)
    parser.add_argument("verb", choices=("info", "convert"), help="info: what is in it; convert: write it as Minari")
    parser.add_argument("path", metavar="PATH", help="Minari folder, D4RL .hdf5 or OGBench .npz")
    parser.add_argument("out", metavar="OUT", nargs="?", help="new folder to convert into")
    given = parser.parse(arguments)
    if (given.out is not None) != (given.verb == "convert"):
        raise RlxError("usage: rlx data info PATH, or rlx data convert PATH OUT")
    from rlx.data import convert, describe, read

    print("\n".join(describe(read(given.path) if given.out is None else convert(given.path, given.out))))
    return 0


def diff(arguments: list[str]) -> int:
    """Says where two runs part: `rlx diff RUN RUN`; exit code 0 where they are the same, else 1."""
    parser = Parser(prog="rlx diff", description=diff.__doc__)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("other", metavar="RUN", help="another run folder")
    given = parser.parse(arguments)
    from rlx.diff import differences

    found = differences(Path(given.run), Path(given.other))
    print("\n".join(found or ["the same"]))
    return 1 if found else 0


def runs(arguments: list[str]) -> int:
    """Lists runs: `rlx runs [ROOT]`."""
    parser = Parser(prog="rlx runs", description=runs.__doc__)
    parser.add_argument(
        "root", metavar="ROOT", nargs="?", default="runs", help="folder that holds runs (default: runs)"
    )
    root = Path(parser.parse(arguments).root)
    from rlx import folders

    found = folders.all_runs(root)
    if not found:
        raise RlxError(f"{root}: holds no runs; give the folder that --run-dir named")
    rows = [("run", "state", "step", "return", "size")]
    for run in found:
        step = "-" if run.run_step is None else f"{run.run_step:,}"
        value = "-" if run.eval_return is None else f"{run.eval_return:.1f}"
        rows.append((run.name, run.state, step, value, f"{run.size_bytes / 2**20:,.1f} MiB"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, state, *figures in rows:
        cells = [name.ljust(widths[0]), state.ljust(widths[1])]
        print("  ".join(cells + [text.rjust(width) for text, width in zip(figures, widths[2:], strict=True)]))
    return 0


def export(arguments: list[str]) -> int:
    """Takes a policy away: `rlx export RUN --out DIR` writes files that run without rlx."""
    parser = Parser(prog="rlx export", description=export.__doc__)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the policy")
    parser.add_argument("--step", type=int, help="checkpoint to take, in environment steps (default: the last)")
    parser.add_argument("--member", type=int, default=0, help="which of the run's seeds, from 0 (default: 0)")
    parser.add_argument("--onnx", action="store_true", help="write ONNX too; needs rlx[onnx]")
    given = parser.parse(arguments)
    from rlx.export import save

    made = save(Path(given.run), Path(given.out), given.step, given.member, given.onnx)
    print(f"{made['agent']} on {made['env']}, seed {made['seed']}, step {made['run_step']:,}: {given.out}")
    for name, file in made["files"].items():
        print(f"  {name:12}{file['bytes'] / 1024:9,.1f} KiB")
    return 0


def compare(arguments: list[str]) -> int:
    """Statistics between runs: `rlx compare RUN RUN`; how good, how sure, which is better, which is sooner."""
    parser = Parser(prog="rlx compare", description=compare.__doc__)
    parser.add_argument("run", metavar="RUN", nargs="+", help="run folders, all of one environment")
    parser.add_argument("--metric", default="eval", help="eval, or a name in metrics.jsonl (default: eval)")
    levels = "values whose first reaching is told (default: half and nine tenths of the way to the best run's last)"
    parser.add_argument("--thresholds", type=float, nargs="+", metavar="FLOAT", help=levels)
    parser.add_argument("--format", default="table", choices=("table", "md", "csv"), help="how to print it")
    given = parser.parse(arguments)
    from rlx import compare as comparing

    curves = comparing.read([Path(run) for run in given.run], given.metric)
    print(comparing.text(comparing.compare(curves, given.thresholds), given.format))
    return 0


def show(arguments: list[str]) -> int:
    """Lists agents, environments and presets."""
    Parser(prog="rlx list", description=show.__doc__).parse(arguments)
    from rlx import agents, envs

    print("agents")
    for name in agents.REGISTRY:
        module = agents.load(name)
        print(f"  {name:8}{(module.__doc__ or '').splitlines()[0]}")
        print(f"  {'':8}presets: {', '.join(module.PRESETS)}")
    print("environments")
    for name, backends in envs.names().items():
        print(f"  {name:32}{', '.join(backends)}")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "eval": evaluate,
    "collect": collect,
    "data": data,
    "runs": runs,
    "diff": diff,
    "compare": compare,
    "export": export,
    "list": show,
}


def _add_settings(parser: Parser, settings: dict[str, Any]) -> None:
    """A flag for every setting. Values stay text: `rlx.config` converts and checks them, for flags and calls alike."""
    titles = {
        "train": "training",
        "network": "networks and branches",
        "hypers": "hyper-parameters (several values: one run each)",
    }
    groups = {section: parser.add_argument_group(title) for section, title in titles.items()}
    for name, setting in settings.items():
        flag, group = f"--{name.replace('_', '-')}", groups[setting.section]
        default = " ".join(map(str, setting.default)) if isinstance(setting.default, tuple) else setting.default
        text = f"{setting.help.replace('%', '%%')} (default: {default})"
        if setting.type is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            several = "+" if setting.many else None
            group.add_argument(flag, nargs=several, default=None, metavar=setting.type.__name__.upper(), help=text)


def _add_cluster(parser: Parser) -> None:
    cluster = parser.add_argument_group("several processes: run the same command in each")
    cluster.add_argument("--distributed", action="store_true", help="join the processes that the cluster tells of")
    cluster.add_argument("--coordinator", metavar="HOST:PORT", help="where no cluster tells: address of process 0")
    cluster.add_argument("--num-processes", type=int, help="where no cluster tells: how many there are")
    cluster.add_argument("--process-id", type=int, help="where no cluster tells: which of them this is, from 0")


def _join_cluster(found: argparse.Namespace) -> bool:
    """Joins the other processes where asked to; returns whether it was."""
    from rlx import parallel

    if found.distributed:
        parallel.join_cluster(found.coordinator, found.num_processes, found.process_id)
    elif found.coordinator or found.num_processes is not None or found.process_id is not None:
        raise RlxError("--coordinator, --num-processes, --process-id: go with --distributed; add it")
    return bool(found.distributed)


def _keep_compiled_programs() -> None:
    """JAX's persistent cache, so that a program compiles only once; JAX_COMPILATION_CACHE_DIR rules."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlx" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))


if __name__ == "__main__":
    raise SystemExit(main())
