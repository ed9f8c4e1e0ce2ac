"""What the training loop reports, and as a line of metrics.jsonl: one object a line, per-seed values as lists."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np

from rlx.evaluate import Evaluation
from rlx.json_files import plain
from rlx.normalize import FAR
from rlx.train.config import TrainConfig
from rlx.train.nonfinite import OUTLIERS

MOST_AT_EDGES = 0.05  # share of the targets' mass at the ends of a categorical support that goes without a warning


class Seconds(NamedTuple):
    """What the host waited for since the last report."""

    compile: float  # compilers, and the state before the first iteration
    train: float
    evaluate: float


class Report(NamedTuple):
    """Where a run stands. Step counts are per seed; arrays are per member, `[M]`."""

    iteration: int
    learned: int  # iterations that learned
    run_step: int  # see `Plan.run_step`
    env_step: int
    critic_step: int
    actor_step: int
    metrics: dict[str, Any]  # means since the last report, [M] each; seconds of roles, histograms of lags
    bad: dict[str, tuple[int, int]]  # since the last report, by quantity: first run_step, how often
    evaluation: Evaluation | None  # [M, N], on the host
    state: Any  # the driver's, with `totals`; valid until the next report is asked for
    totals: Any
    seconds: Seconds
    saves: bool  # whether the full training state is to be saved here
    saves_policy: bool  # likewise the policy: at evaluations, also in a run without an environment
    ended: bool  # whether the run ends here because it was asked to; between two reports there are no metrics


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


def evaluation_summary(evaluation: Evaluation) -> dict[str, Any]:
    """Returns `[M, N]` as one mean and a mean for each seed; of its extras and metrics, means of sums and lasts."""
    per_seed = evaluation.returns.mean(axis=1)
    return {
        "eval/return_mean": float(per_seed.mean()),
        "eval/return_per_seed": per_seed,
        "eval/length_mean": float(evaluation.lengths.mean()),
        "eval/nonfinite_episodes": int(evaluation.nonfinite.sum()),
        **{f"eval/{name}_sum": float(x.mean()) for name, x in evaluation.sums.items()},
        **{f"eval/{name}_last": float(x.mean()) for name, x in evaluation.lasts.items()},
        **_nominal(evaluation),
    }


def _nominal(evaluation: Evaluation) -> dict[str, Any]:
    """Returns with nominal physics, of an environment whose physics is randomised."""
    if evaluation.nominal_returns is None:
        return {}
    per_seed = evaluation.nominal_returns.mean(axis=1)
    return {"eval/nominal_return_mean": float(per_seed.mean()), "eval/nominal_return_per_seed": per_seed}


def nonfinite_episodes(evaluation: Evaluation) -> str | None:
    """A line on episodes that were truncated because they diverged, None where there were none."""
    count, total = int(evaluation.nonfinite.sum()), evaluation.nonfinite.size
    if not count:
        return None
    return f"{count} of {total} evaluation episodes diverged; their returns are of the steps before (--max-magnitude)"


def outliers(report: Report, config: TrainConfig) -> str | None:
    """A line on observations that are finite but far from all others, None where there were none."""
    if OUTLIERS not in report.bad:
        return None
    run_step, number = report.bad[OUTLIERS]
    remedy = f"lower --max-magnitude (now {config.max_magnitude:g}) to what such numbers can be"
    if config.on_nonfinite == "stop":
        remedy += ", and choose --on-nonfinite reset-env"
    return (
        f"step {run_step:,}: the physics seems to diverge, with observations over {FAR:g} standard deviations from the"
        f" mean in {number:,} steps; rare ones do not count in the statistics. To restart such environments, {remedy}"
    )


def edge_mass(report: Report) -> str | None:
    """A line on targets of categorical critics that pile up at the ends of their support, None where they do not."""
    share = max(np.ravel(report.metrics.get("edge_mass", 0.0)))
    if not share > MOST_AT_EDGES:
        return None
    return (
        f"step {report.run_step:,}: {share:.0%} of the mass of the critics' targets is at the two ends of their"
        " support, as if returns were beyond it; widen --v-min and --v-max, or scale rewards down"
    )


def process_age_s() -> float:
    """Seconds since this process started, as the kernel counts them; elsewhere the processor seconds it used."""
    try:
        with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
            started = float(stat.read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
            return float(uptime.read().split()[0]) - started
    except (OSError, IndexError, ValueError):
        import time

        return time.process_time()
