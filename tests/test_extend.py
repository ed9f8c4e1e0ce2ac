"""A run is made longer: it ends in the bits of one that was as long from its start."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlx import json_files
from rlx.analysis.diff import differences
from rlx.commands import main as cli
from rlx.runs import checkpoint, metrics
from tests import damage, kill
from tests.commands import Capture
from tests.kill_cases import write_dataset
from tests.test_resume import LINES, SETTINGS, Crash, assert_same_run, at_line, crash, resume, state_of

pytestmark = pytest.mark.usefixtures("reuse_programs")

SHORT, LONG = "--total-env-steps 300", "--total-env-steps 600"  # SETTINGS have a log point every 100


def train(folder: Path, more: str = "", agent: str = "sac", settings: str = SETTINGS) -> Path:
    where = ["--run-dir", str(folder.parent), "--run-name", folder.name]
    assert cli.main(["train", agent, *settings.split(), *where, *more.split()]) == 0
    return folder


def longer(folder: Path, flags: str = LONG) -> int:
    return resume(folder, *flags.split())


def settings_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text())["settings"])


def files(folder: Path) -> dict[Path, bytes]:
    """All that a run wrote, but for how it stands and the pid of who did."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("status.json", "lock")]
    return {path.relative_to(folder): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that had the larger total from its start."""
    return train(tmp_path_factory.mktemp("long") / "run", LONG)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("short") / "run", SHORT)


@pytest.fixture
def short(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to go on with."""
    return shutil.copytree(finished, tmp_path / "run")


def assert_same(folder: Path, long: Path) -> None:
    """In everything that a run writes down, settings included; no line twice."""
    assert_same_run(folder, long)
    assert differences(folder, long) == []
    assert json.loads((folder / "summary.json").read_text())["env_steps"] == settings_of(long)["total_env_steps"]


def test_a_finished_run(short: Path, long: Path, capsys: Capture) -> None:
    """Goes on after its last line; its pages and summary are the longer run's. Once more is no error."""
    before, rollout = (short / "metrics.jsonl").read_text(), (short / "rollout.html").read_text()
    assert longer(short) == 0
    assert capsys.readouterr().err == ""
    assert (short / "metrics.jsonl").read_text().startswith(before)
    assert [line["run_step"] for line in metrics.read(short / "metrics.jsonl")] == LINES
    assert (short / "rollout.html").read_text() != rollout
    assert_same(short, long)
    written = files(short)
    assert longer(short) == 0 and files(short) == written
    assert capsys.readouterr().err.startswith(f"rlx: {short}: is finished; to make it longer: ")


def test_twice(short: Path, long: Path) -> None:
    """And how it runs is for that time only, as ever."""
    assert longer(short, "--total-env-steps 400 --keep 5") == 0
    assert (settings_of(short)["total_env_steps"], settings_of(short)["keep"]) == (400, 2)
    assert longer(short) == 0
    content = json.loads((short / "config.json").read_text())
    assert [shorter["total_env_steps"] for shorter in content["extended"]] == [300, 400]
    (difference,) = differences(short, long)  # 400 was an end, which is evaluated
    assert difference.startswith("metrics.jsonl, step 400: ") and "eval/return_mean is -" in difference
    assert kill.result(short)["digest"] == kill.result(long)["digest"]


@pytest.mark.parametrize("run_step", [200, 100])
def test_an_interrupted_run(run_step: int, tmp_path: Path, long: Path, capsys: Capture) -> None:
    """Without a checkpoint it begins again, and nothing was begun that would keep its pace."""
    with at_line(run_step, crash), pytest.raises(Crash):
        train(tmp_path / "run", SHORT)
    assert longer(tmp_path / "run") == 0
    assert ("holds no full checkpoint; beginning again\n" in capsys.readouterr().err) == (run_step == 100)
    assert_same(tmp_path / "run", long)


def kill_at_write(monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    """A kill just before, or just after, config.json is replaced."""
    write = json_files.write

    def written(path: Path, content: dict[str, Any]) -> None:
        if path.name != "config.json" or after:
            write(path, content)
        if path.name == "config.json":
            raise Crash

    monkeypatch.setattr(json_files, "write", written)


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_while_it_becomes_longer(after: bool, short: Path, finished: Path, long: Path, monkeypatch: Any) -> None:
    """Leaves the one or the other run, and resuming goes to its end."""
    with monkeypatch.context() as patch, pytest.raises(Crash):
        kill_at_write(patch, after)
        longer(short)
    assert settings_of(short) == settings_of(long if after else finished)
    assert not (short / "summary.json").exists()
    assert resume(short) == 0
    assert_same(short, long if after else finished)
    if not after:
        assert longer(short) == 0
        assert_same(short, long)


@pytest.mark.slow
@pytest.mark.parametrize("again", [resume, longer])
def test_a_kill_later(again: Callable[[Path], int], short: Path, long: Path) -> None:
    """Before and after the first checkpoint of the longer run; the command that began it goes on, too."""
    for run_step in (400, 500):
        with at_line(run_step, crash), pytest.raises(Crash):
            longer(short) if run_step == 400 else again(short)
    assert checkpoint.steps(short / "resume")[0] >= 200 and state_of(short) == "failed"
    assert again(short) == 0
    assert_same(short, long)
    assert len(json.loads((short / "config.json").read_text())["extended"]) == 1


OPEN = " ".join(SETTINGS.replace("--log-every 100 --eval-every 300 --checkpoint-every 100", "").split())


def test_a_pace_that_was_left_open(tmp_path: Path, capsys: Capture) -> None:
    """Stays: an end in the midst of it is a line and an evaluation more, and no other bit; 605 steps are 608."""
    first = train(tmp_path / "first", "--total-env-steps 605", settings=OPEN)
    uninterrupted = train(tmp_path / "whole", "--total-env-steps 720 --log-every 12 --eval-every 60", settings=OPEN)
    capsys.readouterr()
    assert longer(first, "--total-env-steps 720") == 0
    assert "as often as before, as by --log-every 12 --eval-every 60\n" in capsys.readouterr().err
    assert settings_of(first) == settings_of(uninterrupted)
    extended, direct = (kill.result(folder) for folder in (first, uninterrupted))
    assert extended["digest"] == direct["digest"]
    assert set(extended["policies"]) - set(direct["policies"]) == {"608"}
    others = [line["run_step"] for line in extended["metrics"] if line not in direct["metrics"]]
    assert others == [608, 612]  # the second tells of one iteration
    assert len(extended["metrics"]) == len(direct["metrics"]) + 1


@pytest.mark.slow
def test_roles_at_once(tmp_path: Path) -> None:
    """What lies between the roles goes on, too."""
    settings = f"{SETTINGS} --driver pipelined"
    uninterrupted = train(tmp_path / "whole", LONG, "pql", settings)
    assert longer(train(tmp_path / "first", SHORT, "pql", settings)) == 0
    assert_same(tmp_path / "first", uninterrupted)


@pytest.fixture(scope="module")
def cloning(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Behaviour cloning, of 100 updates by default, into a folder of this name."""
    root = tmp_path_factory.mktemp("cloning")
    write_dataset(root / "data")
    sizes = SETTINGS.replace("--critic-hidden-sizes 8", "--ratio 1:1").replace("--warmup-env-steps 100", "")
    sizes += " --warmup-env-steps 40"
    offline = f"{sizes} --dataset {root / 'data'} --total-env-steps 0 --offline-steps 100 --log-every 50"

    def cloning(name: str, more: str = "") -> Path:
        return train(root / name, more, "bc", offline)

    return cloning


@pytest.mark.parametrize(
    ("name", "total", "pace"), [("offline", "--offline-steps 200", 50), ("online", "--total-env-steps 200", 0)]
)
def test_runs_from_data(name: str, total: str, pace: int, cloning: Callable[..., Path]) -> None:
    """Make more updates, or go on in their environment, where the pace follows from that part's own total."""
    uninterrupted = cloning(f"{name}-whole", f"{total} --eval-every {pace}")
    first = cloning(f"{name}-first", "--eval-every 0")
    assert longer(first, total) == 0
    assert kill.result(first) == kill.result(uninterrupted)
    assert differences(first, uninterrupted) == []


@pytest.mark.slow
def test_a_kill_while_it_makes_more_updates(cloning: Callable[..., Path]) -> None:
    """The same totals once more go on; fewer updates are refused."""
    more = "--offline-steps 200 --total-env-steps 200"
    uninterrupted, first = cloning("more-whole", more), cloning("more-first")
    with at_line(150, crash), pytest.raises(Crash):
        longer(first, more)
    assert longer(first, "--offline-steps 150") == 2 and longer(first, more) == 0
    assert kill.result(first)["digest"] == kill.result(uninterrupted)["digest"]


def test_a_schedule_ends_where_the_run_does(cloning: Callable[..., Path], capsys: Capture) -> None:
    """So it falls anew, and that is said; one that was asked for stays."""
    first, asked = cloning("schedule", "--actor-decay-steps 0"), cloning("asked", "--actor-decay-steps 70")
    capsys.readouterr()
    assert settings_of(first)["actor_decay_steps"] == 100
    assert longer(first, "--offline-steps 200") == 0
    assert f"rlx: {first}: schedules now end at the new end" in capsys.readouterr().err
    assert settings_of(first)["actor_decay_steps"] == 200
    assert longer(asked, "--offline-steps 200") == 0
    assert "learning rate" not in capsys.readouterr().err and settings_of(asked)["actor_decay_steps"] == 70


REFUSED = {
    "--total-env-steps 2e2": "--total-env-steps 200: is less than the run's 300",
    "--total-env-steps 1e20": "--total-env-steps 100000000000000000000: more than 2147483647 vector steps",
    "--total-env-steps more": "--total-env-steps more: must be an integer",
    "--offline-steps 100": "--offline-steps 100: the run goes on in its environment; raise --total-env-steps",
    f"{LONG} --log-every 50": "--log-every: a resumed run keeps its settings",
    f"{LONG} --seed 1": "--seed: a resumed run keeps its settings",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_refusals(flags: str, finished: Path, capsys: Capture) -> None:
    """In one line, and nothing is changed."""
    before, stands = files(finished), (finished / "status.json").read_text()
    assert longer(finished, flags) == 2
    said = capsys.readouterr().err
    assert REFUSED[flags] in said and said.startswith("rlx: ") and said.count("\n") == 1, said
    assert files(finished) == before and (finished / "status.json").read_text() == stands


SPOILT: dict[str, Callable[[Path, Path], Any]] = {
    "holds no full checkpoint to go on from": lambda run, long: shutil.rmtree(run / "resume"),
    "; begin another": lambda run, _: [path.write_text("{") for path in run.glob("resume/*/manifest.json")],
    "is part of a sweep or study, whose runs": lambda run, long: (run.parent / "sweep.json").write_text("{}"),
    "holds another run's": lambda run, long: shutil.copytree(long / "resume", run / "resume", dirs_exist_ok=True),
    "is not as the run wrote": lambda run, _: damage.edit_json(run / "config.json", settings={"total_env_steps": 600}),
}


@pytest.mark.parametrize("words", SPOILT)
def test_a_finished_run_that_cannot_go_on(words: str, short: Path, long: Path, capsys: Capture) -> None:
    """It stays as it is, but for checkpoints that are set aside."""
    SPOILT[words](short, long)
    before = {name: content for name, content in files(short).items() if name.parts[0] != "resume"}
    assert longer(short, "--total-env-steps 900") == 2
    assert words in capsys.readouterr().err
    assert {name: content for name, content in files(short).items() if name.parts[0] != "resume"} == before
