"""Sweeps that ran: chunks and kills change nothing, and what is written, said and drawn of the results."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx import build, config, json_files
from rlx.commands import main as cli
from rlx.sweeps import ranking, space, sweep
from rlx.visual import sweep_plots
from tests.commands import flags
from tests.test_cli import SETTINGS
from tests.test_resume import Crash, at_line, crash

pytestmark = pytest.mark.usefixtures("reuse_programs")

ENV = "gymnax:Pendulum-v1"
FEW = {name: value for name, value in SETTINGS.items() if name != "tau" and not name.endswith("_lr")}
FEW |= {"total_env_steps": 300, "eval_every": 300}
ASKED = ["--critic-lr", "1e-5:1e-1:log", "--tau", "0.01", "0.5", "--random", "2"]


def run(folder: Path, *more: str, **changes: Any) -> int:
    where = ["--run-dir", str(folder.parent), "--run-name", folder.name, "--quiet"]
    return cli.main(["sweep", "sac", "--env", ENV, *where, *ASKED, *flags(**FEW | changes), *more])


@pytest.fixture(scope="module")
def sweep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep in one program, and its best confirmed."""
    folder = tmp_path_factory.mktemp("sweeps") / "whole"
    assert run(folder, "--confirm", "2") == 0
    return folder


def results(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "sweep.json").read_text())["results"]


