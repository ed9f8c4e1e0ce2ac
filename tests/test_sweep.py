"""Sweeps: what is tried, that chunks and kills change nothing, what is said of the results, and the refusals."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx import cli, config, experiment, folders, metrics, parallel, runs, sinks, sweep, sweep_figures
from rlx.errors import RlxError
from rlx.sweep import Range
from tests.test_cli import SETTINGS, flags
from tests.test_resume import Crash, at_line, crash

ENV = "gymnax:Pendulum-v1"
FEW = SETTINGS | {"total_env_steps": 300, "eval_every": 300, "eval_episodes": 2}
for name in ("critic_lr", "tau", "actor_lr", "alpha_lr"):
    del FEW[name]
ASKED = ["--critic-lr", "1e-5:1e-1:log", "--tau", "0.01", "0.5", "--random", "2"]


# What is tried


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1e-5:1e-3:log", Range(1e-5, 1e-3, True)),
        ("0.9:0.99", Range(0.9, 0.99, False)),
        ("-1:1", Range(-1, 1, False)),
        ("0.99999991:0.99999994", Range(0.99999991, 0.99999994, False)),
    ],
)
def test_ranges(text: str, found: Range) -> None:
    """To the last digit."""
    assert sweep.parse_range("--x", text) == found == sweep.parse_range("--x", str(found))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1:2:lin", "--x 1:2:lin: must be LOW:HIGH, or LOW:HIGH:log to draw evenly over the logarithm"),
        ("1:2:3:log", "--x 1:2:3:log: must be LOW:HIGH, or *"),
        ("a:2", "--x a: must be a finite number"),
        ("1:inf", "--x inf: must be a finite number"),
        ("2:1", "--x 2:1: must begin below its end"),
        ("0:1:log", "--x 0:1:log: must begin below its end and over 0"),
    ],
)
def test_ranges_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(RlxError) as error:
        sweep.parse_range("--x", text)
    assert fnmatchcase(str(error.value), message)


def test_grid() -> None:
    found = [tuple(row.items()) for row in sweep.grid({"a": (1.0, 2.0), "b": (3.0, 4.0)})]
    assert found == [(("a", a), ("b", b)) for a in (1.0, 2.0) for b in (3.0, 4.0)]


def test_draws_are_repeatable() -> None:
    """More draws, another seed or another hyper-parameter beside: those before stay, the seed's are new."""
    wishes = {"critic_lr": Range(1e-5, 1e-1, True), "gamma": Range(0.9, 0.99, False), "tau": (0.1, 0.2, 0.3)}
    found = sweep.draw(wishes, 400, seed=7)
    assert sweep.draw(wishes, 5, seed=7) == found[:5] != sweep.draw(wishes, 5, seed=8)
    alone = sweep.draw({"gamma": wishes["gamma"]}, 400, seed=7)
    assert [row["gamma"] for row in alone] == [row["gamma"] for row in found]
    columns = {name: np.array([row[name] for row in found]) for name in wishes}
    rates, gamma, tau = columns.values()
    assert rates.min() >= 1e-5 and rates.max() <= 1e-1 and np.median(rates) == pytest.approx(1e-3, rel=0.5)
    assert gamma.min() >= 0.9 and gamma.max() <= 0.99 and gamma.mean() == pytest.approx(0.945, abs=0.005)
    assert sorted(set(tau)) == [0.1, 0.2, 0.3] and min((tau == x).mean() for x in (0.1, 0.2, 0.3)) > 0.25
    assert abs(np.corrcoef(np.log(rates), gamma)[0, 1]) < 0.15
    assert all(float(f"{x:g}") == x for x in (*rates, *gamma))  # so that they print as they are


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to sweep: give several values, or a range, to one of gamma, tau, *"),
        ({"critic_lr": ["1e-5:1e-3"]}, "--critic-lr: a range goes with --random N, how many draws to train"),
        ({"critic_lr": ["1e-5:1e-3", "1"]}, "--critic-lr 1e-5:1e-3 1: give one range, or values without one"),
        ({"num_envs": ["4", "8"]}, "--num-envs: takes one value; only hyper-parameters can be swept: gamma, tau, *"),
        ({"num_critics": [2, 3], "tau": [0.1, 0.2]}, "--num-critics: takes one value; only hyper-parameters *"),
        ({"tau": [0.1, 0.2], "random": -1}, "--random -1: must be at least 0"),
        ({"tau": [0.1, 0.2], "chunk": 0}, "--chunk 0: must be at least 1"),
        ({"tua": [0.1, 0.2]}, "unknown setting 'tua' of sac: did you mean tau?"),
        ({"tau": ["0.1", "x"]}, "--tau x: must be a finite number"),
        (
            {"tau": [0.1, 0.2, 0.3], "chunk": 2, "spread": "seeds", "num_devices": 2},
            "--chunk 2 of 3 combinations: 1 runs at once must divide over 2 devices, with --spread seeds",
        ),
        (
            {"tau": [0.1, 0.2, 0.3], "spread": "seeds", "num_devices": 2},
            "3 combinations: 3 runs at once must divide over 2 devices, with --spread seeds",
        ),
        (
            {"tau": [0.1, 0.2], "confirm": 3, "spread": "seeds", "num_devices": 2},
            "--confirm 3: 3 runs at once must divide over 2 devices, with --spread seeds",
        ),
        ({"gamma": "0.9:1.5", "random": 2}, "--gamma 1.5: must be *"),
    ],
)
def test_sweeps_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RlxError) as error:
        sweep.make("sac", ENV, **given)
    assert fnmatchcase(str(error.value), message), str(error.value)


