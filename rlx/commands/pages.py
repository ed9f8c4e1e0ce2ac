"""Pages to look at: `rlx report`, `rlx play`."""

from __future__ import annotations

import math
from pathlib import Path

from rlx.commands.arguments import Parser, keep_compiled_programs
from rlx.errors import RlxError, say


def report(arguments: list[str]) -> int:
    """Makes a page of runs: `rlx report RUN RUN`; curves, scores, times, settings and the robot, without a network."""
    parser = Parser(prog="rlx report", description=report.__doc__)
    parser.add_argument("run", metavar="RUN", nargs="+", help="run folders, all of one environment")
    parser.add_argument("--out", metavar="DIR", help="folder of the page (default: RUN/report, of several runs report)")
    text = "how to print the scores (default: table)"
    parser.add_argument("--format", default="table", choices=("table", "md", "csv"), help=text)
    given = parser.parse(arguments)
    from rlx.analysis import compare
    from rlx.analysis.report import make

    folders = [Path(run) for run in given.run]
    out = Path(given.out or (folders[0] / "report" if len(folders) == 1 else "report"))
    print(compare.text(make(folders, out), given.format))
    # not on the output: the table may go into a file
    say(f"the page, for a browser: {out / 'index.html'}")
    return 0


def play(arguments: list[str]) -> int:
    """Shows a trained agent at work: `rlx play RUN` makes a page that moves without a network."""
    parser = Parser(prog="rlx play", description=play.__doc__)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--episodes", type=int, default=4, help="greedy episodes of each member (default: 4)")
    parser.add_argument("--eval-seed", type=int, help="seed of the starts (default: as in training)")
    parser.add_argument("--step", type=int, help="checkpoint to play, in environment steps (default: the last)")
    members = "which of the run's seeds, from 0 (default: 0)"
    parser.add_argument("--member", type=int, nargs="+", default=[0], metavar="INT", help=members)
    parser.add_argument("--out", metavar="FILE", help="the page (default: RUN/play.html)")
    parser.add_argument("--gif", metavar="FILE", help="also render a GIF of the same episodes; needs EGL or OSMesa")
    parser.add_argument("--mp4", metavar="FILE", help="also render an MP4; needs the extra video as well")
    parser.add_argument("--seconds", type=float, default=10.0, help="maximum length of a video (default: 10)")
    given = parser.parse(arguments)
    if not 0 < given.seconds < math.inf:
        raise RlxError(f"--seconds {given.seconds:g}: must be more than 0 and finite")
    from rlx.visual import video

    videos = video.files(given.gif, given.mp4)
    if videos:
        video.choose_renderer()
    from rlx.analysis import play as playing

    keep_compiled_programs()
    out = Path(given.out or Path(given.run) / "play.html")
    for path in playing.make(
        Path(given.run), out, videos, given.seconds, given.episodes, given.step, given.eval_seed, given.member
    ):
        print(path)
    return 0
