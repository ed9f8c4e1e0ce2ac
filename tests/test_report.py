"""A report tells what run folders hold, by hand-made numbers, and opens in a browser without a network."""

from __future__ import annotations

import contextlib
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx import config
from rlx.analysis import compare, report, run_data
from rlx.analysis.diff import differences
from rlx.commands import main as cli
from rlx.errors import RlxError
from rlx.runs import folders, summaries
from rlx.visual import markup, plots, viewer
from tests.browser import browser
from tests.scenes import SCENE, check_offline, episode, mutated

PENDULUM = "gymnax:Pendulum-v1"
STEPS = (100, 200, 300)
CURVES = {"sac": [[-900, -800, -700, -1000], [-500, -400, -450, -600], [-150, -160, -140, -155]]}
CURVES["tqc"] = [[-950, -990], [-900, -700], [-300, -200]]


def make_run(folder: Path, agent: str = "sac", values: Sequence[Sequence[float]] | None = None, **given: Any) -> Path:
    """A finished run as training leaves it, whose seeds had `values` `[T, S]`; with recorded episodes."""
    values = CURVES[agent] if values is None else values
    size = len(values[0])
    several = any(isinstance(value, list) for value in given.values())
    run_config = config.resolve(
        agent, PENDULUM, **{"num_seeds": size // (1 + several), "total_env_steps": 300, **given}
    )
    folder.mkdir(parents=True)
    origin = {"versions": {"jax": "0.10.2", "commit": "a" * 40 + "-dirty"}, "hardware": {"kind": "abacus"}}
    (folder / "config.json").write_text(json.dumps(config.to_json(run_config) | origin))
    summary = {"agent": agent, "env": PENDULUM, "backend": None, "members": config.members(run_config)}
    rates = {"env_steps": 300, "env_steps_per_s": 1234.0, "updates_per_s": 617.0, "time_to_first_update_s": 5.5}
    spread = {"eval_return_interval": [-161, -131], "eval_return_iqm": -151.2, "eval_return_mean": -151.25}
    summary |= rates | spread | {"save_blocked_s": 1.5, "wall_time_s": 40.0, "compile_s": 9.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    with (folder / "metrics.jsonl").open("w") as file:
        for i, (step, row) in enumerate(zip(STEPS, values, strict=True)):
            spent = {"compile_s": 4.0 * (i == 0), "train_s": 6.0, "evaluate_s": 0.5, "wall_time_s": 10.0 * (i + 1)}
            file.write(json.dumps({"run_step": step, **spent, "eval/return_per_seed": list(row)}) + "\n")
    viewer.rollout_page(folder / "rollout.html", SCENE, [episode(60), episode(40)], agent)
    return folder


def unfinish(folder: Path, state: str = "failed", lines: int = 2, torn: str = "") -> Path:
    """The run as it was after its first lines of metrics, and perhaps part of another one."""
    for name in ("summary.json", "rollout.html"):
        (folder / name).unlink()
    written = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(written[:lines]) + torn)
    folders.mark(folder, state)
    return folder


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [make_run(tmp_path / "good", gamma=0.99), make_run(tmp_path / "fair", "tqc", gamma=0.9)]


def page_of(out: Path) -> str:
    return (out / "index.html").read_text()


def strip(page: str) -> str:
    """What a page says, without its scripts, styles and tags."""
    bare = re.sub(r"<(script|style|svg)\b.*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", bare))


def test_time_split_adds_up_to_the_wall_time(tmp_path: Path) -> None:
    """They add up to the wall time."""
    run = run_data.read(make_run(tmp_path / "run"), "run")
    found = run_data.time_split(run.summary, run.lines, run.content["settings"])
    assert found == {"compile": 4, "collect and learn": 18, "evaluate": 1.5, "save": 1.5, "start and other": 15}
    assert sum(found.values()) == run.summary["wall_time_s"]
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


def test_settings_that_differ_come_first(two: list[Path]) -> None:
    runs = [run_data.read(folder, folder.name) for folder in two]
    changed, rest = run_data.settings_table(runs)
    assert changed[0] == rest[0] == ["setting", "good", "fair", "default"]
    rows = {row[0]: row[1:] for row in changed}
    assert rows["gamma"] == ["0.99", "0.9", "0.99"] and rows["total_env_steps"] == ["300", "300", "1,000,000"]
    assert [isinstance(text, run_data.Cell) for text in rows["gamma"]] == [False, True, False]
    others = {row[0]: row[1:] for row in rest}
    assert rows["num_quantiles"] == ["-", "13", "25"] and others["n_step"] == ["1", "1", "1"] and "gamma" not in others
    assert {row[0] for row in changed[1:] + rest[1:]} == set(config.settings("sac")) | set(config.settings("tqc"))


