"""`rlx collect` and `rlx data`: data sets made, described and converted."""

from __future__ import annotations

from pathlib import Path

from rlx.commands.arguments import Parser, add_env_args, prepare_jax, show
from rlx.errors import RlxError


def collect(arguments: list[str]) -> int:
    """Makes a data set, by a run's policies or an environment's controllers: `rlx collect RUN --kind medium --out DIR`.

    Of an environment, its name takes the place of the run: `rlx collect maze:medium --kind navigate --out DIR`.
    """
    parser = Parser(prog="rlx collect", description=collect.__doc__)
    parser.add_argument("place", metavar="RUN", help="run folder, or an environment's name")
    parser.add_argument(
        "--kind",
        default="expert",
        help="random, medium, expert, mixed or replay of a run, random or a controller of an environment (default:"
        " expert), or shares, as in random=0.95,expert=0.05",
    )
    parser.add_argument("--greedy", action="store_true", help="policies act greedily (default: as they explore)")
    parser.add_argument("--noise", type=float, default=0.0, help="deviation of Gaussian noise on actions (default: 0)")
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
    from rlx.runs.behaviours import Exploration
    from rlx.settings import convert

    size = convert("--num-transitions", int, values.num_transitions)
    prepare_jax()
    where, exploration = (values.env, values.backend, values.env_args), Exploration(values.greedy, values.noise)
    made = collect_dataset.make_dataset(
        values.place, values.kind, size, Path(values.out), values.seed, values.step, *where, exploration
    )
    notes = made.info.pop("notes")  # printed as warnings, and kept in the set
    made.info["format"] = values.out  # it is no longer in memory alone
    show("\n".join([*describe(made), f"written to {values.out}"]))
    for note in notes:
        say(f"rlx: {note}")
    return 0


def data(arguments: list[str]) -> int:
    """Looks at a data set, `rlx data info PATH`, or makes another of it, by `rlx data convert` or `rlx data corrupt`.

    `rlx data convert PATH OUT` and `rlx data corrupt PATH OUT --what action --rate 0.3` write a new folder.
    """
    parser = Parser(prog="rlx data", description=data.__doc__)
    parser.add_argument(
        "verb",
        choices=("info", "convert", "corrupt"),
        help="info: what is in it; convert: write it as Minari; corrupt: write it with noise in a share of its rows",
    )
    parser.add_argument("path", metavar="PATH", help="Minari folder, D4RL .hdf5 or OGBench .npz")
    parser.add_argument("out", metavar="OUT", nargs="?", help="new folder to write into")
    parser.add_argument("--what", help="of corrupt: observation, action, reward or dynamics, which means successors")
    parser.add_argument("--rate", type=float, default=0.3, help="of corrupt: share of rows (default: 0.3)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of corrupt: noise in standard deviations; of rewards, 30 (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of corrupt: seed of the noise")
    values = parser.parse(arguments)
    if (values.out is None) != (values.verb == "info") or (values.what is None) == (values.verb == "corrupt"):
        raise RlxError(
            "usage: rlx data info PATH, rlx data convert PATH OUT, or rlx data corrupt PATH OUT --what action"
        )
    from rlx.data import convert, corrupt, describe, read, write

    if values.verb == "info":
        show("\n".join(describe(read(values.path))))
        return 0
    if values.verb == "convert":
        made = convert(values.path, values.out)
    else:
        made = corrupt(read(values.path), values.what, values.rate, values.scale, values.seed)
        write(made, values.out)
    of_file = {"name": Path(values.out).name, "format": values.out}  # what `read` will say of it
    show("\n".join([*describe(made._replace(info=made.info | of_file)), f"written to {values.out}"]))
    return 0
