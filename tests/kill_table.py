"""What kills found out, and the table of it in docs/reliability.md."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

MARKS = "<!-- measured kills: begin -->", "<!-- measured kills: end -->"


@dataclass
class Found:
    """What a torture found out."""

    agent: str = ""
    driver: str = ""
    devices: int = 1
    iterations_lines: int = 0  # lines of metrics of the whole run
    kills: dict[str, int] = field(default_factory=dict)  # by signal and phase
    runs: int = 0
    identical: int = 0  # kills after which the run ended as if nothing had happened
    differences: list[str] = field(default_factory=list)
    cut_saves: int = 0  # unfinished steps and Orbax's temporary folders that kills left
    exit_s: list[float] = field(default_factory=list)  # from SIGTERM to the end of the process
    restore_s: list[float] = field(default_factory=list)
    lost_steps: list[int] = field(default_factory=list)  # by a SIGKILL: reported, and made again
    blocked_s: list[float] = field(default_factory=list)  # by one save
    damages: int = 0
    damages_found: int = 0
    seconds: float = 0.0

    @property
    def fine(self) -> bool:
        same = self.identical == sum(self.kills.values()) and not self.differences
        return same and self.damages == self.damages_found


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median and most."""
    return f"{median(values):.{digits}f} / {max(values):.{digits}f}" if values else "-"


def table(results: Sequence[Found]) -> str:
    """What was found, in Markdown."""
    rows: list[tuple[str, Any]] = [
        ("", lambda f: f"{f.agent.upper()} / {f.driver}" + (f", {f.devices} devices" if f.devices > 1 else "")),
        ("ended identical / kills", lambda f: f"{f.identical} / {sum(f.kills.values())}"),
        *(
            (f"{name} while {phase}", lambda f, key=f"{name} {phase_}": f.kills.get(key, 0))
            for name in ("SIGKILL", "SIGTERM")
            for phase_, phase in (("start", "starting, compiling"), ("train", "training"), ("save", "saving"))
        ),
        ("runs that were killed, to their ends", lambda f: f.runs),
        ("saves that kills cut short", lambda f: f.cut_saves),
        ("seconds from SIGTERM to exit, median / most", lambda f: spread(f.exit_s)),
        ("seconds a restore takes, median / most", lambda f: spread(f.restore_s)),
        ("steps lost per SIGKILL, median / most", lambda f: spread(f.lost_steps, 0)),
        ("seconds a save blocks, median / most of runs' means", lambda f: spread(f.blocked_s, 3)),
        ("damaged files found / files damaged", lambda f: f"{f.damages_found} / {f.damages}"),
        ("minutes in all", lambda f: f"{f.seconds / 60:.1f}"),
    ]
    lines = ["| " + " | ".join([title, *(str(cell(f)) for f in results)]) + " |" for title, cell in rows]
    return "\n".join([lines[0], "|---" * (len(results) + 1) + "|", *lines[1:]])


def write_table(page: Path, results: Sequence[Found]) -> None:
    """Puts the table between the page's two markers."""
    before, _, rest = page.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    page.write_text(f"{before}{MARKS[0]}\n{table(results)}\n{MARKS[1]}{after}")
