"""`rlx.sweep`: many combinations of hyper-parameters, and the best of them."""

from __future__ import annotations

import signal
from pathlib import Path
from types import ModuleType
from typing import Any

from rlx import agents, json_files
from rlx.api.arguments import check_kind, speaks_python
from rlx.api.environments import environment
from rlx.api.fitting import WRITE_IT, check_determinism, check_names, named_data
from rlx.errors import RlxError
from rlx.runs import folders
from rlx.runs.signals import Interrupted
from rlx.settings import convert, flag_of
from rlx.sweeps import ranking, running
from rlx.sweeps import sweep as sweeping
from rlx.sweeps.space import Range
from rlx.train.compile import keep_compiled_programs


class SweepResult:
    """A finished sweep in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sweep = sweeping.load(folder)
        self._ranked = ranking.rank(self._sweep, folder)

    @property
    def best(self) -> dict[str, Any]:
        """The settings of the best combination and of the sweep: `rlx.fit(agent, env, **result.best)` trains them."""
        return json_files.read(self.folder / "best.json")

    @property
    def results(self) -> list[dict[str, Any]]:
        """The combinations, the best first: their values, `estimate` (the interquartile mean of the seeds' returns),
        `low` and `high` (its 95 % interval) and `returns`, one for each seed."""
        results: list[dict[str, Any]] = json_files.read(self.folder / "sweep.json")["results"]
        return results

    @property
    def confirmed(self) -> dict[str, Any] | None:
        """Returns of the best on fresh seeds, as in a run's summary.json; None without `confirm`."""
        confirmed: dict[str, Any] | None = json_files.read(self.folder / "sweep.json").get("confirmed")
        return confirmed

    def __repr__(self) -> str:
        return f"{ranking.table(self._sweep, self._ranked)}\n{self.folder}"


@speaks_python
def sweep(
    agent: str | ModuleType,
    env: Any = None,
    backend: str | None = None,
    *,
    dataset: str | Path | None = None,
    random: int = 0,
    confirm: int = 0,
    chunk: int | None = None,
    preset: str | None = None,
    run_dir: str | Path = "runs",
    run_name: str | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> SweepResult:
    """Trains every combination of the hyper-parameters that are lists, as `rlx sweep`, into a folder in `run_dir`.

    With `random`, so many samples are trained, and a hyper-parameter may be a range: `rlx.Range(1e-5, 1e-2, log=True)`,
    or the text `"1e-5:1e-2:log"`. `confirm` trains the best again on so many fresh seeds; `chunk` combinations are
    trained at once. `preset` is a name, or a .json file of settings. Raises RlxError for what cannot be, and
    KeyboardInterrupt for Ctrl-C, once all is saved: `rlx.resume_sweep` goes on.

        result = rlx.sweep("sac", "gymnax:Pendulum-v1", critic_lr=[3e-4, 1e-3], num_seeds=2)
        print(result, result.best)
    """
    agent = agent if isinstance(agent, str) else agents.register(agent)
    keep_compiled_programs()
    if not (env is None or isinstance(env, str)):
        raise RlxError("env: a sweep names its environment; give a name, such as 'brax:ant' or 'file.py:Name'")
    check_kind("run_dir", run_dir, (str, Path), "the folder that holds runs")
    paths, datasets = named_data(dataset)
    if datasets:
        raise RlxError(f"dataset: a sweep names its data set; {WRITE_IT}")
    check_names(agent, settings)
    if paths:
        settings["dataset"] = ",".join(paths)
    named_env = environment(env, backend, paths)
    texts = {name: str(value) if isinstance(value, Range) else value for name, value in settings.items()}
    counts = {"random": random, "confirm": confirm} | ({} if chunk is None else {"chunk": chunk})
    checked = {name: convert(flag_of(name), int, value) for name, value in counts.items()}
    settings = named_env.settings | texts
    planned = sweeping.make(agent, named_env.name, named_env.backend, preset, **checked, **settings)
    check_determinism(planned.base.train)
    with folders.new(run_dir, run_name, planned.base, overwrite, folders.SWEEP, "sweep-") as folder:
        return _finished(folder, lambda: running.begin(planned, folder, quiet=True, show=False))


@speaks_python
def resume_sweep(folder: str | Path) -> SweepResult:
    """Trains what is left of a sweep, as `rlx sweep --resume`. Raises RlxError where there is none."""
    check_kind("folder", folder, (str, Path), "the folder of a sweep")
    folder = Path(folder)
    keep_compiled_programs()
    planned = sweeping.load(folder)
    return _finished(folder, lambda: running.resume(planned, folder, quiet=True, show=False))


def _finished(folder: Path, train: Any) -> SweepResult:
    try:
        train()
    except Interrupted as end:
        if end.code == 128 + signal.SIGINT:
            raise KeyboardInterrupt(str(end)) from None
        raise SystemExit(end.code) from None
    return SweepResult(folder)
