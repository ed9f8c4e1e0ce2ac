"""What a finished run leaves: its results and what they cost (summary.json), and the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlx import config, parallel, statistics
from rlx.build import Setup
from rlx.config import RunConfig
from rlx.evaluate import Evaluation, renderable_scene
from rlx.experiment import Moment
from rlx.runs import metrics
from rlx.runs.saver import Saver
from rlx.train.loop import Driver, Report
from rlx.visual import plots, viewer

MOST_CURVES = 8  # in one figure


class Rates:
    """Adds up the steps and seconds of reports."""

    def __init__(self) -> None:
        self.steps = self.updates = 0
        self.seconds = 0.0
        self._last: Report | None = None

    def add(self, report: Report) -> None:
        """The first stretch does not count: it holds the warm-up."""
        if self._last is not None:
            self.steps += report.env_step - self._last.env_step
            self.updates += report.critic_step - self._last.critic_step
            self.seconds += report.seconds.train
        self._last = report


def summarise(setup: Setup, moment: Moment, rates: Rates, saver: Saver) -> dict[str, Any]:
    """summary.json: the returns of the final policy, and what it cost."""
    run_config, driver, report = setup.config, moment.driver, moment.report
    seconds, evaluated = max(rates.seconds, 1e-9), {}
    if report.evaluation is not None:  # there is none without an environment
        returns, nominal = report.evaluation.returns, report.evaluation.nominal_returns
        evaluated = results(returns, run_config, setup.data.info if setup.data else {}, nominal)
        evaluated |= {"eval_episodes": run_config.train.eval_episodes, "eval_returns": returns}
    return {
        "agent": run_config.agent,
        "env": run_config.env,
        "backend": run_config.backend,
        "driver": run_config.train.driver,
        "split": run_config.train.split,
        "members": config.members(run_config),
        "env_steps": report.env_step,
        "critic_steps": report.critic_step,
        "actor_steps": report.actor_step,
        **evaluated,
        "compile_s": round(sum(program.compile_s for program in driver.programs), 2),
        "env_steps_per_s": round(rates.steps * driver.members / seconds, 1),
        "updates_per_s": round(rates.updates * driver.members / seconds, 1),
        "save_blocked_s": round(saver.blocked_s, 3),
        "saves": saver.count,
        "digest": saver.digest,
        "device": parallel.describe(),
    }


def results(
    returns: ArrayLike, run_config: RunConfig, known: Mapping[str, Any], nominal: ArrayLike | None = None
) -> dict[str, Any]:
    """Greedy returns `[M, N]`, also those of `nominal` physics where it is randomised, as mean,
    interquartile mean and 95 % bootstrap intervals over seeds and episodes.

    `known` is the info of a data set. If it was collected in the run's environment, scores normalised by its references
    are added (or `no_score`, why they are no measure), and the returns of the policies that collected it.
    """
    returns = np.asarray(returns)
    values: dict[str, Any] = {"eval_return_mean": returns.mean(), "eval_return_per_seed": returns.mean(axis=1)}
    values |= _spread("eval_return", returns)
    if nominal is not None:
        values |= {"eval_nominal_return_mean": np.asarray(nominal).mean()} | _spread("eval_nominal_return", nominal)
    if not _collected_in(known, run_config):
        return values
    behaviours = known.get("behaviours") or []
    if known.get("behaviour_return") is not None:
        values["behaviour_return"] = known["behaviour_return"]
        values["behaviour_greedy_return"] = max((b["greedy_return"] for b in behaviours), default=None)
    random, expert = known.get("random_return"), known.get("expert_return")
    if random is None or expert is None:
        return values
    if flaw := statistics.flaw_of_references(random, expert):
        values["no_score"] = f"of the data set's references {flaw}"
    else:
        normalise = partial(statistics.normalised, random=random, expert=expert)
        values |= {"eval_score_mean": normalise(returns).mean()} | _spread("eval_score", normalise(returns))
        for name in ("behaviour", "behaviour_greedy"):
            if values.get(f"{name}_return") is not None:
                values[f"{name}_score"] = float(normalise(values[f"{name}_return"]))
    return values


def _collected_in(known: Mapping[str, Any], run_config: RunConfig) -> bool:
    """Whether a data set's info names the run's environment with the same settings and wrappers."""
    train = run_config.train
    texts = [list(known.get(name) or []) for name in ("env_args", "env_params", "wrappers", "randomize")]
    same = (known.get("env"), known.get("backend")) == (run_config.env, run_config.backend)
    return same and texts == [list(x) for x in (train.env_args, train.env_params, train.wrappers, train.randomize)]


def _spread(name: str, values: ArrayLike) -> dict[str, Any]:
    middle, mean = statistics.bootstrap_interval(values), statistics.bootstrap_interval(values, statistics.mean)
    return {
        f"{name}_interval": [mean.low, mean.high],
        f"{name}_iqm": middle.estimate,
        f"{name}_iqm_interval": [middle.low, middle.high],
    }


def in_words(values: dict[str, Any], over: str = "seeds") -> list[str]:
    """Results as lines to print; intervals are `over` seeds, or members with hyper-parameters of their own."""

    def line(title: str, name: str) -> str:
        low, high = values[f"{name}_interval"]
        mean, middle = values[f"{name}_mean"], values[f"{name}_iqm"]
        of_all = f"interquartile mean of all episodes {middle:.1f}"
        return f"{title} {mean:.1f} (95 % interval over {over} and episodes {low:.1f} to {high:.1f}), {of_all}"

    lines = [line("return", "eval_return")]
    if "eval_nominal_return_mean" in values:
        lines = [line("return with randomised physics", "eval_return"), line("nominal", "eval_nominal_return")]
    if "eval_score_mean" in values:
        lines.append(line("normalised score (random 0, expert 100)", "eval_score"))
    if "no_score" in values:
        lines.append(f"no normalised score: {values['no_score']}")
    if "behaviour_return" in values:
        greedy = values["behaviour_greedy_return"]
        mean = f"{values['behaviour_return']:.1f}"
        if greedy is None:
            lines.append(f"complete episodes of the data return {mean}")
        else:
            lines.append(f"the policies that collected the data returned {mean}, the best {greedy:.1f} greedily")
    return lines


def duration(seconds: float) -> str:
    """Seconds as 5.5 s, 42 s, 3:07 min or 2:15 h."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    minutes, hours = divmod(rounded, 60), divmod(rounded // 60, 60)
    return f"{minutes[0]}:{minutes[1]:02} min" if rounded < 3600 else f"{hours[0]}:{hours[1]:02} h"


