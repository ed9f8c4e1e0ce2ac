"""The panel that a terminal shows, at any width, and the lines that anything else gets."""

import contextlib
import errno
import io
import os
from pathlib import Path
from typing import Any

import jax
import pytest
from rich.console import Console as Terminal

from rlx import config, parallel
from rlx.runs import console
from rlx.runs.console import Console, PanelContent, sparkline
from rlx.train.placement import Placement
from tests.commands import Capture

SPARKS: list[Any] = [([], 8, ""), ([5.0], 8, "▁"), ([3.0, 3.0], 8, "▁▁"), ([0.0, 7.0, 3.5], 8, "▁█▅")]
SPARKS += [([0.0, 2.0, 6.0, 8.0], 2, "▁█"), ([0.0, None, 1.0], 8, "▁·█"), ([None, None], 8, "··")]


@pytest.mark.parametrize(("values", "width", "bars"), [*SPARKS, ([*map(float, range(100))], 10, "▁▂▃▃▄▅▆▆▇█")])
def test_sparkline(values: list[float | None], width: int, bars: str) -> None:
    assert sparkline(values, width) == bars


class Lost(io.StringIO):
    """An output that nobody reads any more."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_lost_terminal_is_said_once(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "discard_output", lambda: None)
    terminal = console.Terminal(file=Lost())
    for _ in range(2):
        terminal.print("a line")
    terminal.on_broken_pipe()
    said = capsys.readouterr().err
    assert "the output is lost (Input/output error); the run goes on" in said and said.count("\n") == 1


def line(step: int, **more: Any) -> dict[str, Any]:
    """A line of metrics of two members, 100 steps a second."""
    counts = {"run_step": step, "env_step": step, "critic_step": step // 2, "actor_step": step // 4}
    losses = {"train/critic_loss": [1.0, 2.0], "train/actor_loss": [-3.0, None]}
    return counts | losses | {"wall_time_s": 30 + step / 100, "train_s": 5.0} | more


def shown(panel: PanelContent, width: int) -> list[str]:
    terminal = Terminal(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    terminal.print(panel)
    return terminal.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.fixture
def panel(monkeypatch: pytest.MonkeyPatch) -> PanelContent:
    """A run of two members, half over, at a moment that stands still."""
    monkeypatch.setattr(console.time, "monotonic", lambda: 100.0)
    monkeypatch.setattr(parallel, "memory_in_use", lambda: parallel.Memory(3 * 2**29, 2**36, of_device=True))
    made = PanelContent("sac on x, 2 runs", 2000, 2, 1)
    made.phase = "training"
    made.add(line(0, critic_step=0, actor_step=0))
    made.add(line(500, **{"train/episode_return": [1.0, 2.0], "eval/return_per_seed": [10.0, 20.0]}))
    made.add(line(1000, **{"train/episode_return": [3.0, 4.0]}))
    return made


def test_what_the_panel_says(panel: PanelContent) -> None:
    for words in (
        "sac on x, 2 runs",
        "1,000 of 2,000 steps   0.0 s   10 s left ",  # training goes without saying
        "steps     200/s now  1,000 a run",  # 500 steps of each of two in 5 s
        "updates   100/s now  500 critic, 250 actor",
        "greedy    15.0  ▁  seeds from 10.0 to 20.0",  # of the evaluation before
        "training  3.5  ▁█  seeds from 3.0 to 4.0",
        "losses    of critic 1.5  of actor -",
        "memory    1.5 of 64.0 GiB on the first device",
    ):
        assert words in "\n".join(shown(panel, 80)), words
    for phase in ("evaluating", "saving"):
        panel.phase = phase
        assert f"1,000 of 2,000 steps   0.0 s   {phase}   10 s left " in shown(panel, 80)[2]
    assert "0 of 2,000 steps   0.0 s   compiling" in shown(PanelContent("x", 2000, 1, 1), 60)[2]
    with jax.transfer_guard("disallow"):  # nothing waits for the device
        panel.add(line(1500))
        assert shown(panel, 80)


@pytest.mark.parametrize("width", [20, 50, 80, 200])
def test_the_panel_fits(width: int, panel: PanelContent) -> None:
    """Every row is one line and as wide as the terminal, whatever it has to leave out."""
    rows = shown(panel, width)
    assert {len(row) for row in rows} == {width} and len(rows) == 11


def test_a_terminal_without_such_signs_gets_a_panel(panel: PanelContent) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Terminal(file=file, width=80, force_terminal=True, color_system=None).print(panel)
    file.seek(0)
    assert "greedy    15.0  seeds from 10.0 to 20.0" in file.read()


@pytest.mark.parametrize("error", [None, ValueError("a bug")])
def test_what_is_said_last(error: BaseException | None) -> None:
    """Not what the host was at when it ended."""
    made = Console(config.resolve("sac", "gymnax:Pendulum-v1"), quiet=True)
    with contextlib.suppress(ValueError), made:
        made.begin("saving")
        if error:
            raise error
    assert made._panel.phase == ("stopped" if error else "done")


STEPS = "{} environment steps: {} rounded up to a multiple of {} (one iteration)"
UPDATES = "104 updates on the data set: 100 rounded up to a multiple of 8 (one iteration)"
DATA = {"dataset": "x", "offline_steps": 100}
ROUNDED = [
    ({"total_env_steps": 6400}, []),
    ({"total_env_steps": 20_000}, [STEPS.format("20,032", "20,000", 64)]),
    ({"total_env_steps": 20_000, "rollout_length": 5}, [STEPS.format("20,160", "20,000", 320)]),
    (DATA | {"total_env_steps": 0}, [UPDATES]),
    (DATA | {"total_env_steps": 6400}, [UPDATES]),
]


@pytest.mark.parametrize(("settings", "lines"), ROUNDED)
@pytest.mark.parametrize("quiet", [False, True])
def test_whole_iterations(settings: dict[str, Any], lines: list[str], quiet: bool, capsys: Capture) -> None:
    """Said before anything is compiled, and not when quiet."""
    usual = {"num_envs": 64, "ratio": "8:8", "warmup_env_steps": 640, "offline_steps": 0}
    run_config = config.resolve("iql", "gymnax:Pendulum-v1", **usual | settings)
    with Console(run_config, quiet):
        said = capsys.readouterr().out.splitlines()
    assert said == ([] if quiet else [*lines, "iql on gymnax:Pendulum-v1: compiling"])


def test_plain_lines(capsys: Capture) -> None:
    """Where nobody watches: evaluations alone; and nothing at all when quiet."""
    run_config = config.resolve("sac", "gymnax:Pendulum-v1", num_seeds=2, total_env_steps=12_800)
    for quiet in (False, True):
        with Console(run_config, quiet, part_of="chunk-0 of 3") as made:
            made.show(line(500))
            made.show(line(1000, **{"eval/return_mean": 15.0}))
        wanted = ["chunk-0 of 3: sac on gymnax:Pendulum-v1, 2 members: compiling"]
        wanted += ["    40.0 s         1,000 steps  greedy return 15.0"]
        assert capsys.readouterr().out.splitlines() == ([] if quiet else wanted)


@pytest.mark.parametrize("folder", ["runs/x[/y]", "runs/x[old]", "runs/x[bold]y"])
def test_names_are_shown_as_they_are(folder: str, capsys: Capture) -> None:
    """Brackets are no orders to the terminal."""
    counts = {f"{name}_steps": 10 for name in ("env", "critic", "actor")} | {"eval_episodes": 2}
    rates = {"env_steps_per_s": 1.0, "updates_per_s": 1.0, "wall_time_s": 2.0, "time_to_first_update_s": 1.0}
    spread = {"eval_return_mean": 1.0, "eval_return_interval": [0.0, 2.0], "eval_return_iqm": 1.0}
    with Console(config.resolve("sac", "gymnax:Pendulum-v1", total_env_steps=12_800), quiet=False) as made:
        made._title = folder
        made.finish(counts | rates | spread | {"eval_return_per_seed": [1.0]}, Path(folder))
    said = capsys.readouterr().out
    assert f" {folder} " in said and f" {folder}/rollout.html " in said and f"rlx eval {folder} " in said
    assert said.splitlines()[1].strip() == folder


def test_devices_are_those_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight that are there, the one that it trains on; of a split, those of all roles, each once."""
    monkeypatch.setattr(parallel, "describe", lambda: {"devices": 8, "kind": "abacus"})
    run_config = config.resolve("sac", "gymnax:Pendulum-v1")
    assert Console(run_config, quiet=True)._panel.device == "abacus"
    groups: list[list[Any]] = [["a"], ["b", "c"], ["c"]]
    monkeypatch.setattr(console, "lay_out", lambda train, split: Placement(groups, 1, True))
    assert Console(run_config, quiet=True)._panel.device == "3 x abacus"


def test_memory_in_use() -> None:
    """A device that keeps count is asked; else it is the process's, and says so."""
    result = parallel.memory_in_use()
    assert result is not None and 2**24 < result.used < 2**40
    if jax.default_backend() == "cpu":
        assert str(result).endswith("GiB of the process")
    assert str(parallel.Memory(2**31, None, of_device=True)) == "2.0 GiB on the first device"


def test_many_returns_are_summed_up() -> None:
    assert console._each([1.0, 2.0], ["", ""]) == "1.0, 2.0"
    assert console._each([1.0, 2.0], ["tau=0.1", "tau=0.2"]) == "tau=0.1: 1.0, tau=0.2: 2.0"
    assert console._each([float(i) for i in range(20)], [""] * 20) == "0.0 to 19.0, the middle one 10.0, of 20"
