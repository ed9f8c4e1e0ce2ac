"""What must not have changed when a run is resumed: its config.json, its data set, its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlx import config, data, json_files
from rlx.config import RunConfig
from rlx.errors import RlxError
from rlx.runs import checkpoint, extend, saver

SECTIONS: dict[str, type] = {
    "versions": dict,
    "hardware": dict,
    "numerics": dict,
    "data": dict,
    "files": dict,
    "extended": list,
}


def read(folder: Path) -> tuple[RunConfig, dict[str, Any]]:
    """A run's configuration, and all of its config.json. Raises RlxError where that was changed, or is damaged."""
    path = folder / "config.json"
    saved, content = config.from_json(path), json_files.read(path)
    if content.get("identity") != saver.identity(saved):
        raise RlxError(f"{path}: is not as the run wrote it; restore it from a copy")
    for name, kind in SECTIONS.items():
        if not isinstance(content.setdefault(name, kind()), kind):
            raise RlxError(f"{path}: is damaged ({name} is no {kind.__name__}); restore it from a copy")
    if not isinstance(content.setdefault("init_from", None), (str, type(None))):
        raise RlxError(f"{path}: is damaged (init_from is no text); restore it from a copy")
    return saved, content


def data_info(folder: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json keeps of the data set's info. Raises RlxError where that is damaged."""
    return data.check_info(folder / "config.json", content.get("data") or {})


def check_data_exists(dataset: str) -> None:
    """Raises RlxError where a data set of a run or sweep does not exist."""
    for path in filter(None, dataset.split(",")):
        if Path(path).exists():
            continue
        hint = "" if Path(path).is_absolute() else f", or go where you trained: {Path.cwd()} has none"
        raise RlxError(f"data set not found: {path}; restore it{hint}")


def check_same_data(dataset: data.Dataset, path: str, content: Mapping[str, Any]) -> None:
    """Raises RlxError for another data set than that of the run with this config.json."""
    digest = content.get("data_digest")  # an rlx before this one did not write it
    if digest and data.digest(dataset) != digest:
        raise RlxError(f"{path}: is not the data set that the run began with; restore that one")


def check_same_run(place: checkpoint.Folder, step: int, content: Mapping[str, Any], folder: Path) -> None:
    """Raises RlxError for a checkpoint of another run than that of config.json, or the shorter ones that it was."""
    if checkpoint.manifest(place, step)["about"].get("identity") not in extend.identities(content):
        raise RlxError(f"{place}: holds another run's checkpoints; restore those of {folder}")