def write_pictures(folder: Path, run_config: RunConfig, driver: Driver, evaluation: Evaluation) -> None:
    """curve.png from metrics.jsonl, and rollout.html with the first episodes of the first member."""
    title = f"{run_config.agent} on {run_config.env}"
    lines = [line for line in metrics.read(folder / "metrics.jsonl") if "eval/return_per_seed" in line]
    returns = np.asarray([line["eval/return_per_seed"] for line in lines])
    steps = np.asarray([line["run_step"] for line in lines])
    plots.save(
        plots.curve(curves(run_config, steps, returns), counted(config.flat(run_config)), title), folder / "curve.png"
    )
    scene = renderable_scene(driver.task.env)
    viewer.rollout_page(folder / "rollout.html", scene, episodes(evaluation, scene is not None), title)


def curves(run_config: RunConfig, steps: np.ndarray, returns: np.ndarray) -> list[plots.Series]:
    """Learning curves of returns `[T, M]`: of each combination of hyper-parameters, where there are not too many."""
    labels = config.member_labels(config.members(run_config))
    members = {each: [i for i, label in enumerate(labels) if label == each] for each in labels}
    if len(members) > MOST_CURVES:
        return [plots.Series(run_config.agent, steps, returns, "member")]
    return [plots.Series(label or run_config.agent, steps, returns[:, of]) for label, of in members.items()]


def counted(settings: Mapping[str, Any]) -> str:
    """What `run_step` counts in a run with these settings, by name."""
    if not settings.get("offline_steps"):
        return plots.STEPS
    return "updates offline, then environment steps per seed" if settings["total_env_steps"] else "updates offline"


def episodes(evaluation: Evaluation, has_scene: bool, member: int = 0) -> list[dict[str, Any]]:
    """The episodes `[M, N]` of one member that were recorded, as `viewer.rollout_page` takes them."""
    shown, result = "poses" if has_scene else "observations", []
    film = {name: frames[member] for name, frames in evaluation.recording.items()}  # [T, R, ...]
    for i in range(film["reward"].shape[1]):
        end = int(evaluation.lengths[member, i])
        episode = {"rewards": film["reward"][:end, i], "actions": film["action"][:end, i]}
        result.append(episode | {shown: film["view"][:end, i], "return": float(evaluation.returns[member, i])})
    return result
