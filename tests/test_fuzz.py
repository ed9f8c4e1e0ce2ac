"""A slice of `make fuzz`."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlx.analysis import curves, run_data
from rlx.errors import RlxError
from rlx.runs import checkpoint, metrics, saver
from rlx.sweeps import ranking, sweep
from tests import check_permissions, damage, fuzz, processes


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "templates"
    fuzz.make_templates(folder)
    return folder


@pytest.mark.parametrize("kind", fuzz.CASES)
def test_odd_input_ends_in_a_line(kind: str, templates: Path) -> None:
    cases = 20 if kind == "runs" else 60  # reports and traces take a third of a second
    assert fuzz.run_cases(kind, range(cases), 0, templates) == []


@pytest.mark.slow
def test_forbidden_files_and_folders_end_in_a_line() -> None:
    """Also as root, which gives up its privileges first."""
    code, output, errors = processes.finish(processes.start(["tests.check_permissions"], 1), 1200)
    if code == check_permissions.IMPOSSIBLE:
        pytest.skip("permissions do not bind this user")
    assert code == 0, output + errors[-3000:]


def test_findings_say_how_to_repeat_them(templates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(words: list[str]) -> int:
        raise KeyError("a")

    monkeypatch.setattr(fuzz, "rlx", fails)
    (line,) = fuzz.run_cases("data", range(3, 4), 7, templates)
    assert line.startswith("python -m tests.fuzz --only data --seed 7 --case 3") and "KeyError" in line


@pytest.mark.parametrize(
    ("name", "value"),
    [("files", None), ("files", {"": 1}), ("leaves", []), ("leaves", {"a": {"shape": 1}}), ("about", 3), ("digest", 0)],
)
def test_a_manifest_of_wrong_types_is_damaged(name: str, value: Any, templates: Path, tmp_path: Path) -> None:
    """Also where its digest fits, which anybody can compute."""
    place = shutil.copytree(templates / "run" / "resume", tmp_path / "resume")
    damage.write_manifest(place / "40", **{name: value})
    with pytest.raises(checkpoint.Damaged):
        checkpoint.manifest(place, 40)


def test_a_policy_is_no_full_checkpoint(templates: Path, tmp_path: Path) -> None:
    place = shutil.copytree(templates / "run" / "checkpoints", tmp_path / "resume")
    with pytest.raises(RlxError, match="no full checkpoint"):
        saver.find_newest(place, print)


@pytest.mark.parametrize(
    ("name", "value"),
    [("chunk", 0), ("chunk", "x"), ("confirm", None), ("combinations", []), ("varied", {"depth": [1, 2]})],
)
def test_a_damaged_sweep_is_refused(name: str, value: Any, templates: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(templates / "sweep", tmp_path / "sweep")
    damage.edit_json(folder / "chunk-0" / "summary.json", eval_return_per_seed=[1.0])
    with pytest.raises(RlxError, match="has no return of each"):
        ranking.rank(sweep.load(folder), folder)
    (folder / "sweep.json").write_text(json.dumps(json.loads((folder / "sweep.json").read_text()) | {name: value}))
    with pytest.raises(RlxError, match="is damaged"):
        sweep.load(folder)


HURTS: list[Any] = [
    lambda folder: (folder / "status.json").unlink(),
    lambda folder: damage.edit_json(folder / "config.json", env=["x"]),
    lambda folder: [act(folder / "config.json") for act in (os.unlink, os.mkfifo)],
]


@pytest.mark.parametrize("hurt", HURTS)
def test_an_unfinished_run_that_lacks_something_is_refused(hurt: Any, templates: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(templates / "unfinished", tmp_path / "run")
    run_data.read(folder, "run")
    hurt(folder)
    with pytest.raises(RlxError):
        run_data.read(folder, "run")
    with pytest.raises(RlxError):
        curves.read([templates / "run", templates / "loop"])  # a link to itself


def test_a_resumed_run_leaves_out_lines_that_its_summary_cannot_use(tmp_path: Path) -> None:
    path, warnings = tmp_path / "metrics.jsonl", list[str]()
    fine: dict[str, Any] = {"run_step": 1, "wall_time_s": 2.0, "critic_step": 3, "eval/return_per_seed": [1.0, None]}
    odd: list[dict[str, Any]] = [{"critic_step": "x"}, {"eval/return_per_seed": None}, {"eval/return_per_seed": [1.0]}]
    path.write_text("".join(json.dumps(fine | change) + "\n" for change in [{}, *odd]))
    metrics.cut(path, 10, warnings.append)
    assert len(warnings) == 3 and metrics.read(path) == [fine]
    assert metrics.first_update_s([fine]) == 2.0 and metrics.first_update_s([]) is None
