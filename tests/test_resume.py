"""Nothing is lost: whatever ends a run, and wherever, resuming it gives the bits of a run that nothing ended."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rlx import build, config
from rlx.analysis.diff import numbers
from rlx.commands import main as cli
from rlx.errors import RlxError
from rlx.runs import checkpoint, metrics, saver
from rlx.runs.console import Console
from rlx.runs.signals import Interrupts
from rlx.train.loop import Resumed
from tests import damage, kill, kill_points, processes
from tests.commands import Capture
from tests.kill_cases import CASES, Case

pytestmark, ORBAX = pytest.mark.usefixtures("reuse_programs"), True

SETTINGS = (
    "--env gymnax:Pendulum-v1 --num-envs 4 --total-env-steps 600 --warmup-env-steps 100 --log-every 100"
    " --eval-every 300 --checkpoint-every 100 --eval-episodes 4 --ratio 2:1 --batch-size 8 --replay-capacity 400"
    " --pool-size 4 --actor-hidden-sizes 8 --critic-hidden-sizes 8 --quiet"
)
LINES = [100, 104, 200, 300, 400, 500, 600]  # run_steps of metrics.jsonl


class Crash(BaseException):
    """As sudden as a kill, but within this process."""


@contextmanager
def at_line(run_step: int, deed: Callable[[], None]) -> Iterator[None]:
    """Does `deed` when the line of that step was written, before anything is saved there."""
    show = Console.show

    def shown(console: Console, line: dict[str, Any]) -> None:
        show(console, line)
        if line["run_step"] == run_step:
            deed()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Console, "show", shown)
        yield


def crash() -> None:
    raise Crash


def train(folder: Path, *more: str) -> int:
    where = ["--run-dir", str(folder.parent), "--run-name", folder.name]
    return cli.main(["train", "sac", *SETTINGS.split(), *where, *more])


def resume(folder: Path, *more: str) -> int:
    return cli.main(["train", "--resume", str(folder), "--quiet", *more])


def state_of(folder: Path) -> str:
    return json.loads((folder / "status.json").read_text())["state"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing ended."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    assert train(folder) == 0
    assert [line["run_step"] for line in metrics.read(folder / "metrics.jsonl")] == LINES
    return folder


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended without warning after step 400, where nothing newer than 300 need be saved."""
    folder = tmp_path_factory.mktemp("crashed") / "run"
    with at_line(400, crash), pytest.raises(Crash):
        train(folder)
    assert state_of(folder) == "failed" and checkpoint.steps(folder / "resume")[-1] == 300
    return folder


@pytest.fixture
def broken(crashed: Path, tmp_path: Path) -> Path:
    """A copy of it, to go on with."""
    return shutil.copytree(crashed, tmp_path / "run")


def assert_same_run(folder: Path, reference: Path) -> None:
    """Metrics, policies and everything else, to the bit; no line twice and none too many."""
    assert kill.result(folder) == kill.result(reference)
    assert state_of(folder) == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.agent}-{case.driver}")
def test_kills_at_random_moments(case: Case, tmp_path: Path) -> None:
    """Of a shorter run than `make torture` kills; the fused driver's twice."""
    case = case._replace(flags=case.flags.replace("steps 2400", "steps 1200"))
    kills = 2 if case.driver == "fused" else 1
    tortured = kill.torture(case, tmp_path, kills, seed=1, cold=0.0)
    assert not tortured.differences and tortured.identical == kills, tortured.differences


@pytest.mark.slow
def test_kills_at_chosen_points_with_a_reader_beside_them() -> None:
    """`python -m tests.kill_points` has them all."""
    assert kill_points.main("--kills 1 --only metrics --only collect".split()) == 0


def test_a_crash(broken: Path, reference: Path, capsys: Capture) -> None:
    """The line after the last checkpoint is written again, not twice."""
    assert [line["run_step"] for line in metrics.read(broken / "metrics.jsonl")] == LINES[:5]
    assert resume(broken) == 0
    assert_same_run(broken, reference)
    assert capsys.readouterr().err == ""
    assert json.loads((broken / "summary.json").read_text())["restore_s"] > 0


