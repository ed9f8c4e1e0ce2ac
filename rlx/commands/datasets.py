"""`rlx collect` and `rlx data`: data sets made and looked at."""

from __future__ import annotations

from pathlib import Path

from rlx.commands.arguments import Parser, keep_compiled_programs
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
    given = parser.parse(arguments)
    from rlx.config import convert
    from rlx.data import describe
    from rlx.errors import say
    from rlx.runs import collect_dataset

    size = convert("--num-transitions", int, given.num_transitions)
    keep_compiled_programs()
    made = collect_dataset.make_dataset(
        Path(given.run), given.kind, size, Path(given.out), given.seed, given.step, given.env, given.backend
    )
    notes = made.info.pop("notes")  # said where a warning is seen, and kept in the set
    print("\n".join(describe(made)))
    for note in notes:
        say(f"rlx: {note}")
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