def test_chunks_and_kills_change_nothing(sweep_folder: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """One combination at a time, and killed in the second: gone on with, it ends with the returns of all at once.

    To a tolerance: a compiler may sum in another order for another number of members.
    """
    folder = tmp_path / "parts"
    begun: list[int] = []
    with at_line(300, lambda: begun.append(1) if not begun else crash()), pytest.raises(Crash):
        run(folder, "--chunk", "1")
    assert (folder / "chunk-0" / "summary.json").exists() and not (folder / "chunk-1" / "summary.json").exists()
    assert not (folder / "sweep.csv").exists()
    monkeypatch.setattr(sweep, "sample", lambda *arguments: pytest.fail("drawn again"))
    capsys.readouterr()
    assert cli.main(["sweep", "--resume", str(folder), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert f"rlx train sac --env {ENV} --preset {folder}/best.json --seed 2 --num-seeds 5 --eval-seed 1000004" in said
    for one, other in zip(results(sweep_folder), results(folder), strict=True):
        assert (one["critic_lr"], one["tau"]) == (other["critic_lr"], other["tau"])
        np.testing.assert_allclose(one["returns"], other["returns"], rtol=1e-3)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*/summary.json")}
    assert cli.main(["sweep", "--resume", str(folder), "--quiet"]) == 0  # of a finished one: said again
    assert capsys.readouterr().out == said
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*/summary.json")} == before


def test_results(sweep_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sorted by interquartile mean, in every form; with what the best is worth on fresh seeds."""
    ranked = results(sweep_folder)
    assert [row["estimate"] for row in ranked] == sorted((row["estimate"] for row in ranked), reverse=True)
    summary = json_files.read(sweep_folder / "chunk-0" / "summary.json")
    by_member = {
        (member["critic_lr"], member["seed"]): value
        for member, value in zip(summary["members"], summary["eval_return_per_seed"], strict=True)
    }
    for row in ranked:
        assert row["returns"] == [by_member[row["critic_lr"], seed] for seed in (0, 1)]
        assert row["estimate"] == pytest.approx(np.mean(row["returns"])) and row["low"] <= row["estimate"]
    with (sweep_folder / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["tau", "critic_lr", "iqm", "iqm_low", "iqm_high", "mean", "seed 0", "seed 1"]
    assert [float(row["iqm"]) for row in rows] == [row["estimate"] for row in ranked]
    assert (sweep_folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["sweep", "--resume", str(sweep_folder), "--quiet"]) == 0
    said = capsys.readouterr().out
    first, best = said.splitlines()[:2]
    assert first.split() == ["tau", "critic_lr", "seeds", "IQM", "95", "%", "interval", "mean"]
    assert best.split()[:4] == ["1", f"{ranked[0]['tau']:g}", f"{ranked[0]['critic_lr']:g}", "2"]
    assert "the best of 2 is partly luck: its figure is too high\non 2 fresh seeds:\n  return -" in said
    confirmed = json_files.read(sweep_folder / "confirm" / "config.json")["settings"]
    assert (confirmed["seed"], confirmed["num_seeds"], confirmed["eval_seed"]) == (2, 2, 1_000_004)
    assert confirmed["critic_lr"] == [ranked[0]["critic_lr"]]
    assert json.loads((sweep_folder / "sweep.json").read_text())["confirmed"]["eval_return_mean"] < 0


def test_the_best_is_a_preset(sweep_folder: Path) -> None:
    """Short, and `rlx train` with it is the run that won."""
    path, best = sweep_folder / "best.json", results(sweep_folder)[0]
    preset = json.loads(path.read_text())
    changed = set(FEW) - {"num_seeds", "n_step", "normalize_observations"}
    assert set(preset) == changed | {"critic_lr", "tau"}
    won = config.resolve("sac", ENV, preset=str(path), num_seeds=2)
    asked = config.resolve("sac", ENV, **FEW | {"tau": best["tau"], "critic_lr": best["critic_lr"]})
    assert won == asked
    over = config.resolve("sac", ENV, preset=str(path), tau=0.25)
    assert over.hypers["tau"] == (0.25,)


def test_a_backend_is_of_the_preset_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "setup", lambda base: None)
    made = sweep.make("sac", "brax:ant", "mjx", tau=[0.1, 0.2], chunk=1)
    assert ranking.best_settings(made, {"tau": 0.1}) == {"backend": "mjx", "tau": 0.1}


def test_diverged_combinations_are_last(tmp_path: Path) -> None:
    made = sweep.make("sac", ENV, tau=[0.1, 0.2, 0.3], num_seeds=2, chunk=2)
    for i, values in enumerate([[None, 5.0, 1.0, 2.0], [3.0, 4.0]]):
        (tmp_path / f"chunk-{i}").mkdir()
        json_files.write(tmp_path / f"chunk-{i}" / "summary.json", {"eval_return_per_seed": values})
    ranked = ranking.rank(made, tmp_path)
    assert [x.combination["tau"] for x in ranked] == [0.3, 0.2, 0.1]
    rows = ["1 0.3 2 3.5 3.0 to 4.0 3.5", "2 0.2 2 1.5 1.0 to 2.0 1.5", "3 0.1 2 diverged - -"]
    assert [" ".join(line.split()) for line in ranking.table(made, ranked).splitlines()][1:] == rows


def test_pictures(tmp_path: Path) -> None:
    """A grid of two is a heat map with its values in it; anything else has an axis for each, and one for the return."""
    pairs = space.grid({"critic_lr": (1e-4, 1e-3), "tau": (0.1, 0.2, 0.3)})
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, np.nan])
    flat = sweep_plots.draw(tmp_path / "flat.png", pairs, values, True, "title")
    axes = flat.axes[0]
    cells: Any = axes.images[0].get_array()
    np.testing.assert_array_equal(cells.filled(0), [[1, 4], [2, 5], [3, 0]])
    assert [text.get_text() for text in axes.texts] == ["1", "4", "2", "5", "3", "diverged"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")) == ("critic_lr", "tau", "title")
    assert [x.get_text() for x in axes.get_xticklabels()] == ["0.0001", "0.001"]
    for name, rows, is_grid in (("drawn", pairs, False), ("one", [{"tau": row["tau"]} for row in pairs], True)):
        figure = sweep_plots.draw(tmp_path / f"{name}.png", rows, values, is_grid, "title")
        named = [x.get_text() for x in figure.axes[0].get_xticklabels()]
        assert named == [*rows[0], "return\n(interquartile mean of seeds)"] and not figure.axes[0].images
        heights = np.array([line.get_ydata() for line in figure.axes[0].lines[: len(rows)]])
        np.testing.assert_array_equal(heights[:, -1], [np.nan, 0, 0.25, 0.5, 0.75, 1])  # the best on top
        assert figure.axes[-1].get_ylabel() == "return (interquartile mean of seeds)"  # of the colours
    assert {path.name for path in tmp_path.iterdir()} == {"flat.png", "drawn.png", "one.png"}