def test_a_crash_after_the_last_checkpoint(tmp_path: Path, reference: Path) -> None:
    """All is learnt and saved, only the summary is missing, or only the status was not written."""
    folder = shutil.copytree(reference, tmp_path / "run")
    (folder / "summary.json").unlink()
    assert resume(folder) == 0
    assert_same_run(folder, reference)
    first, second = (json.loads((run / "summary.json").read_text()) for run in (reference, folder))
    assert first["time_to_first_update_s"] == second["time_to_first_update_s"]
    (folder / "status.json").write_text('{"state": "running", "reason": ""}')
    assert resume(folder) == 0 and state_of(folder) == "finished"


def test_a_finished_run_is_left_alone(reference: Path, capsys: Capture) -> None:
    before = {path: path.stat().st_mtime_ns for path in reference.rglob("*") if path.is_file()}
    assert resume(reference) == 0
    remedy = f"to make it longer: `rlx train --resume {reference} --total-env-steps N`, with N over 600"
    assert capsys.readouterr().err == f"rlx: {reference}: is finished; {remedy}\n"
    assert {path: path.stat().st_mtime_ns for path in reference.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_bits(tmp_path: Path, reference: Path) -> None:
    """And one that compiles everything anew."""
    arguments = ["rlx", "train", "sac", *SETTINGS.split(), "--run-dir", str(tmp_path), "--run-name", "run"]
    process = kill.start(arguments, 1, tmp_path / "log", cache=tmp_path / "cache")
    assert process.wait(120) == 0, kill.tail(tmp_path / "log")
    assert_same_run(tmp_path / "run", reference)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal(number: signal.Signals, code: int, tmp_path: Path, reference: Path, capfd: Capture) -> None:
    """Saves, says where, and ends with the code that belongs to it."""
    folder, before = tmp_path / "run", signal.default_int_handler
    outer = signal.signal(number, before)  # under nohup, SIGHUP would be ignored
    with at_line(200, lambda: os.kill(os.getpid(), number)):
        assert train(folder) == code
    assert signal.signal(number, outer) is before
    said = capfd.readouterr().err.splitlines()
    assert said[0] == f"rlx: {number.name}: saving, then leaving; once more leaves at once"
    step = checkpoint.steps(folder / "resume")[-1]
    assert said[1:] == [f"rlx: saved at step {step} in {folder}; go on with `rlx train --resume {folder}`"]
    assert 200 < step < 600 and state_of(folder) == "interrupted"
    if number == signal.SIGTERM:  # all are saved alike
        assert resume(folder) == 0
        assert_same_run(folder, reference)


def test_a_hang_up_that_is_ignored_stays_so() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupts.asked() and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.parametrize(("output", "reason"), [("| true", "Broken pipe"), ("> /dev/full", "No space left on device")])
def test_a_lost_output_ends_no_run(output: str, reason: str, tmp_path: Path, reference: Path) -> None:
    """It is said once, the run goes on, and ends as ever."""
    where = f"--run-dir {tmp_path} --run-name run".split()
    arguments = [sys.executable, "-m", "rlx", "train", "sac", *SETTINGS.split()[:-1], *where]  # not --quiet
    command = f"set -o pipefail; {shlex.join(arguments)} {output}"
    environ, words = processes.environment(1), ["bash", "-c", command]
    done = subprocess.run(words, cwd=processes.ROOT, env=environ, capture_output=True, text=True, timeout=240)
    lines = done.stderr.splitlines()
    assert done.returncode == 0 and len(lines) == 1, done.stderr
    assert reason in lines[0] and "the run goes on" in lines[0]
    assert_same_run(tmp_path / "run", reference)


SLOW_SAVE = """
import sys, time
from rlx.commands import main as cli
from rlx.runs import checkpoint
save = checkpoint.save
def slow(folder, step, *given):
    if step > 200 and 'resume' in str(folder):
        print('saving', flush=True)
        time.sleep(100)
    return save(folder, step, *given)
checkpoint.save = slow
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_second_signal_leaves_at_once(tmp_path: Path, reference: Path) -> None:
    """In the middle of a save; the step before it is whole."""
    where = ["--run-dir", str(tmp_path), "--run-name", "run"]
    command = [sys.executable, "-c", SLOW_SAVE, "train", "sac", *SETTINGS.split(), *where]
    pipe, environ = subprocess.PIPE, processes.environment(1)
    process = subprocess.Popen(command, cwd=processes.ROOT, env=environ, text=True, stdout=pipe, stderr=pipe)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "saving\n"
    process.send_signal(signal.SIGTERM)
    assert "once more leaves at once" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    code, _, errors = processes.finish(process, timeout=10)
    assert (code, errors) == (143, "rlx: SIGTERM again: leaving at once; the last checkpoint is intact\n")
    assert checkpoint.newest(tmp_path / "run" / "resume", pytest.fail) == 200
    assert resume(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", reference)


def test_a_damaged_line_of_metrics_is_said(broken: Path, capsys: Capture) -> None:
    """And vanishes."""
    lines = (broken / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (broken / "metrics.jsonl").write_bytes(b"".join([lines[0], b"\xff" + lines[1], *lines[2:]]))
    assert resume(broken) == 0
    assert capsys.readouterr().err.startswith(f"rlx: {broken}/metrics.jsonl, line 2: is damaged")
    assert [line["run_step"] for line in metrics.read(broken / "metrics.jsonl")] == [100, *LINES[2:]]


def test_damaged_and_unfinished_checkpoints(broken: Path, reference: Path, capsys: Capture) -> None:
    """Are set aside with a warning; the run goes on from the step before, and saves these again."""
    largest = max((broken / "resume" / "300" / "default" / "d").iterdir(), key=lambda path: path.stat().st_size)
    damage.flip(largest, 1000)
    (broken / "resume" / "400").mkdir()  # without a manifest, and Orbax's temporary folder: as a kill leaves them
    (broken / "resume" / "400.orbax-checkpoint-tmp").mkdir()
    (broken / "metrics.jsonl").open("a").write('{"run_step": 50')
    assert resume(broken) == 0
    said = capsys.readouterr().err
    assert f"rlx: {largest}: is damaged; set aside as damaged-300, going on with the step before\n" in said
    assert "400: has no manifest.json; set aside as unfinished-400 until that step or a later one is saved\n" in said
    assert_same_run(broken, reference)
    assert [path.name for path in (broken / "resume").iterdir() if not path.name.isdecimal()] == ["damaged-300"]


def test_other_numerics_are_said(broken: Path, reference: Path, capsys: Capture) -> None:
    """The run goes on, since results are as good."""
    changes: dict[str, Any] = {"jax_default_prng_impl": "rbg", "jax_threefry_partitionable": False}
    changes |= {"jax_default_matmul_precision": "highest", "xla_flags": "--xla_cpu_enable_fast_math=true"}
    damage.edit_json(broken / "config.json", numerics=changes)
    assert resume(broken) == 0
    said = capsys.readouterr().err
    assert said.startswith("rlx: resumed elsewhere (") and said.count("\n") == 1, said
    assert all(f"{name} {value} is now " in said for name, value in changes.items()), said
    assert_same_run(broken, reference)


def test_keys_that_collide_are_refused() -> None:
    with jax.default_prng_impl("unsafe_rbg"), pytest.raises(RlxError, match="derived keys collide"):
        build.setup(config.resolve("sac", "gymnax:Pendulum-v1"))


def edit(**changes: Any) -> Callable[[Path], None]:
    return lambda run: damage.edit_json(run / "config.json", **changes)


def resign(run: Path, **changes: Any) -> None:
    """The checkpoint of another run, or with other changes to its manifest."""
    about = damage.read_manifest(run / "resume" / "300")["about"] | {"identity": "another"}
    damage.write_manifest(run / "resume" / "300", about=about, **changes)


REFUSED: list[tuple[Callable[[Path], Any], str]] = [
    (shutil.rmtree, ": does not exist; give a folder that `rlx train` made"),
    (edit(settings={"seed": 1}), "/config.json: is not as the run wrote it; restore it from a copy"),
    (edit(numerics={"jax_enable_x64": True}), ": began with JAX_ENABLE_X64=1 and cannot go on *"),
    (edit(init_from=3), "/config.json: is damaged (init_from is no text); restore *"),
    (lambda run: (run / "config.json").write_text("{"), "/config.json: is damaged (*); restore it from a copy"),
    (resign, "/resume: holds another run's checkpoints; restore those of */run"),
    (partial(resign, format=2), "/resume/300: was written by rlx * in another format; use that version"),
]


@pytest.mark.parametrize(("hurt", "message"), REFUSED)
def test_what_cannot_be_resumed(hurt: Callable[[Path], Any], message: str, broken: Path, capsys: Capture) -> None:
    """Is refused in one line, and nothing is changed."""
    hurt(broken)
    steps = checkpoint.steps(broken / "resume")
    assert resume(broken) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and fnmatchcase(said.removeprefix(f"rlx: {broken}").rstrip("\n"), message), said
    assert checkpoint.steps(broken / "resume") == steps


@pytest.mark.parametrize(
    ("agent", "changes", "leaf"),
    [
        ("sac", {"critic_hidden_sizes": [16]}, "critic"),
        ("pql", {}, "*"),
        ("sac", {"replay_dtype": "bfloat16"}, ".rows"),
        ("sac", {"num_seeds": 2}, "*"),
    ],
)
def test_the_checkpoint_of_another(agent: str, changes: dict[str, Any], leaf: str, crashed: Path) -> None:
    """Network, agent, type or members: refused, naming the first leaf that differs."""
    saved = config.from_json(crashed / "config.json")
    known = config.settings(agent)
    settings = {name: value for name, value in config.flat(saved).items() if name in known} | changes
    driver = build.make_driver(build.setup(config.resolve(agent, saved.env, **settings)))
    with pytest.raises(RlxError) as error:
        saver.unpack(crashed / "resume", 300, driver)
    message = f"*/resume/300: [[]*{leaf}* is * in the checkpoint but * here; the run has another agent or networks"
    assert fnmatchcase(str(error.value), message), error.value


def test_without_replay(tmp_path: Path, reference: Path, capfd: Capture) -> None:
    """It says what is lost; a resumed run fills a new one, and ends."""
    folder, warning = tmp_path / "run", "rlx: replay is not saved: a resumed run collects the warm-up's steps into an"
    with at_line(300, crash), pytest.raises(Crash):
        train(folder, "--no-checkpoint-replay")
    assert capfd.readouterr().err.startswith(warning)
    leaves = checkpoint.manifest(folder / "resume", 200)["leaves"]
    assert not any(".rows" in name for name in leaves) and any("replay.cursor" in name for name in leaves)
    assert resume(folder) == 0
    assert capfd.readouterr().err.startswith(warning)
    lines, others = (metrics.read(run / "metrics.jsonl") for run in (folder, reference))
    assert [line["run_step"] for line in lines] == LINES
    assert [numbers(line) for line in lines[:3]] == [numbers(line) for line in others[:3]]
    # the 25th iteration after step 200 has as much in its replay as the warm-up gave it
    assert (lines[-1]["critic_step"], others[-1]["critic_step"]) == (202, 250)


@pytest.mark.slow
def test_on_other_devices(tmp_path: Path) -> None:
    """Four, then two, then four again: resumed each time, told that bits may differ, and equal but for rounding."""
    output = processes.run(["tests.check_resume", str(tmp_path)], devices=4)
    assert output.splitlines()[-1] == "resumed on 2 and on 4"


def test_whole_states_do_not_know_devices(crashed: Path) -> None:
    """What was saved holds no axis of devices, and comes back as it was."""
    saved = config.from_json(crashed / "config.json")
    driver = build.make_driver(build.setup(saved))
    resumed: Resumed = saver.unpack(crashed / "resume", 300, driver)
    state, totals = driver.place_training_state(resumed.training_state)
    jax.tree.map(np.testing.assert_array_equal, driver.training_state(state, totals), resumed.training_state)
    assert (resumed.iteration, resumed.learned) == (75, 50)
