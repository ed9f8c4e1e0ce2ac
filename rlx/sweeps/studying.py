"""Trains a study in its folder, cell after cell, and makes its table."""

from __future__ import annotations

from pathlib import Path

from rlx.errors import say
from rlx.runs import folders
from rlx.runs.signals import Interrupts
from rlx.sweeps import study_table
from rlx.sweeps.running import train_part
from rlx.sweeps.study import Study, check_versions, save


def begin(study: Study, folder: Path, quiet: bool = False) -> None:
    """Trains a new study in `folder`, which is claimed; what the folder held is removed.

    Raises Interrupted where a signal ended it early.
    """
    with Interrupts() as interrupts:
        folders.empty(folder, folders.STUDY)
        save(study, folder)
        _run(study, folder, quiet, interrupts)


def resume(study: Study, folder: Path, quiet: bool = False) -> None:
    """Trains what is left of a study, or shows a finished one again; see `begin`."""
    with Interrupts() as interrupts, folders.claimed(folder, folders.STUDY):
        check_versions(study)
        _run(study, folder, quiet, interrupts)


def _run(study: Study, folder: Path, quiet: bool, interrupts: Interrupts) -> None:
    count, tasks = len(study.cells), len(study.digests)
    if not quiet:
        agents = count // tasks
        say(f"rlx: {count} runs: {agents} agent{'s' * (agents > 1)} on {tasks} task{'s' * (tasks > 1)}")
    for i, cell in enumerate(study.cells, 1):
        name = f"{cell.agent} on {cell.task}, {i} of {count}"
        train_part(cell.config, folder / cell.name, quiet, name, interrupts, "study", cell.init_from)
    check_versions(study)
    rows = study_table.results(study, folder)
    study_table.write(study, folder, rows)
    print(f"{study_table.text(study, rows)}\n\n{folder}: study.json, study.csv, study.md", flush=True)
