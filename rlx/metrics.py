"""What a run writes down: metrics.jsonl, one object a line, per-seed values as lists."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from rlx.errors import RlxError
from rlx.evaluate import Evaluation
from rlx.train.driver import Report


def process_age_s() -> float:
    """Seconds since this process started, as the kernel counts them; elsewhere the processor seconds it used."""
    try:
        with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
            started = float(stat.read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
            return float(uptime.read().split()[0]) - started
    except (OSError, IndexError, ValueError):
        import time

        return time.process_time()


def plain(value: Any) -> Any:
    """NumPy values as JSON's own, numbers that JSON does not know (NaN, infinity) as None; also in containers."""
    if isinstance(value, dict):
        return {name: plain(x) for name, x in value.items()}
    if isinstance(value, (np.ndarray, list, tuple)):
        return [plain(x) for x in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def evaluation_summary(evaluation: Evaluation) -> dict[str, Any]:
    """Returns `[M, N]` as one mean and a mean for each seed."""
    per_seed = evaluation.returns.mean(axis=1)
    return {
        "eval/return_mean": float(per_seed.mean()),
        "eval/return_per_seed": per_seed,
        "eval/length_mean": float(evaluation.lengths.mean()),
    }


def record(report: Report, wall_time_s: float) -> dict[str, Any]:
    """One line of metrics.jsonl."""
    line: dict[str, Any] = {
        "run_step": report.run_step,
        "env_step": report.env_step,
        "critic_step": report.critic_step,
        "actor_step": report.actor_step,
        "wall_time_s": round(wall_time_s, 3),
        **{f"{name}_s": round(seconds, 3) for name, seconds in report.seconds._asdict().items()},
        **{f"train/{name}": value for name, value in sorted(report.metrics.items())},
    }
    if report.bad:
        line["nonfinite"] = {quantity: {"run_step": first, "number": n} for quantity, (first, n) in report.bad.items()}
    if report.evaluation is not None:
        line |= evaluation_summary(report.evaluation)
    return plain(line)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, but for a last one that is being written. Raises RlxError naming a broken one."""
    lines, whole = [], path.read_text()
    for number, text in enumerate(whole.splitlines(), 1):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError as error:
            if whole.endswith(text):
                break  # without its end: the run is writing it, or was killed
            raise RlxError(f"{path}, line {number}: is not JSON ({error.msg}); remove the line") from None
    return lines


def cut(path: Path, run_step: int) -> float:
    """Drops the lines after `run_step` and one that was not finished; returns the seconds that the run had taken."""
    kept = []
    with contextlib.suppress(FileNotFoundError):
        for text in path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                line = json.loads(text)
                if line["run_step"] <= run_step:
                    kept.append((text, line["wall_time_s"]))
    draft = path.with_suffix(".tmp")
    draft.write_text("".join(text + "\n" for text, _ in kept))
    draft.replace(path)
    return kept[-1][1] if kept else 0.0


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote. Raises RlxError where it cannot be read."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise RlxError(f"{path}: cannot be read ({error}); restore it from a copy") from None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes `path` whole or not at all."""
    write_whole(path, json.dumps(plain(content), indent=2, allow_nan=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Writes `path` whole or not at all: what was there before stays until all of the text is on the disk."""
    draft = path.with_suffix(".tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()  # a full disk needs the room
        raise
