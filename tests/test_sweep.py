"""Sweeps: how they are cut into chunks, their folders and refusals, and what ends them early."""

import os
import shlex
import signal
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from rlx import build, config, json_files, parallel
from rlx.commands import main as cli
from rlx.errors import RlxError
from rlx.runs import loggers, runner
from rlx.sweeps import running, sweep
from rlx.visual import sweep_plots
from tests import damage

ENV = "gymnax:Pendulum-v1"
SPREAD: dict[str, Any] = {"spread": "seeds", "num_devices": 2}
DIVIDE = "runs at once must divide over 2 devices, with --spread seeds"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"critic_lr": ["1e-5:1e-3"]}, "--critic-lr: a range goes with --random N, how many samples to train"),
        ({"critic_lr": ["1e-5:1e-3", "1"]}, "--critic-lr 1e-5:1e-3 1: give one range, or values without one"),
        ({"num_critics": [2, 3], "tau": [0.1, 0.2]}, "--num-critics: takes one value; only hyper-parameters *"),
        ({"tau": [0.1, 0.2], "random": -1}, "--random -1: must be at least 0 and at most 1000000"),
        ({"tau": [0.1, 0.2], "chunk": 0}, "--chunk 0: must be at least 1 and at most 1000000"),
        ({"tau": ["0.1", "x"]}, "--tau x: must be a finite number"),
        (SPREAD | {"tau": [0.1, 0.2, 0.3], "chunk": 2}, f"--chunk 2 of 3 combinations: 1 {DIVIDE}"),
        (SPREAD | {"tau": [0.1, 0.2, 0.3]}, f"3 combinations: 3 {DIVIDE}"),
        (SPREAD | {"tau": [0.1, 0.2], "confirm": 3}, f"--confirm 3: 3 {DIVIDE}"),
        ({"gamma": "0.9:1.5", "random": 2}, "--gamma 1.5: must be *"),
    ],
)
def test_sweeps_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RlxError) as error:
        sweep.make("sac", ENV, **settings)
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
    monkeypatch.setattr(build, "setup", lambda base: None)
    monkeypatch.setattr(build, "most_members", lambda given, unit, most: min(3 // unit * unit, most))
    tau = [i / 10 for i in range(1, 7)]
    made = sweep.make("sac", ENV, tau=tau, **SPREAD)
    assert [len(part) for part in sweep.chunks(made)] == [2, 2, 2]
    assert [len(part) for part in sweep.chunks(sweep.make("sac", ENV, tau=tau))] == [3, 3]


def test_a_chunk_is_a_run_of_pairs() -> None:
    made = sweep.make("sac", ENV, random=3, tau="0.1:0.2", gamma=[0.9, 0.99], num_seeds=2, chunk=2, seed=4)
    first, second = sweep.chunks(made)
    assert first + second == made.combinations and len(second) == 1
    every_member = config.members(sweep.chunk_config(made, first, Path("x")))
    assert [(m["tau"], m["gamma"], m["seed"]) for m in every_member] == [
        (row["tau"], row["gamma"], seed) for row in first for seed in (4, 5)
    ]
    assert made.base.train.on_nonfinite == "skip"  # one that diverges ends no other
    assert sweep.make("sac", ENV, tau=[0.1, 0.2], on_nonfinite="stop").base.train.on_nonfinite == "stop"
    for base in ("ck", "s3://bucket/ck/"):  # every sweep has checkpoints of its own
        base_config = replace(made.base, train=replace(made.base.train, checkpoint_dir=base))
        chunks = [sweep.chunk_config(made._replace(base=base_config), first, Path(f"r/{i}")) for i in "ab"]
        assert [chunk.train.checkpoint_dir for chunk in chunks] == [f"{base.rstrip('/')}/{i}" for i in "ab"]
    repeated = sweep.make("sac", ENV, tau=[0.1, 0.2, 0.1], num_seeds=2, chunk=1)  # is no other combination
    assert running._plan(repeated) == "2 combinations (1 repeats left out), 4 members, 2 chunks of 1"
    repeated = sweep.make("sac", ENV, random=6, tau=[0.005, 0.02], chunk=4)
    assert sorted(row["tau"] for row in repeated.combinations) == [0.005, 0.02] and repeated.chunk == 2


def test_a_sweep_that_is_there(refused: Callable[..., str], tmp_path: Path) -> None:
    """Is refused without --overwrite; a damaged one is not gone on with."""
    folder = tmp_path / "sweep"
    folder.mkdir()
    sweep.save(sweep.make("sac", ENV, tau=[0.1, 0.2], chunk=1), folder)
    again = ["sweep", "sac", "--env", ENV, "--tau", "0.1", "0.2", "--run-dir", tmp_path, "--run-name", "sweep"]
    assert "already exists; choose another --run-name, or --overwrite" in refused(*again)
    text = (folder / "sweep.json").read_text()
    for broken in ({"chunk": None}, {"combinations": [{"tau": "x"}]}, {"varied": 3}):
        (folder / "sweep.json").write_text(text)
        damage.edit_json(folder / "sweep.json", **broken)
        assert fnmatchcase(refused("sweep", "--resume", folder), f"{folder}/sweep.json: is damaged (*); restore *")


def test_a_sweep_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    made = sweep.make("sac", ENV, random=4, tau="0.1:0.2:log", gamma=[0.9, 0.99], num_seeds=2, chunk=3, confirm=2)
    sweep.save(made, tmp_path)
    assert sweep.load(tmp_path) == made
    assert loggers._name(tmp_path / "chunk-0") == f"{tmp_path.name}/chunk-0"  # in W&B; else the folder's name
    assert loggers._name(tmp_path.parent / "run") == "run"


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


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In place of training: what is trained, in order, each with a return that follows tau."""
    begun: list[str] = []

    def train(run_config: config.RunConfig, folder: Path, init_from: str | None = None, **given: Any) -> dict[str, Any]:
        begun.append(folder.name)
        assert given["same_data_as"] == (folder.parent / "chunk-0" if begun[0] != folder.name else None)
        folder.mkdir(exist_ok=True)
        returns = [member["tau"] for member in config.members(run_config)]
        summary = {"eval_return_per_seed": returns, "members": config.members(run_config)}
        json_files.write(folder / "summary.json", summary)
        return summary

    monkeypatch.setattr(runner, "train", train)
    monkeypatch.setattr(running.summaries, "in_words", lambda result: ["found"])
    monkeypatch.setattr(sweep_plots, "draw", lambda *arguments: None)
    return begun


TWO = ["sweep", "sac", "--env", ENV, "--tau", "0.1", "0.2", "--chunk", "1"]


def test_a_signal_at_a_chunks_end_ends_the_sweep(trained: Any, tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
    """Where the chunk itself had nothing left to save; what is printed can be pasted, and goes on."""
    train, folder = runner.train, tmp_path / "my runs" / "x"

    def signalled(*args: Any, **more: Any) -> dict[str, Any]:
        result = train(*args, **more)
        os.kill(os.getpid(), signal.SIGTERM)
        assert more["interrupts"].asked()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(runner, "train", signalled)
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


def test_results_are_said_before_confirming(trained: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    train = runner.train

    def fails(run_config: config.RunConfig, folder: Path, init_from: str | None, **given: Any) -> dict[str, Any]:
        if folder.name == "confirm":
            raise RlxError("no")
        return train(run_config, folder, **given)

    monkeypatch.setattr(runner, "train", fails)
    where = ["--run-dir", str(tmp_path), "--run-name", "x", "--checkpoint-dir", str(tmp_path / "ck")]
    assert cli.main([*TWO, *where, "--confirm", "2"]) == 2
    said = capsys.readouterr()
    assert "the best of 2 is partly luck" in said.out and said.err.startswith(
        "rlx: 2 combinations, 2 members, 2 chunks"
    )
    monkeypatch.setattr(runner, "train", train)
    assert cli.main(["sweep", "--resume", str(tmp_path / "x")]) == 0
    assert capsys.readouterr().out == said.out + "on 2 fresh seeds:\n  found\n"
    confirmed = running.confirmation(sweep.load(tmp_path / "x"), tmp_path / "x", 2)
    assert confirmed.train.checkpoint_dir == str(tmp_path / "ck" / "x")
    assert not list((tmp_path / "x").glob("*.tmp"))


def test_a_sweep_replaces_a_sweep(trained: list[str], tmp_path: Path) -> None:
    where = ["--run-dir", str(tmp_path), "--run-name", "x", "--quiet"]
    for more in ([], ["--overwrite"]):
        assert cli.main([*TWO, *where, *more]) == 0
    assert trained == ["chunk-0", "chunk-1"] * 2
