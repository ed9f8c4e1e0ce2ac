"""Statistics between runs, against slow NumPy on fixed numbers in run folders made by hand."""

import csv
import io
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx.analysis.compare import compare, notes, tables, text
from rlx.analysis.curves import Curve, read
from rlx.commands import main as cli
from rlx.errors import RlxError
from rlx.runs import folders
from tests.commands import Capture, one_line

STEPS = (100, 200, 300)
GOOD = [[-1500, -1400, -1600, -1700, -1550], [-600, -500, -900, -1500, -700], [-150, -160, -140, -1200, -155]]
FAIR = [[-1450, -1500, -1600], [-1300, -1200, -1400], [-800, -500, -190]]


def write_run(
    folder: Path,
    values: Sequence[Sequence[Any]],
    env: str = "gymnax:Pendulum-v1",
    backend: str | None = None,
    hypers: Sequence[dict[str, float]] | None = None,
) -> Path:
    """A finished run whose seeds have `values` `[T, S]`; between evaluations it logs losses."""
    folder.mkdir(parents=True)
    rates = [{}] * len(values[0]) if hypers is None else hypers
    members = [{"gamma": 0.99, **rate, "seed": i % 3} for i, rate in enumerate(rates)]
    (folder / "summary.json").write_text(json.dumps({"env": env, "backend": backend, "members": members}))
    lines = []
    for step, row in zip(STEPS, values, strict=True):
        loss = {"train/critic_loss": [step / 10 + i for i in range(len(row))]}
        lines.append({"run_step": step - 50, "wall_time_s": step / 40 - 1, **loss})
        seen = {"eval/return_per_seed": list(row), "eval/return_mean": 0.0}
        lines.append({"run_step": step, "wall_time_s": step / 40, **loss, **seen})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [write_run(tmp_path / "good", GOOD), write_run(tmp_path / "fair", FAIR)]


