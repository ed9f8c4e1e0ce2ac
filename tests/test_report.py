"""A report tells what run folders hold, by hand-made numbers, and opens in a browser without a network."""

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx import config
from rlx.analysis import compare, curves, report, report_figures
from rlx.errors import RlxError
from rlx.runs import folders
from rlx.visual import markup, viewer
from tests import damage
from tests.browser import browser
from tests.commands import Say
from tests.scenes import SCENE, check_offline, episode

PENDULUM = "gymnax:Pendulum-v1"
STEPS = (100, 200, 300)
CURVES = {"sac": [[-900, -800, -700, -1000], [-500, -400, -450, -600], [-150, -160, -140, -155]]}
CURVES["tqc"] = [[-950, -990], [-900, -700], [-300, -200]]


def make_run(
    folder: Path, agent: str = "sac", values: Sequence[Sequence[float]] | None = None, **settings: Any
) -> Path:
    """A finished run as training leaves it, whose seeds had `values` `[T, S]`; with recorded episodes."""
    values = CURVES[agent] if values is None else values
    size = len(values[0])
    several = any(isinstance(value, list) for value in settings.values())
    sizes = {"num_seeds": size // (1 + several), "total_env_steps": 300}
    run_config = config.resolve(agent, PENDULUM, **sizes | settings)
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


def test_only_names_of_runs_are_coloured() -> None:
    """A cell that happens to read as a run's name is none."""
    result = markup.table([["run", "8"], ["8", "8"], ["16", "8"]], {"8": "red"})
    key = '<i class="key" style="background: red"></i>'
    words = [("", "run"), (key, "8"), (key, "8"), ("", "8"), ("", "16"), ("", "8")]
    assert re.findall(r"<t[hd]>(<i.*?</i>)?(\w+)", result) == words


def test_a_report_of_two_runs(two: list[Path], tmp_path: Path) -> None:
    result = report.make(two, tmp_path / "out")
    assert result == compare.compare(curves.read(two))
    page = page_of(tmp_path / "out")
    check_offline(page)
    said = strip(page)
    for table in compare.tables(result):
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
    both = {f"{stem}.{kind}" for stem in report_figures.FIGURES for kind in ("png", "svg")}
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
    result = report.make([folder], tmp_path / "out")
    assert result
    assert [row.name for row in result.rows] == ["grid actor_lr=0.001", "grid actor_lr=0.0003"]
    page = page_of(tmp_path / "out")
    assert ">grid actor_lr=0.001: mean of 2 seeds<" in page and "Probability of improvement" in page


def test_the_axis_names_the_kind_of_steps(tmp_path: Path) -> None:
    online = make_run(tmp_path / "online")
    both = make_run(tmp_path / "both", "iql", CURVES["sac"], dataset="x", offline_steps=100)
    report.make([online, both], tmp_path / "out")
    assert ">steps per seed (updates where a run is offline)<" in page_of(tmp_path / "out")


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
def test_an_unfinished_run(state: str, owned: bool, torn: str, words: str, tmp_path: Path, say: Any) -> None:
    """It shows what there is, and says above everything that there will be more; of a finished one it says nothing."""
    run = unfinish(make_run(tmp_path / "run", **SMALL), state, torn=torn)
    with folders.claimed(run) if owned else contextlib.nullcontext():
        said = say("report", run)
    page = page_of(run / "report")
    assert said.err.splitlines()[0] == f"rlx: {run}: is not finished ({words}); the report ends at its last evaluation"
    assert said.out.splitlines()[1].split()[:3] == ["run", "4", "200"]
    check_offline(page)
    text = strip(page)
    assert re.search(rf"</h1>.*</p><p class=\"warning\">run is not finished: {words}</p>", page)
    assert "-475.0 last return, interquartile mean of 4 seeds" in text
    assert "Last scores" in text and "final" not in text.lower() and "total 20 s" in text
    assert "training writes it at its end" in text
    if torn:
        said = say("report", run, make_run(tmp_path / "other"), "--out", tmp_path / "out")
        assert said.err.count("not finished") == 1
        assert re.findall(r'class="warning">(\w+)', page_of(tmp_path / "out")) == ["run"]


def test_a_run_that_was_not_evaluated_shows_its_training(tmp_path: Path) -> None:
    """Finished, still training, and before its first line; a metric that never changes or is not finite is left out."""
    folder, out = make_run(tmp_path / "run", **SMALL), tmp_path / "out"
    seeds = {"train/episodes": [0] * 4, "train/critic_loss": [2.0] * 4, "train/bad": [1.0] * 4}
    lines = [{"run_step": step, "wall_time_s": step / 10, **seeds} for step in STEPS]
    lines[-1] |= {"train/critic_loss": [1.0, 0.5, 1.5, 1.0], "train/bad": [None] * 4}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert report.make([folder], out) is None
    assert {path.name for path in (out / "figures").glob("*.svg")} == {"train-critic-loss.svg"}
    page = strip(page_of(out))
    assert "No policy was evaluated" in page and "critic loss" in page and "1,234" in page
    unfinish(folder, "interrupted")
    with pytest.raises(RlxError, match="no line of metrics"):
        report.make([folder], out)  # nothing has changed in two lines
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(RlxError, match="holds no evaluation yet"):
        report.make([folder], out)


def test_a_folder_of_an_older_rlx(tmp_path: Path) -> None:
    """What it lacks is left out: seconds, recorded episodes, rates, an agent that is no more; its name is escaped."""
    folder = make_run(tmp_path / "<b>&<script>alert(1)")
    lines = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(re.sub(r'"(compile|train|evaluate)_s": [\d.]+, ', "", lines))
    known = ("agent", "env", "backend", "members")
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({name: summary[name] for name in known}))
    damage.edit_json(folder / "config.json", agent="sacc")
    (folder / "rollout.html").write_text("gone")
    report.make([folder], tmp_path / "out")
    page = page_of(tmp_path / "out")
    said = strip(page)
    assert "<script>alert" not in page and "<b>&" not in page
    check_offline(page)
    assert "No run here has a rollout.html" in said and "collect and learn" not in said
    assert not (tmp_path / "out" / "figures" / "time.png").exists()


