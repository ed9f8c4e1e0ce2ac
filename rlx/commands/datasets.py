"""`rlx collect` and `rlx data`: data sets made, described and converted."""

from __future__ import annotations

from pathlib import Path

from rlx.commands.arguments import Parser, add_env_args, prepare_jax, show
from rlx.errors import RlxError


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
    add_env_args(parser)
    values = parser.parse(arguments)
    from rlx.data import describe
    from rlx.errors import say
    from rlx.runs import collect_dataset
    from rlx.settings import convert

    size = convert("--num-transitions", int, values.num_transitions)
    prepare_jax()
    where = values.env, values.backend, values.env_args
    made = collect_dataset.make_dataset(
        Path(values.run), values.kind, size, Path(values.out), values.seed, values.step, *where
    )
    notes = made.info.pop("notes")  # printed as warnings, and kept in the set
    made.info["format"] = values.out  # it is no longer in memory alone
    show("\n".join([*describe(made), f"written to {values.out}"]))
    for note in notes:
        say(f"rlx: {note}")
    return 0


def data(arguments: list[str]) -> int:
    """Looks at data sets: `rlx data info PATH`, `rlx data convert PATH OUT`."""
    parser = Parser(prog="rlx data", description=data.__doc__)
    parser.add_argument("verb", choices=("info", "convert"), help="info: what is in it; convert: write it as Minari")
    parser.add_argument("path", metavar="PATH", help="Minari folder, D4RL .hdf5 or OGBench .npz")
    parser.add_argument("out", metavar="OUT", nargs="?", help="new folder to convert into")
    values = parser.parse(arguments)
    if (values.out is not None) != (values.verb == "convert"):
        raise RlxError("usage: rlx data info PATH, or rlx data convert PATH OUT")
    from rlx.data import convert, describe, read

    if values.out is None:
        show("\n".join(describe(read(values.path))))
    else:
        show("\n".join([*describe(convert(values.path, values.out)), f"written to {values.out}"]))
    return 0