def test_chunks_fit_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole combinations, as many as there is room for, in chunks of about one size."""
    asked: dict[str, Any] = {"tau": [i / 10 for i in range(1, 11)], "num_seeds": 2, "replay_capacity": 100_000}
    monkeypatch.setattr(parallel, "memory_bytes", lambda devices: 2**40)
    assert len(sweep.chunks(sweep.make("sac", ENV, **asked))) == 1
    of_two = 2 * 100_000 * 10 * 4  # about: the replay of a combination
    monkeypatch.setattr(parallel, "memory_bytes", lambda devices: 6 * of_two)
    sizes = [len(part) for part in sweep.chunks(sweep.make("sac", ENV, **asked))]
    assert sum(sizes) == 10 and 1 < sizes[0] < 6 and max(sizes) - min(sizes) <= 2
    monkeypatch.setattr(parallel, "memory_bytes", lambda devices: 1000)
    assert [len(part) for part in sweep.chunks(sweep.make("sac", ENV, **asked))] == [1] * 10


def test_chunks_divide_over_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where seeds are spread, what fits is rounded down to what divides; nobody need ask for chunks."""
    monkeypatch.setattr(experiment, "setup", lambda base: None)
    monkeypatch.setattr(experiment, "most_members", lambda given, unit, most: min(3 // unit * unit, most))
    tau = [i / 10 for i in range(1, 7)]
    made = sweep.make("sac", ENV, tau=tau, spread="seeds", num_devices=2)
    assert [len(part) for part in sweep.chunks(made)] == [2, 2, 2]
    assert [len(part) for part in sweep.chunks(sweep.make("sac", ENV, tau=tau))] == [3, 3]


def test_repeats_are_left_out() -> None:
    """The same twice is no other combination, and not more seeds of one."""
    made = sweep.make("sac", ENV, random=6, tau=[0.005, 0.02], chunk=4)
    assert sorted(row["tau"] for row in made.combinations) == [0.005, 0.02] and made.chunk == 2
    assert sweep._plan(made) == "2 combinations (4 repeats left out), 2 runs, in one program"
    twice = sweep.make("sac", ENV, tau=[0.1, 0.2, 0.1], num_seeds=2, chunk=1)
    assert sweep._plan(twice) == "2 combinations (1 repeats left out), 4 runs, 2 chunks of 1"


def test_a_chunk_is_a_run_of_pairs() -> None:
    made = sweep.make("sac", ENV, random=3, tau="0.1:0.2", gamma=[0.9, 0.99], num_seeds=2, chunk=2, seed=4)
    first, second = sweep.chunks(made)
    assert first + second == made.combinations and len(second) == 1
    everyone = config.members(sweep.chunk_config(made, first, Path("x")))
    assert [(m["tau"], m["gamma"], m["seed"]) for m in everyone] == [
        (row["tau"], row["gamma"], seed) for row in first for seed in (4, 5)
    ]
    assert made.base.train.on_nonfinite == "skip"  # one that diverges ends no other
    assert sweep.make("sac", ENV, tau=[0.1, 0.2], on_nonfinite="stop").base.train.on_nonfinite == "stop"


# Sweeps that ran


def run(folder: Path, *more: str, **changes: Any) -> int:
    where = ["--run-dir", str(folder.parent), "--run-name", folder.name, "--quiet"]
    return cli.main(["sweep", "sac", "--env", ENV, *where, *ASKED, *flags(**FEW | changes), *more])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep in one program, and its best confirmed."""
    folder = tmp_path_factory.mktemp("sweeps") / "whole"
    assert run(folder, "--confirm", "2") == 0
    return folder


def results(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "sweep.json").read_text())["results"]


def test_chunks_and_kills_change_nothing(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One combination at a time, and killed in the second: gone on with, it ends with the returns of all at once.

    To a tolerance: a compiler may sum in another order for another number of members.
    """
    folder = tmp_path / "parts"
    begun: list[int] = []
    with at_line(300, lambda: begun.append(1) if not begun else crash()), pytest.raises(Crash):
        run(folder, "--chunk", "1")
    assert (folder / "chunk-0" / "summary.json").exists() and not (folder / "chunk-1" / "summary.json").exists()
    assert not (folder / "sweep.csv").exists()
    monkeypatch.setattr(sweep, "draw", lambda *given: pytest.fail("drawn again"))
    capsys.readouterr()
    assert cli.main(["sweep", "--resume", str(folder), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert f"rlx train sac --env {ENV} --preset {folder}/best.json --seed 2 --num-seeds 5 --eval-seed 1000004" in said
    for one, other in zip(results(whole), results(folder), strict=True):
        assert (one["critic_lr"], one["tau"]) == (other["critic_lr"], other["tau"])
        np.testing.assert_allclose(one["returns"], other["returns"], rtol=1e-3)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*/summary.json")}
    assert cli.main(["sweep", "--resume", str(folder), "--quiet"]) == 0  # of a finished one: said again
    assert capsys.readouterr().out == said
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*/summary.json")} == before


def test_results(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sorted by interquartile mean, in every form; with what the best is worth on fresh seeds."""
    found = results(whole)
    assert [row["estimate"] for row in found] == sorted((row["estimate"] for row in found), reverse=True)
    summary = metrics.read_json(whole / "chunk-0" / "summary.json")
    by_member = {
        (member["critic_lr"], member["seed"]): value
        for member, value in zip(summary["members"], summary["eval_return_per_seed"], strict=True)
    }
    for row in found:
        assert row["returns"] == [by_member[row["critic_lr"], seed] for seed in (0, 1)]
        assert row["estimate"] == pytest.approx(np.mean(row["returns"])) and row["low"] <= row["estimate"]
    with (whole / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["tau", "critic_lr", "iqm", "iqm_low", "iqm_high", "mean", "seed 0", "seed 1"]
    assert [float(row["iqm"]) for row in rows] == [row["estimate"] for row in found]
    assert (whole / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["sweep", "--resume", str(whole), "--quiet"]) == 0
    said = capsys.readouterr().out
    first, best = said.splitlines()[:2]
    assert first.split() == ["tau", "critic_lr", "seeds", "IQM", "95", "%", "interval", "mean"]
    assert best.split()[:4] == ["1", f"{found[0]['tau']:g}", f"{found[0]['critic_lr']:g}", "2"]
    assert "the best of 2 is partly luck: its figure is too high\non 2 fresh seeds:\n  return -" in said
    confirmed = metrics.read_json(whole / "confirm" / "config.json")["settings"]
    assert (confirmed["seed"], confirmed["num_seeds"], confirmed["eval_seed"]) == (2, 2, 1_000_004)
    assert confirmed["critic_lr"] == [found[0]["critic_lr"]]
    assert json.loads((whole / "sweep.json").read_text())["confirmed"]["eval_return_mean"] < 0


def test_the_best_is_a_preset(whole: Path) -> None:
    """Short, and `rlx train` with it is the run that won."""
    path, best = whole / "best.json", results(whole)[0]
    preset = json.loads(path.read_text())
    changed = set(FEW) - {"num_seeds", "n_step", "normalize_observations"}
    assert set(preset) == changed | {"critic_lr", "tau"}
    won = config.resolve("sac", ENV, preset=str(path), num_seeds=2)
    asked = config.resolve("sac", ENV, **FEW | {"tau": best["tau"], "critic_lr": best["critic_lr"]})
    assert won == asked
    over = config.resolve("sac", ENV, preset=str(path), tau=0.25)
    assert over.hypers["tau"] == (0.25,)


def test_a_backend_is_of_the_preset_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "setup", lambda base: None)
    made = sweep.make("sac", "brax:ant", "mjx", tau=[0.1, 0.2], chunk=1)
    assert sweep.best_settings(made, {"tau": 0.1}) == {"backend": "mjx", "tau": 0.1}


def test_every_sweep_has_checkpoints_of_its_own() -> None:
    """Under one --checkpoint-dir, on a disk and in a cloud; each has a chunk-0 and a confirmation."""
    for base in ("ck", "s3://bucket/ck/"):
        made = sweep.make("sac", ENV, tau=[0.1, 0.2], chunk=1)
        made = made._replace(base=replace(made.base, train=replace(made.base.train, checkpoint_dir=base)))
        places = {sweep.chunk_config(made, made.combinations, Path(f"r/{i}")).train.checkpoint_dir for i in "ab"}
        assert places == {f"{base.rstrip('/')}/a", f"{base.rstrip('/')}/b"}


def test_what_a_part_is_called(tmp_path: Path) -> None:
    """By W&B: two sweeps' first chunks are told apart, and a run has its folder's name."""
    folder = tmp_path / "lr" / "chunk-0"
    assert sinks._name(folder) == "chunk-0"
    folder.mkdir(parents=True)
    (tmp_path / "lr" / "sweep.json").touch()
    assert sinks._name(folder) == "lr/chunk-0"


def test_diverged_combinations_are_last(tmp_path: Path) -> None:
    made = sweep.make("sac", ENV, tau=[0.1, 0.2, 0.3], num_seeds=2, chunk=2)
    for i, values in enumerate([[None, 5.0, 1.0, 2.0], [3.0, 4.0]]):
        (tmp_path / f"chunk-{i}").mkdir()
        metrics.write_json(tmp_path / f"chunk-{i}" / "summary.json", {"eval_return_per_seed": values})
    judged = sweep.judge(made, tmp_path)
    assert [x.combination["tau"] for x in judged] == [0.3, 0.2, 0.1]
    assert [cell.split() for cell in sweep.table(made, judged).splitlines()][1:] == [
        ["1", "0.3", "2", "3.5", "3.0", "to", "4.0", "3.5"],
        ["2", "0.2", "2", "1.5", "1.0", "to", "2.0", "1.5"],
        ["3", "0.1", "2", "diverged", "-", "-"],
    ]


# Folders and commands


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def refused(*arguments: object) -> str:
        assert cli.main([str(x) for x in arguments]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.startswith("rlx: ") and said.err.count("\n") == 1, said.err
        return said.err.removeprefix("rlx: ").rstrip("\n")

    return refused


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "name the agent right after `rlx sweep`, as in *"),
        ("sca --env x", "unknown agent 'sca': did you mean sac?"),
        ("sac --tau 0.1 0.2", "missing --env; see `rlx list`"),
        (f"sac --env {ENV}", "nothing to sweep: *"),
        (f"sac --env {ENV} --tua 1 2", "unknown argument '--tua' of `rlx sweep sac`: did you mean --tau?"),
        (f"sac --env {ENV} --batch-size 8 16", "--batch-size: takes one value; only hyper-parameters can be swept: *"),
        (f"sac --env {ENV} --tau 1 2 --random x", "--random: invalid int value: 'x'; see `rlx sweep sac --help`"),
        ("--resume nowhere", "nowhere: holds no sweep (no sweep.json); give a folder that `rlx sweep` made"),
    ],
)
def test_every_mistake_is_one_line(command: str, message: str, refused: Callable[..., str]) -> None:
    line = refused("sweep", *command.split())
    assert fnmatchcase(line, message), line


def test_a_sweep_that_is_there(whole: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    """Is refused without --overwrite; a damaged one is not gone on with."""
    again = ["sweep", "sac", "--env", ENV, "--tau", "0.1", "0.2", "--run-dir", whole.parent, "--run-name", "whole"]
    assert "is there already; choose another --run-name, or --overwrite" in refused(*again)
    content = json.loads((whole / "sweep.json").read_text())
    for broken in ({"chunk": None}, {"combinations": [{"tau": "x"}]}, {"varied": 3}):
        content_now = content | broken
        content_now = {name: value for name, value in content_now.items() if value is not None}
        (tmp_path / "sweep.json").write_text(json.dumps(content_now))
        assert fnmatchcase(refused("sweep", "--resume", tmp_path), f"{tmp_path}/sweep.json: is damaged (*); restore *")


def test_a_sweep_can_be_overwritten(tmp_path: Path) -> None:
    """As a run can: all that was in its folder goes; and one that was killed before it wrote anything is in no way."""
    folder = tmp_path / "sweep"
    (folder / "chunk-0").mkdir(parents=True)
    sweep.save(sweep.make("sac", ENV, tau=[0.1, 0.2], chunk=1), folder)
    with folders.claimed(folder, fresh=True, kind=folders.SWEEP):
        assert [path.name for path in folder.iterdir()] == ["lock"]
    (folder / "sweep.tmp").touch()
    with folders.claimed(folder, fresh=True, kind=folders.SWEEP):
        pass
    assert folders.choose_folder(tmp_path, None, config.resolve("sac", ENV), False, "sweep-").name == (
        "sweep-sac-gymnax-Pendulum-v1-s0"
    )


def test_a_sweep_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    made = sweep.make("sac", ENV, random=4, tau="0.1:0.2:log", gamma=[0.9, 0.99], num_seeds=2, chunk=3, confirm=2)
    sweep.save(made, tmp_path)
    assert sweep.load(tmp_path) == made


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--preset *: cannot be read (*No such file*); name a JSON file of settings"),
        ("{", "--preset *: cannot be read (*); name a JSON file of settings"),
        ("[1]", '--preset *: holds no settings; write them as {"critic_lr": 0.001}'),
        ('{"critic_rl": 1}', "--preset *: 'critic_rl' is no setting of sac: did you mean critic_lr?"),
        ('{"critic_lr": "x"}', "--critic-lr x: must be a finite number"),
    ],
)
def test_presets_that_cannot_be(content: str | None, message: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_text(content)
    line = refused("train", "sac", "--env", ENV, "--preset", path)
    assert fnmatchcase(line, message.replace("[", "[[]")), line


# Ends before the end, and what is said


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In place of training: what is trained, in order, each with a return that follows tau."""
    begun: list[str] = []

    def train(run_config: config.RunConfig, folder: Path, **given: Any) -> dict[str, Any]:
        begun.append(folder.name)
        folder.mkdir()
        returns = [member["tau"] for member in config.members(run_config)]
        summary = {"eval_return_per_seed": returns, "members": config.members(run_config)}
        metrics.write_json(folder / "summary.json", summary)
        return summary

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(sweep.results, "in_words", lambda found: ["found"])
    monkeypatch.setattr(sweep_figures, "draw", lambda *given: None)
    return begun


TWO = ["sweep", "sac", "--env", ENV, "--tau", "0.1", "0.2", "--chunk", "1"]


def test_a_signal_at_the_end_of_a_chunk_ends_the_sweep(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where the chunk itself had nothing left to save; what is printed can be pasted, and goes on."""
    train, folder = runs.train, tmp_path / "my runs" / "x"

    def signalled(*given: Any, **more: Any) -> dict[str, Any]:
        found = train(*given, **more)
        os.kill(os.getpid(), signal.SIGTERM)
        assert more["interrupts"].asked()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(runs, "train", signalled)
        before = signal.getsignal(signal.SIGTERM)
        assert cli.main([*TWO, "--run-dir", str(folder.parent), "--run-name", "x", "--quiet"]) == 143
        assert signal.getsignal(signal.SIGTERM) is before
    assert trained == ["chunk-0"]
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith(f"rlx: left before {folder}/chunk-1 began; go on with `rlx ")
    command = shlex.split(said.split("`")[1])
    assert cli.main([*command[1:], "--quiet"]) == 0 and trained == ["chunk-0", "chunk-1"]
    results = capfd.readouterr()
    assert results.err == "" and f"--preset '{folder}/best.json'" in results.out  # --quiet: results alone


def test_results_are_said_before_they_are_confirmed(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = runs.train

    def fails(run_config: config.RunConfig, folder: Path, **given: Any) -> dict[str, Any]:
        if folder.name == "confirm":
            raise RlxError("no")
        return train(run_config, folder, **given)

    monkeypatch.setattr(runs, "train", fails)
    where = ["--run-dir", str(tmp_path), "--run-name", "x", "--checkpoint-dir", str(tmp_path / "ck")]
    assert cli.main([*TWO, *where, "--confirm", "2"]) == 2
    said = capsys.readouterr()
    assert "the best of 2 is partly luck" in said.out and said.err.startswith("rlx: 2 combinations, 2 runs, 2 chunks")
    monkeypatch.setattr(runs, "train", train)
    assert cli.main(["sweep", "--resume", str(tmp_path / "x")]) == 0
    assert capsys.readouterr().out == said.out + "on 2 fresh seeds:\n  found\n"
    confirmed = sweep.confirmation(sweep.load(tmp_path / "x"), tmp_path / "x", 2)
    assert confirmed.train.checkpoint_dir == str(tmp_path / "ck" / "x")
    assert not list((tmp_path / "x").glob("*.tmp"))


def test_a_sweep_replaces_a_sweep(trained: list[str], tmp_path: Path) -> None:
    where = ["--run-dir", str(tmp_path), "--run-name", "x", "--quiet"]
    for more in ([], ["--overwrite"]):
        assert cli.main([*TWO, *where, *more]) == 0
    assert trained == ["chunk-0", "chunk-1"] * 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--env", "gymnax:Pendulun-v1"], "no environment 'gymnax:Pendulun-v1'; *"),
        (["--wandb"], "--wandb: needs the package wandb; *"),
        (["--checkpoint-dir", "ftp://x"], "ftp://x: must be a folder, or an address that begins with gs:// or s3://"),
        (["--num-devices", "99"], "--num-devices 99: this machine shows *"),
    ],
)
def test_mistakes_are_found_before_there_is_a_folder(
    more: list[str], message: str, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks.importlib.util, "find_spec", lambda name: None)
    line = refused(*TWO, *more, "--run-dir", tmp_path / "runs")
    assert fnmatchcase(line, message) and not (tmp_path / "runs").exists(), line


# Pictures


def test_pictures(tmp_path: Path) -> None:
    """A grid of two is a heat map with its values in it; anything else has an axis for each, and one for the return."""
    pairs = sweep.grid({"critic_lr": (1e-4, 1e-3), "tau": (0.1, 0.2, 0.3)})
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, np.nan])
    flat = sweep_figures.draw(tmp_path / "flat.png", pairs, values, True, "title")
    axes = flat.axes[0]
    cells: Any = axes.images[0].get_array()
    np.testing.assert_array_equal(cells.filled(0), [[1, 4], [2, 5], [3, 0]])
    assert [text.get_text() for text in axes.texts] == ["1", "4", "2", "5", "3", "diverged"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")) == ("critic_lr", "tau", "title")
    assert [x.get_text() for x in axes.get_xticklabels()] == ["0.0001", "0.001"]
    for name, rows, is_grid in (("drawn", pairs, False), ("one", [{"tau": row["tau"]} for row in pairs], True)):
        figure = sweep_figures.draw(tmp_path / f"{name}.png", rows, values, is_grid, "title")
        named = [x.get_text() for x in figure.axes[0].get_xticklabels()]
        assert named == [*rows[0], "return\n(interquartile mean of seeds)"] and not figure.axes[0].images
        heights = np.array([line.get_ydata() for line in figure.axes[0].lines[: len(rows)]])
        np.testing.assert_array_equal(heights[:, -1], [np.nan, 0, 0.25, 0.5, 0.75, 1])  # the best on top
        assert figure.axes[-1].get_ylabel() == "return (interquartile mean of seeds)"  # of the colours
    assert {path.name for path in tmp_path.iterdir()} == {"flat.png", "drawn.png", "one.png"}