DURATIONS = [(-1, "0.0 s"), (5.52, "5.5 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1:00 min")]
DURATIONS += [(187, "3:07 min"), (3599, "59:59 min"), (3599.6, "1:00 h"), (8100, "2:15 h")]


@pytest.mark.parametrize(("seconds", "text"), DURATIONS)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert summaries.duration(seconds) == text


def test_every_part_of_a_time_has_a_colour() -> None:
    """In a report of runs of all kinds."""
    lines = [{"compile_s": 1.0, "train_s": 1.0, "evaluate_s": 1.0}]
    kinds = ({"total_env_steps": 1}, {"offline_steps": 1}, {"total_env_steps": 1, "offline_steps": 1})
    summary = {"save_blocked_s": 1.0, "wall_time_s": 9.0}
    parts = {name for settings in kinds for name in run_data.time_split(summary, lines, settings)}
    assert len(parts) == len(set(plots.PARTS)) and not set(plots.PARTS) & set(plots.COLORS)


def test_only_names_of_runs_are_coloured() -> None:
    """A cell that happens to read as a run's name is none."""
    found = markup.table([["run", "8"], ["8", "8"], ["16", "8"]], {"8": "red"})
    assert re.findall(r"<t[hd]>(<i.*?</i>)?(\w+)", found) == [
        ("", "run"),
        (key := '<i class="key" style="background: red"></i>', "8"),
        (key, "8"),
        ("", "8"),
        ("", "16"),
        ("", "8"),
    ]


def test_a_report_of_two_runs(two: list[Path], tmp_path: Path) -> None:
    found = report.make(two, tmp_path / "out")
    assert found == compare.compare(compare.read(two))
    page = page_of(tmp_path / "out")
    check_offline(page)
    said = strip(page)
    for table in compare.tables(found):
        for row in table:
            assert " ".join(row) in re.sub(r"\s+", " ", said), row
    for text in ("sac, tqc on gymnax:Pendulum-v1", "Learning curves", "Probability of improvement", "Configuration"):
        assert text in said
    assert "return -151.2 (95 % interval over seeds and episodes -161.0 to -131.0)" in said
    assert "collect and learn 18 s (45%) 18 s (45%)" in said
    assert "aaaaaaaaaaaa-dirty" in said and "abacus" in said
    data = viewer.recorded(tmp_path / "out" / "index.html")
    assert data is not None and [one["label"] for one in data["episodes"]] == ["good", "fair"]
    assert [one["poses"]["shape"][0] for one in data["episodes"]] == [60, 60]  # the first of each
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 4
    for words in ("environment steps per seed", "seconds since the run began", "final return", "seconds<"):
        assert sum(f">{words}" in picture for picture in pictures) == 1, words
    assert all("good" in picture and "fair" in picture for picture in pictures)


def test_figures_are_written_as_files_and_old_ones_removed(two: list[Path], tmp_path: Path) -> None:
    """Those of a report before are gone, and nothing else is."""
    out = tmp_path / "out"
    report.make(two, out)
    both = {f"{stem}.{kind}" for stem in report.FIGURES for kind in ("png", "svg")}
    assert {path.name for path in (out / "figures").iterdir()} == both
    assert (out / "figures" / "time.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "figures" / "time.svg").read_text()
    (out / "figures" / "mine.txt").write_text("")
    report.make([make_run(tmp_path / "one", values=[[1.0], [2.0], [3.0]])], out)
    left = both - {"scores.png", "scores.svg"} | {"mine.txt"}
    assert {path.name for path in (out / "figures").iterdir()} == left


def test_a_report_of_one_seed(tmp_path: Path) -> None:
    """Every episode of the run is shown, there is no band, and the page says so."""
    folder = make_run(tmp_path / "one", values=[[-900.0], [-500.0], [-150.5]])
    report.make([folder], tmp_path / "out")
    said, data = strip(page_of(tmp_path / "out")), viewer.recorded(tmp_path / "out" / "index.html")
    assert "evaluation; one: one seed, so there is no band." in said and "-150.5 final return, one seed" in said
    assert "Probability" not in said and "bootstrap" not in said
    assert data is not None and [one["label"] for one in data["episodes"]] == ["episode 1", "episode 2"]
    assert data["episodes"][0]["poses"] == viewer.recorded(folder / "rollout.html")["episodes"][0]["poses"]  # type: ignore[index]


def test_a_curve_for_each_combination(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "grid", actor_lr=[1e-3, 3e-4])
    found = report.make([folder], tmp_path / "out")
    assert [row.name for row in found.rows] == ["grid actor_lr=0.001", "grid actor_lr=0.0003"]
    page = page_of(tmp_path / "out")
    assert ">grid actor_lr=0.001: mean of 2 seeds<" in page and "Probability of improvement" in page


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ([{}], "environment steps per seed"),
        ([{"dataset": "x", "offline_steps": 300, "total_env_steps": 0}], "updates offline"),
        ([{"dataset": "x", "offline_steps": 100}], "updates offline, then environment steps per seed"),
        ([{}, {"dataset": "x", "offline_steps": 100}], "steps per seed (updates where a run is offline)"),
    ],
)
def test_the_axis_names_the_kind_of_steps(given: list[dict[str, Any]], label: str, tmp_path: Path) -> None:
    agents = ["iql" if one else "sac" for one in given]
    folders = [
        make_run(tmp_path / str(i), agent, CURVES["sac"], **one)
        for i, (agent, one) in enumerate(zip(agents, given, strict=True))
    ]
    report.make(folders, tmp_path / "out")
    assert f">{label}<" in page_of(tmp_path / "out")


