"""Pages to look at: `rlx report`, `rlx play`."""

from __future__ import annotations

import math
from pathlib import Path

from rlx.commands.arguments import Parser, add_env_args, prepare_jax, show
from rlx.errors import RlxError, say


def report(arguments: list[str]) -> int:
    """Makes a page of runs: `rlx report RUN RUN`; curves, scores, times, settings and the robot, without a network."""
    parser = Parser(prog="rlx report", description=report.__doc__)
    parser.add_argument("run", metavar="RUN", nargs="+", help="run folders, all of one environment")
    parser.add_argument("--out", metavar="DIR", help="folder of the page (default: RUN/report, of several runs report)")
    text = "how to print the scores (default: table)"
    parser.add_argument("--format", default="table", choices=("table", "md", "csv"), help=text)
    values = parser.parse(arguments)
    from rlx.analysis import compare
    from rlx.analysis.report import make

    folders = [Path(run) for run in values.run]
    out = Path(values.out or (folders[0] / "report" if len(folders) == 1 else "report"))
    if (comparison := make(folders, out)) is not None:
        show(compare.text(comparison, values.format))
    # not on the output: the table may go into a file
    say(f"the page, for a browser: {out / 'index.html'}")
    return 0


def play(arguments: list[str]) -> int:
    """Shows episodes of a trained agent: `rlx play RUN` makes a page with a moving robot, which needs no network."""
    parser = Parser(prog="rlx play", description=play.__doc__)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--episodes", type=int, default=4, help="greedy episodes of each member (default: 4)")
    parser.add_argument("--eval-seed", type=int, help="seed of the starts (default: as in training)")
    parser.add_argument("--step", type=int, help="checkpoint to play, in environment steps (default: the last)")
    members = "which of the run's members, from 0 (default: 0)"
    parser.add_argument("--member", type=int, nargs="+", default=[0], metavar="INT", help=members)
    parser.add_argument("--out", metavar="FILE", help="the page (default: RUN/play.html)")
    parser.add_argument("--gif", metavar="FILE", help="also render a GIF of the same episodes; needs EGL or OSMesa")
    parser.add_argument("--mp4", metavar="FILE", help="also render an MP4; needs the extra video as well")
    parser.add_argument("--seconds", type=float, default=10.0, help="maximum length of a video (default: 10)")
    add_env_args(parser)
    values = parser.parse(arguments)
    if not 0 < values.seconds < math.inf:
        raise RlxError(f"--seconds {values.seconds:g}: must be more than 0 and finite")
    from rlx.visual import video

    videos = video.files(values.gif, values.mp4)
    if videos:
        video.choose_renderer()
    from rlx.analysis import play as playing

    prepare_jax()
    out = Path(values.out or Path(values.run) / "play.html")
    which = values.episodes, values.step, values.eval_seed, values.member, values.env_args
    for path in playing.make(Path(values.run), out, videos, values.seconds, *which):
        show(str(path))
    return 0
