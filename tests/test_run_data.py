"""What a report reads of run folders, by hand-made numbers: where time went, settings, and files that others wrote."""

import json
import random
from pathlib import Path

import pytest

from rlx import config
from rlx.analysis import compare, curves, report, run_data
from rlx.analysis.diff import differences
from rlx.errors import RlxError
from rlx.visual import plots
from tests.scenes import mutated
from tests.test_report import make_run


def test_time_split_adds_up_to_the_wall_time(tmp_path: Path) -> None:
    run = run_data.read(make_run(tmp_path / "run"), "run")
    result = run_data.time_split(run.summary, run.lines, run.content["settings"])
    assert result == {"compile": 4, "collect and learn": 18, "evaluate": 1.5, "save": 1.5, "start and other": 15}
    assert sum(result.values()) == run.summary["wall_time_s"]
    offline = run_data.time_split(run.summary, run.lines, {"total_env_steps": 0, "offline_steps": 300})
    assert offline["learn"] == 18
    both = run_data.time_split(run.summary, run.lines, {"total_env_steps": 300, "offline_steps": 300})
    assert both["learn, offline and then online"] == 18
    old = [{"run_step": 1, "wall_time_s": 2.0}]
    assert run_data.time_split(run.summary, old, run.content["settings"]) == {}


def test_busy_shares_of_roles() -> None:
    lines = [{"train/busy_collect_s": 0.1, "train/busy_value_s": 0.4, "train/iteration_s": 0.4}]
    lines += [{"train/busy_collect_s": 0.3, "train/busy_value_s": 0.6, "train/iteration_s": 0.6}, {"train/loss": 1.0}]
    assert run_data.busy(lines) == pytest.approx({"collect": 0.375, "value": 1.0})
    assert run_data.busy([{"train/loss": 1.0}]) == {}


def test_settings_that_differ_come_first(tmp_path: Path) -> None:
    folders = make_run(tmp_path / "good", gamma=0.99), make_run(tmp_path / "fair", "tqc", gamma=0.9)
    runs = [run_data.read(folder, folder.name) for folder in folders]
    changed, rest = run_data.settings_table(runs)
    assert changed[0] == rest[0] == ["setting", "good", "fair", "default"]
    rows = {row[0]: row[1:] for row in changed}
    assert rows["gamma"] == ["0.99", "0.9", "0.99"] and rows["total_env_steps"] == ["300", "300", "1,000,000"]
    assert [isinstance(text, run_data.Cell) for text in rows["gamma"]] == [False, True, False]
    others = {row[0]: row[1:] for row in rest}
    assert rows["num_quantiles"] == ["-", "13", "25"] and others["n_step"] == ["1", "1", "1"] and "gamma" not in others
    assert {row[0] for row in changed[1:] + rest[1:]} == set(config.settings("sac")) | set(config.settings("tqc"))


def test_every_part_of_a_time_has_a_colour() -> None:
    """In a report of runs of all kinds."""
    lines = [{"compile_s": 1.0, "train_s": 1.0, "evaluate_s": 1.0}]
    kinds = ({"total_env_steps": 1}, {"offline_steps": 1}, {"total_env_steps": 1, "offline_steps": 1})
    summary = {"save_blocked_s": 1.0, "wall_time_s": 9.0}
    parts = {name for settings in kinds for name in run_data.time_split(summary, lines, settings)}
    assert len(parts) == len(set(plots.PARTS)) and not set(plots.PARTS) & set(plots.COLORS)


@pytest.mark.parametrize("name", ["summary.json", "config.json", "metrics.jsonl"])
def test_foreign_run_folders_are_read_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    """Whatever the values and types in their files; what is read is enough for every part of a report."""
    run, other = make_run(tmp_path / "run"), make_run(tmp_path / "other")
    text = (run / name).read_text()
    tree = [json.loads(line) for line in text.splitlines()] if name.endswith("l") else json.loads(text)
    changes = list(mutated(tree))
    refused = 0
    for change in random.Random(0).sample(changes, 40):
        lines = "".join(json.dumps(line) + "\n" for line in change) if name.endswith("l") else json.dumps(change)
        (run / name).write_text(lines)
        try:
            of_runs = curves.read([run], unfinished=True)
            comparison, data = compare.compare(of_runs), run_data.read(run, "run")
            compare.text(comparison)
            report._time([data], {}, None)
            report._scores([data], comparison, {}, None)
            report._configuration([data], {})
            if len(of_runs) == 1:
                report._tiles(data, comparison)
            differences(run, other)
        except RlxError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 0 < refused < 40