SMALL = {"num_envs": 4, "warmup_env_steps": 40, "total_env_steps": 302}


@pytest.mark.parametrize(
    ("state", "owned", "torn", "words"),
    [
        ("interrupted", False, "", "interrupted at step 200 of 304"),
        ("failed", False, '{"run_st', "failed at step 200 of 304"),
        ("running", False, "", "interrupted at step 200 of 304"),  # by a death without a word
        ("running", True, "", "still training, at step 200 of 304"),
    ],
)
def test_a_report_of_an_unfinished_run(
    state: str, owned: bool, torn: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It shows what there is, and says above everything that there will be more."""
    run = unfinish(make_run(tmp_path / "run", **SMALL), state, torn=torn)
    with folders.claimed(run) if owned else contextlib.nullcontext():
        assert cli.main(["report", str(run)]) == 0
    said, page = capsys.readouterr(), page_of(run / "report")
    assert said.err.splitlines()[0] == f"rlx: {run}: is not finished ({words}); the report ends at its last evaluation"
    assert said.out.splitlines()[1].split()[:3] == ["run", "4", "200"]
    check_offline(page)
    text = strip(page)
    assert re.search(rf"</h1>.*</p><p class=\"warning\">run is not finished: {words}</p>", page)
    assert "-475.0 last return, interquartile mean of 4 seeds" in text
    assert "Last scores" in text and "final" not in text.lower() and "total 20 s" in text
    assert "training writes it at its end" in text


def test_only_unfinished_runs_are_named_so(two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what is not finished is named so."""
    run = unfinish(make_run(tmp_path / "run", **SMALL))
    report.make([two[0], run], tmp_path / "out")
    assert re.findall(r'class="warning">(\w+)', page_of(tmp_path / "out")) == ["run"]
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_of_an_older_rlx(tmp_path: Path) -> None:
    """What it lacks is left out: seconds, recorded episodes, rates, an agent that is no more."""
    folder = make_run(tmp_path / "old")
    lines = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(re.sub(r'"(compile|train|evaluate)_s": [\d.]+, ', "", lines))
    known = ("agent", "env", "backend", "members")
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({name: summary[name] for name in known}))
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"agent": "sacc"}))
    (folder / "rollout.html").write_text("gone")
    report.make([folder], tmp_path / "out")
    said = strip(page_of(tmp_path / "out"))
    assert "No run here has a rollout.html" in said and "collect and learn" not in said
    assert not (tmp_path / "out" / "figures" / "time.png").exists()


def test_names_are_escaped(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "<b>&<script>alert(1)")
    report.make([folder], tmp_path / "out")
    page = page_of(tmp_path / "out")
    assert "<script>alert" not in page and "<b>&" not in page
    check_offline(page)