def test_refusals_are_one_line(tmp_path: Path, say: Say) -> None:
    root = tmp_path
    run, begun, mine = make_run(root / "run"), unfinish(make_run(root / "begun"), lines=0), root / "mine"
    mine.mkdir()
    (mine / "index.html").write_text("<title>my page</title>")
    torn, old = make_run(root / "torn"), make_run(root / "old")
    (torn / "config.json").write_text("{")
    (old / "config.json").write_text('{"settings": {}}')
    no_report = "already exists and is not a report of rlx"
    asked: dict[str, list[object]] = {
        f"{root / 'none'}: does not exist; give folders": [root / "none"],
        f"{begun}: holds no evaluation yet; resume it with": [begun],
        "config.json: cannot be read": [torn],
        "config.json: has no 'agent'; restore it from a copy, or leave the run out": [old],
        f"{mine}: {no_report}": [run, "--out", mine],
        f"{run / 'config.json'}: {no_report}": [run, "--out", run / "config.json"],
        "cannot be written (Not a directory)": [run, "--out", run / "config.json" / "x"],
        "invalid choice: 'html'": [run, "--format", "html"],
    }
    for line, arguments in asked.items():
        said = say("report", *arguments)
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1) and line in said.err, line
    assert (tmp_path / "mine" / "index.html").read_text() == "<title>my page</title>"


@pytest.mark.parametrize(
    ("format", "count", "out"), [("table", 2, "out"), ("md", 2, "report"), ("csv", 1, "good/report")]
)
def test_the_command(format: str, count: int, out: str, two: Any, tmp_path: Path, say: Any, monkeypatch: Any) -> None:
    """Scores to print, alone, for a file; the page goes into the run, or where the command was given."""
    monkeypatch.chdir(tmp_path)
    where = ["--out", "out"] if out == "out" else []
    said = say("report", *two[:count], *where, "--format", format)
    assert said.out == compare.text(compare.compare(curves.read(two[:count])), format) + "\n"
    page = tmp_path / out / "index.html" if out == "good/report" else Path(out) / "index.html"
    assert said.err == f"the page, for a browser: {page}\n" and page.exists()


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