def slow_iqm(values: Sequence[float]) -> float:
    kept = sorted(values)
    for _ in range(len(values) // 4):
        kept = kept[1:-1]
    return sum(kept) / len(kept)


def every_draw(values: Sequence[float]) -> tuple[float, float]:
    """The percentile interval of the interquartile mean over all draws with replacement there are."""
    drawn = [slow_iqm(draw) for draw in itertools.product(values, repeat=len(values))]
    low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def test_final_values(two: list[Path]) -> None:
    good, fair = compare(read(two)).rows
    assert (good.name, good.seeds, good.steps, good.wall_s) == ("good", 5, 300, 7.5)
    assert (fair.name, fair.seeds) == ("fair", 3)
    for row, values in ((good, GOOD[-1]), (fair, FAIR[-1])):
        assert row.mean == pytest.approx(sum(values) / len(values))
        assert row.iqm.estimate == pytest.approx(slow_iqm(values))
    assert good.iqm.estimate == pytest.approx((-150 - 155 - 160) / 3)  # neither -140 nor -1200
    low, high = every_draw(FAIR[-1])
    assert (fair.iqm.low, fair.iqm.high) == (pytest.approx(low), pytest.approx(high))
    assert (low, high) == (-800, -190)  # one draw of 27 is thrice the worst: more than 2.5 %
    assert (good.iqm.low, good.iqm.high) == pytest.approx(every_draw(GOOD[-1]), abs=15)


def test_probability_of_improvement(two: list[Path]) -> None:
    actual = compare(read(two)).improvement
    assert set(actual) == {("good", "fair"), ("fair", "good")}
    assert actual["good", "fair"].estimate == pytest.approx(12 / 15)
    assert actual["fair", "good"].estimate == pytest.approx(3 / 15)
    assert 0 <= actual["good", "fair"].low < 0.8 < actual["good", "fair"].high == 1


def test_steps_and_seconds_to_thresholds(two: list[Path]) -> None:
    """IQMs are -1550, -733, -155 and -1517, -1300, -497."""
    actual = compare(read(two), [-1550, -1000, -733, -200, 0])
    assert actual.thresholds == (-1550, -1000, -733, -200, 0)
    good, fair = (row.reached for row in actual.rows)
    assert good == ((100, 2.5), (200, 5.0), (300, 7.5), (300, 7.5), None)  # -733.33 is just below -733
    assert fair == ((100, 2.5), (300, 7.5), (300, 7.5), None, None)


def test_default_thresholds_are_between_the_first_and_the_best(two: list[Path]) -> None:
    """Returns are negative: half of the best would be worse than the best."""
    low, high = slow_iqm(GOOD[0]), slow_iqm(GOOD[-1])
    actual = compare(read(two))
    assert actual.thresholds == pytest.approx((low + 0.5 * (high - low), low + 0.9 * (high - low)))
    assert [row.reached for row in actual.rows] == [((200, 5.0), (300, 7.5)), ((300, 7.5), None)]


def curve(name: str, *rows: list[float]) -> Curve:
    """Of values `[T, S]`, an evaluation a step."""
    steps = np.arange(1, 1 + len(rows))
    return Curve(name, steps, steps / 10, np.asarray(rows))


def test_a_threshold_counts_when_first_reached(tmp_path: Path) -> None:
    """Without progress there are none; where a return was not finite, JSON has null, which reaches none."""
    assert compare([curve("x", [0.0], [5.0], [2.0])], [4.0]).rows[0].reached == ((2, 0.2),)
    actual = compare([curve("x", [3.0, 3.0], [1.0, 1.0])])
    assert actual.thresholds == () and actual.rows[0].reached == ()
    folder = write_run(tmp_path / "gap", [[0, 0], [None, 9], [9, 9]])
    assert compare(read([folder]), [4.0]).rows[0].reached == ((300, 7.5),)


def test_another_metric(two: list[Path]) -> None:
    actual = read(two, "train/critic_loss")[1]
    assert list(actual.steps) == [50, 100, 150, 200, 250, 300]
    np.testing.assert_array_equal(actual.values[-1], [30, 31, 32])
    with pytest.raises(RlxError, match=r"no 'train/critic_los' per seed.*did you mean 'train/critic_loss'"):
        read(two, "train/critic_los")
    for threshold in (math.nan, math.inf):
        with one_line("--thresholds: must be finite numbers"):
            compare(read(two), [1.0, threshold])


def test_combinations_of_hyper_parameters_have_separate_curves(tmp_path: Path) -> None:
    """Labels show all digits, and paths where names are equal."""
    rates = [{"actor_lr": lr} for lr in (1e-3, 1e-3, 1e-3, 3e-4, 3e-4, 3e-4)]
    folder = write_run(tmp_path / "grid", [[1, 2, 3, 4, 5, 6]] * 3, hypers=rates)
    one, other = read([folder])
    assert (one.name, other.name) == ("grid actor_lr=0.001", "grid actor_lr=0.0003")
    np.testing.assert_array_equal(one.values, [[1, 2, 3]] * 3)
    np.testing.assert_array_equal(other.values, [[4, 5, 6]] * 3)
    assert compare([one, other]).improvement[one.name, other.name].estimate == 0
    folder = write_run(tmp_path / "fine", [[1, 2]] * 3, hypers=[{"gamma": 0.99999991}, {"gamma": 0.99999994}])
    assert [result.name for result in read([folder])] == ["fine gamma=0.99999991", "fine gamma=0.99999994"]
    folders = [write_run(tmp_path / root / "sac", FAIR) for root in ("a", "b")]
    assert [result.name for result in read(folders)] == [str(folder) for folder in folders]


def test_curves_with_a_non_finite_end_are_left_out_with_a_warning(tmp_path: Path, capsys: Capture) -> None:
    """And that is said; the other combinations of a sweep's chunk are compared nevertheless."""
    rates = [{"actor_lr": lr} for lr in (1e-3, 1e-3, 3e-4, 3e-4)]
    folder = write_run(tmp_path / "grid", [[1, 2, 3, 4], [1, 2, 3, 4], [1, None, 3, 4]], hypers=rates)
    (kept,) = read([folder])
    assert kept.name == "grid actor_lr=0.0003"
    line = "rlx: grid actor_lr=0.001: the last eval/return_per_seed of 1 of 2 seeds is not finite; left out\n"
    assert capsys.readouterr().err == line


def test_as_text_markdown_and_csv(two: list[Path], capsys: Capture) -> None:
    shown = compare(read(two), [-1000.0, -200.0])
    first, second, noted = text(shown).split("\n\n")
    assert noted.startswith("3 seeds are few")
    head, good, fair = first.splitlines()
    named = "run seeds steps s mean IQM 95 % over seeds steps to -1000.0 s to -1000.0 steps to -200.0 s to -200.0"
    assert head.split() == named.split()
    assert good.split()[:6] == "good 5 300 7.5 -361.0 -155.0".split()
    assert good.split()[-4:] == "200 5.0 300 7.5".split()
    assert fair.split() == "fair 3 300 7.5 -496.7 -496.7 -800.0 to -190.0 300 7.5 - -".split()
    ends = [line.index(cell) + len(cell) for line, cell in ((head, "steps"), (good, "300"), (fair, "300"))]
    assert len(set(ends)) == 1  # figures stand in columns
    assert second.splitlines()[0].split()[-2:] == ["good", "fair"]
    assert second.splitlines()[1].split()[:3] == ["good", "-", "0.80"]

    lines = text(shown, "md").splitlines()
    assert lines[0].startswith("| run | seeds | steps | s | mean | IQM | 95 % over seeds | steps to -1000.0 |")
    assert lines[1] == "| --- |" + " ---: |" * 10
    assert lines[3] == "| fair | 3 | 300 | 7.5 | -496.7 | -496.7 | -800.0 to -190.0 | 300 | 7.5 | - | - |"
    assert lines[5] == "| P(row ends above column) | good | fair |"

    one, other = csv.DictReader(io.StringIO(text(shown, "csv")))
    assert (one["run"], one["seeds"], one["steps_to_-1000"], one["wall_s_to_-200"]) == ("good", "5", "200", "7.5")
    assert float(other["iqm"]) == pytest.approx(slow_iqm(FAIR[-1]), rel=1e-12)
    assert (other["steps_to_-200"], other["above fair"]) == ("", "")
    assert float(other["above good"]) == pytest.approx(0.2) and float(one["above fair high"]) == 1

    assert cli.main(["compare", *map(str, two), "--thresholds", "-1000", "-200"]) == 0
    assert capsys.readouterr().out == text(shown) + "\n"
    assert cli.main(["compare", str(two[0]), "--metric", "train/critic_loss", "--format", "csv"]) == 0
    assert capsys.readouterr().out.count("\n") == 2
    for format in ("text", "md", "csv"):
        assert "P(row" not in text(compare(read(two[:1])), format)


def test_one_seed_has_no_interval() -> None:
    runs, pairs = text(compare([curve("a", [1.0]), curve("b", [2.0])], [])).split("\n\n")
    assert runs.splitlines()[1].split() == ["a", "1", "1", "0.1", "1", "1", "-"]
    assert pairs.splitlines()[2].split() == ["b", "1.00", "-"]
    _, cells = tables(compare([curve("one", [4.0]), curve("three", [1.0, 2.0, 5.0])], [0.0]))
    assert cells[1:] == [["one", "-", "0.67"], ["three", "0.33", "-"]]


def test_refusals_are_one_line(tmp_path: Path, refused: Callable[..., str]) -> None:
    root = tmp_path
    ant, mjx = (write_run(root / b, FAIR, "brax:ant", b) for b in ("spring", "mjx"))
    pendulum, bad = write_run(root / "p", FAIR), write_run(root / "bad", [[1, 1], [1, 1], [1, None]])
    begun, empty, sweep = root / "begun", write_run(root / "empty", FAIR), root / "sweep"
    for folder, name in ((begun, "config.json"), (sweep, "sweep.json")):
        folder.mkdir()
        (folder / name).write_text("{}")
    (empty / "metrics.jsonl").unlink()
    old, older = write_run(root / "old", FAIR), write_run(root / "older", FAIR)
    (old / "metrics.jsonl").write_text((old / "metrics.jsonl").read_text().replace("run_step", "step"))
    (older / "summary.json").write_text('{"env": "gymnax:Pendulum-v1"}')
    for folders_, words in (
        ([ant, pendulum], f"{pendulum}: is a run of gymnax:Pendulum-v1, and {ant} of brax:ant (spring)"),
        ([ant, mjx], "is a run of brax:ant (mjx), and"),
        ([ant, ant], f"{ant}: is named twice"),
        ([ant, ant / ".." / ant.name], "is named twice; name each run once"),
        ([begun], f"{begun}: holds no finished run (no summary.json); resume it with"),
        ([root / "none"], f"{root / 'none'}: does not exist"),
        ([sweep], f"it is a sweep or study: give the runs in it, such as {sweep / 'chunk-0'}"),
        ([bad], "bad: the last eval/return_per_seed is not finite"),
        ([old], f"{old / 'metrics.jsonl'}: has no 'run_step', since an older rlx wrote it"),
        ([older], f"{older / 'summary.json'}: has no 'backend', since an older rlx"),
        ([empty], f"{empty}: has no 'eval/return_per_seed' per seed"),
    ):
        assert words in refused("compare", *folders_)
    with folders.claimed(begun), pytest.raises(RlxError, match="still training"):
        folders.mark(begun, "running")
        read([begun])


def test_notes_name_few_seeds_unequal_lengths_and_default_thresholds(tmp_path: Path) -> None:
    """Few seeds, runs of other lengths, and where thresholds stand if nobody chose them: 0 + 50 and 90 % of 8."""
    long = write_run(tmp_path / "long", [[0, 0], [4, 4], [8, 8]])
    short = write_run(tmp_path / "short", [[0, 0], [1, 1], [2, 2]])
    lines = (short / "metrics.jsonl").read_text().splitlines(keepends=True)
    (short / "metrics.jsonl").write_text("".join(lines[:-2]))
    result = compare(read([long, short]))
    few, lengths, thresholds = notes(result)
    assert few.startswith("2 seeds are few") and lengths.startswith("The runs are not equally long")
    assert result.thresholds == pytest.approx((4, 7.2)) and "50% and 90% of the way" in thresholds
    alone = write_run(tmp_path / "alone", [[0], [4], [8]])
    assert notes(compare(read([alone]), [3.0])) == []