def refusals(root: Path) -> dict[str, tuple[list[str], str]]:
    """What is asked, and the one line that says no."""
    run, begun, mine = make_run(root / "run"), unfinish(make_run(root / "begun"), lines=0), root / "mine"
    mine.mkdir()
    (mine / "index.html").write_text("<title>my page</title>")
    no_report = "already exists and is not a report of rlx"
    return {
        "no run": ([str(root / "none")], f"{root / 'none'}: does not exist; give folders"),
        "no evaluation": (
            [str(begun)],
            f"{begun}: holds no evaluation yet; resume it with `rlx train --resume {begun}`",
        ),
        "no report": ([str(run), "--out", str(mine)], f"{mine}: {no_report}"),
        "a file": ([str(run), "--out", str(run / "config.json")], f"{run / 'config.json'}: {no_report}"),
        "inside a file": ([str(run), "--out", str(run / "config.json" / "x")], "cannot be written (Not a directory)"),
        "format": ([str(run), "--format", "html"], "invalid choice: 'html'"),
    }


@pytest.mark.parametrize("what", ["no run", "no evaluation", "no report", "a file", "inside a file", "format"])
def test_refusals_are_one_line(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, line = refusals(tmp_path)[what]
    assert cli.main(["report", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and line in said.err
    assert (tmp_path / "mine" / "index.html").read_text() == "<title>my page</title>"


@pytest.mark.parametrize("format", compare.FORMATS)
def test_the_command(format: str, two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores to print, alone, so that they can go into a file; where the page is, beside."""
    out = tmp_path / "out"
    assert cli.main(["report", *map(str, two), "--out", str(out), "--format", format]) == 0
    said = capsys.readouterr()
    assert said.out == compare.text(compare.compare(compare.read(two)), format) + "\n"
    assert said.err == f"the page, for a browser: {out / 'index.html'}\n"


def test_the_default_folder_of_a_report(two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the run, or where the command was given; a second one replaces it."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert cli.main(["report", str(two[0])]) == cli.main(["report", *map(str, two)]) == 0
    assert (two[0] / "report" / "index.html").exists() and (tmp_path / "report" / "index.html").exists()


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "config.json").write_text("{")
    with pytest.raises(RlxError, match=r"config.json: cannot be read"):
        report.make([folder], tmp_path / "out")


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
            curves = compare.read([run], unfinished=True)
            comparison, data = compare.compare(curves), run_data.read(run, "run")
            compare.text(comparison)
            report._time([data], {}, None)
            report._scores([data], comparison, {}, None)
            report._configuration([data], {})
            if len(curves) == 1:
                report._tiles(data, comparison)
            differences(run, other)
        except RlxError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 0 < refused < 40


@pytest.mark.parametrize("key", ["agent", "settings"])
def test_a_config_without_what_matters_is_named(key: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    content = json.loads((folder / "config.json").read_text())
    del content[key]
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(RlxError, match=rf"config.json: has no '{key}'; restore it from a copy, or leave the run out"):
        report.make([folder], tmp_path / "out")


def test_names_with_dollars_and_underscores_appear_in_figures(tmp_path: Path) -> None:
    """Dollars are no mathematics; what begins with an underscore is in the legend, too."""
    folders = [make_run(tmp_path / "q$^$"), make_run(tmp_path / "_b")]
    report.make(folders, tmp_path / "out")
    pictures = re.findall(r"<svg.*?</svg>", page_of(tmp_path / "out"), re.DOTALL)
    assert len(pictures) == 4
    for picture in pictures:
        assert ">q$^$" in picture and ">_b" in picture


LOOK = """(async () => {
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const shoot = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() =>
    done([...document.querySelectorAll(".stage canvas")].map((canvas) => canvas.toDataURL())))));
  const early = await shoot();
  await pause(500);
  const boxes = [...document.querySelectorAll("figure svg")].map((svg) => svg.getBoundingClientRect());
  return { early, later: await shoot(), sizes: boxes.map((box) => [box.width, box.height]),
    strokes: document.querySelectorAll("figure svg path").length,
    fits: document.documentElement.scrollWidth <= window.innerWidth };
})()"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 390])
def test_a_report_opens_in_a_browser(two: list[Path], tmp_path: Path, width: int) -> None:
    """Without a network and without complaints: all figures are there, the robots move, nothing is wider than it."""
    report.make(two, tmp_path / "out")
    with browser(tmp_path / "profile", width) as page:
        page.open(tmp_path / "out" / "index.html")
        seen = page.run(LOOK)
    assert not page.complaints
    assert len(seen["early"]) == 2 and all(a != b for a, b in zip(seen["early"], seen["later"], strict=True))
    assert len(seen["sizes"]) == 4 and np.min(seen["sizes"]) > 50 and seen["strokes"] > 40
    assert seen["fits"]
