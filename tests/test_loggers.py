"""TensorBoard and W&B: what they are given, that a resumed run repeats nothing, and that neither can end a run."""

import importlib.util
import math
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboardX.proto import event_pb2

from rlx import config
from rlx.analysis.diff import numbers
from rlx.commands import main as cli
from rlx.errors import RlxError, install
from rlx.runs import loggers, metrics, saver
from tests.test_resume import Crash, at_line, crash, train

pytestmark = pytest.mark.usefixtures("reuse_programs")

ENV = "gymnax:Pendulum-v1"


@pytest.mark.parametrize(
    ("line", "members", "result"),
    [
        ({"run_step": 4, "wall_time_s": 1.5}, 1, {"run_step": 4, "wall_time_s": 1.5}),
        ({"train/loss": [3.0]}, 1, {"train/loss": 3.0}),
        ({"train/loss": [1.0, 2.0]}, 2, {"train/loss": 1.5, "train/loss/0": 1.0, "train/loss/1": 2.0}),
        ({"train/loss": list(range(9))}, 9, {"train/loss": 4.0}),
        ({"train/loss": [1.0, None]}, 2, {"train/loss/0": 1.0}),
        ({"train/loss": [None], "eval/return_mean": math.nan}, 1, {}),
        ({"train/lag_x": [0, 5, 0, 0]}, 4, {f"train/lag_x/{i}": 5 * (i == 1) for i in range(4)}),
        ({"nonfinite": {"reward": {"run_step": 3, "number": 7}}}, 1, {"nonfinite/reward": 7}),
    ],
)
def test_scalars(line: dict[str, Any], members: int, result: dict[str, float]) -> None:
    assert loggers.scalars(line, members) == result


def points(folder: Path) -> dict[str, dict[int, float]]:
    """Name, step and value of what TensorBoard would show: events before a restart are dropped from its step on."""
    shown: dict[str, dict[int, float]] = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            length = struct.unpack("<Q", data[:8])[0]
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.HasField("session_log"):
                shown = {name: {s: x for s, x in at.items() if s < event.step} for name, at in shown.items()}
            for value in event.summary.value:
                assert event.step not in shown.setdefault(value.tag, {}), f"{value.tag} has step {event.step} twice"
                shown[value.tag][event.step] = value.simple_value
    return shown


class FakeWandB(ModuleType):
    """Stands for the package: keeps what it is given, and fails where it is told to."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.inits: list[dict[str, Any]] = []
        self.logged: list[tuple[str, int, dict[str, float]]] = []
        self.ended: list[int] = []
        self.fails = ""
        self.Settings = SimpleNamespace

    def init(self, **options: Any) -> Any:
        self._do("init", lambda: self.inits.append(options))
        log, finish = self.logged.append, self.ended.append
        return SimpleNamespace(
            log=lambda result, step: self._do("log", lambda: log((options["id"], step, result))),
            finish=lambda exit_code: self._do("finish", lambda: finish(exit_code)),
        )

    def _do(self, deed: str, action: Callable[[], None]) -> None:
        if self.fails == deed:
            raise ConnectionError(f"no network for {deed}\nat all")
        action()


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandB:
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: fake if name == "wandb" else find(name))
    return fake


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The lines of a run without sinks."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    assert train(folder) == 0
    return metrics.read(folder / "metrics.jsonl")


def test_a_run_that_goes_on_repeats_nothing(tmp_path: Path, wandb: FakeWandB, plain: list[dict[str, Any]]) -> None:
    """A crash after step 500 was written and before it was saved: all that came after the checkpoint comes again."""
    folder = tmp_path / "run"
    with at_line(500, crash), pytest.raises(Crash):
        train(folder, "--tensorboard", "--wandb")
    assert max(points(folder)["train/critic_loss"]) == 500
    assert cli.main(["train", "--resume", str(folder), "--quiet"]) == 0  # config.json remembers the flags
    lines = metrics.read(folder / "metrics.jsonl")
    assert [numbers(line) for line in lines] == [numbers(line) for line in plain]
    wanted = {line["run_step"]: line["train/critic_loss"][0] for line in lines if "train/critic_loss" in line}
    assert points(folder)["train/critic_loss"] == pytest.approx(wanted, rel=1e-6)
    first, again = (given["id"] for given in wandb.inits)
    assert first == again
    assert wandb.inits[0]["settings"].finish_timeout == loggers.PATIENCE_S  # a lost network holds no run up for ever
    assert wandb.inits[0]["config"]["agent"] == "sac" and wandb.inits[0]["resume"] == "allow"
    assert [(who, step) for who, step, _ in wandb.logged] == [(first, line["run_step"]) for line in lines]
    assert wandb.logged[-1][2]["eval/return_mean"] == lines[-1]["eval/return_mean"]
    assert wandb.ended == [1, 0]


@pytest.mark.parametrize("deed", ["init", "log", "finish"])
def test_losing_wandb_loses_nothing_else(deed: str, tmp_path: Path, wandb: FakeWandB) -> None:
    """Whatever of it fails: one warning, the event files go on, and nothing is raised."""
    wandb.fails = deed
    warned: list[str] = []
    with loggers.Sinks(config.resolve("sac", ENV, tensorboard=True, wandb=True), tmp_path, -1, warned.append) as both:
        for step in (1, 2):
            both.write({"run_step": step, "train/loss": [0.5]})
    assert warned == [f"--wandb: ConnectionError: no network for {deed}; the run goes on without it"]
    assert points(tmp_path) == {"train/loss": {1: 0.5, 2: 0.5}}
    assert len(wandb.logged) == (2 if deed == "finish" else 0)


@pytest.mark.parametrize("planted", ["", "deep/file"])
def test_planted_links_are_not_followed(planted: str, tmp_path: Path, wandb: FakeWandB) -> None:
    """Those inside of the folder, as W&B itself makes them, are left alone."""
    (tmp_path / "elsewhere").mkdir()
    for name in ("wandb", "tensorboard"):
        inside = tmp_path / "fine" / name / "deep"
        inside.mkdir(parents=True)
        (inside.parent / "latest").symlink_to("deep")
        place = tmp_path / "run" / name / planted
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(tmp_path / "elsewhere")
    chosen, warned = config.resolve("sac", ENV, tensorboard=True, wandb=True), list[str]()
    for folder, count in (("fine", 0), ("run", 2)):
        with loggers.Sinks(chosen, tmp_path / folder, -1, warned.append) as both:
            both.write({"run_step": 1, "train/loss": [0.5]})
        assert len(warned) == count and all("leads elsewhere" in line for line in warned)
    assert not list((tmp_path / "elsewhere").iterdir()) and len(wandb.inits) == 1


def test_without_the_package(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """One line, before anything is made."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert train(tmp_path / "run", "--wandb") == 2
    said = f"rlx: --wandb: needs the package wandb; {install('wandb')}, or leave it out\n"
    assert capsys.readouterr().err == said and not (tmp_path / "run").exists()
    with pytest.raises(RlxError, match="needs the package wandb"):
        loggers.check(config.resolve("sac", ENV, wandb=True))
    loggers.check(run_config := config.resolve("sac", ENV, tensorboard=True))
    assert saver.identity(config.resolve("sac", ENV)) == saver.identity(
        run_config
    )  # where metrics go is not what a run is
    with loggers.Sinks(None, tmp_path / "none", -1, pytest.fail) as nothing:  # other processes write nothing
        nothing.write({"run_step": 3})
    assert not (tmp_path / "none").exists()
