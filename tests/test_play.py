"""Playing a checkpoint: the episodes are those that judge it, pages and films show them, and mistakes get one line."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx.analysis import play
from rlx.errors import RlxError
from rlx.runs import policies
from rlx.train import acting
from rlx.train.loop import Driver
from rlx.visual import viewer
from tests import damage, saved_runs
from tests.browser import browser
from tests.commands import Capture, MonkeyPatch, Refused, Say
from tests.scenes import check_offline, embedded, episode, unpack

PENDULUM, REACHER = "gymnax:Pendulum-v1", "gymnax:Reacher-misc"


def make_run(folder: Path, env: str = PENDULUM) -> Driver:
    sizes = {"actor_hidden_sizes": [8], "critic_hidden_sizes": [8]}
    return saved_runs.make_run(folder, "sac", env, (40, 80), seed=5, eval_episodes=3, **sizes)


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Driver]:
    folder = tmp_path_factory.mktemp("pendulum")
    return folder, make_run(folder)


@pytest.fixture(scope="module")
def reacher(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Driver]:
    folder = tmp_path_factory.mktemp("reacher")
    return folder, make_run(folder, REACHER)


def test_played_episodes_equal_those_of_the_evaluation(pendulum: tuple[Path, Driver]) -> None:
    """Of every member, in order: returns, lengths, and poses at the start."""
    folder, driver = pendulum
    judged = driver.fetch(driver.evaluate(driver.place(policies.load_snapshot(folder, driver))))
    actual = play.play(folder, 3, members=(1, 0))
    assert actual.title == "sac on gymnax:Pendulum-v1" and actual.scene is not None
    assert [one["label"] for one in actual.episodes] == [f"seed {s}, episode {i}" for s in (6, 5) for i in (1, 2, 3)]
    returns = [one["return"] for one in actual.episodes]
    np.testing.assert_allclose(returns, np.concatenate([judged.returns[1], judged.returns[0]]), rtol=1e-5)
    assert all(one["poses"].shape == (200, 1, 7) for one in actual.episodes)
    np.testing.assert_allclose(actual.episodes[0]["poses"][0], judged.recording["view"][1, 0, 0], atol=1e-6)
    np.testing.assert_allclose([one["rewards"].sum() for one in actual.episodes], returns, rtol=1e-4)


@pytest.mark.parametrize("flag", ["--out", "--gif"])
def test_a_place_that_cannot_be_written_is_said_first(
    flag: str, pendulum: tuple[Path, Driver], refused: Refused
) -> None:
    place = f"/proc/play.{'gif' if flag == '--gif' else 'html'}"
    words = refused("play", pendulum[0], *([] if flag == "--out" else ["--out", "play.html"]), flag, place)
    assert words == f"{place}: cannot be written (No such file or directory); choose another {flag}"


def test_labels_distinguish_members_by_hyper_parameters(pendulum: tuple[Path, Driver], tmp_path: Path) -> None:
    """By what was varied, as `rlx compare` does: their seeds are the same."""
    shutil.copytree(pendulum[0] / "checkpoints", tmp_path / "checkpoints")
    shutil.copy(pendulum[0] / "config.json", tmp_path)
    damage.edit_json(tmp_path / "config.json", settings={"num_seeds": 1, "tau": [0.1, 0.2]})
    result = play.play(tmp_path, 1, members=(0, 1))
    assert [one["label"] for one in result.episodes] == [f"tau={tau}, seed 5, episode 1" for tau in (0.1, 0.2)]


def test_step_and_eval_seed_change_the_episodes(pendulum: tuple[Path, Driver]) -> None:
    folder, driver = pendulum
    first, others = (play.play(folder, 1, **options) for options in ({"step": 40}, {"step": 80, "eval_seed": 3}))
    judged = driver.fetch(driver.evaluate(driver.place(policies.load_snapshot(folder, driver, 40))))
    assert first.title.endswith("step 40")
    assert first.episodes[0]["return"] == pytest.approx(float(judged.returns[0, 0]), rel=1e-5)
    assert not np.allclose(others.episodes[0]["poses"][0], first.episodes[0]["poses"][0])


def test_without_geometry_observations_are_shown_with_their_actions(reacher: tuple[Path, Driver]) -> None:
    """The actions are what the policy does where it was."""
    folder, driver = reacher
    result = play.play(folder, 1, members=[1])
    (one,) = result.episodes
    assert result.scene is None and "poses" not in one
    act = policies.greedy(driver.task, policies.load_snapshot(folder, driver))
    np.testing.assert_allclose(one["actions"], act(one["observations"], member=1), atol=1e-5)


def test_the_command_writes_a_page(reacher: tuple[Path, Driver], tmp_path: Path, say: Say) -> None:
    path, waits = tmp_path / "new" / "x.html", "(compiling takes 10 s to 2 minutes, the next time less) ..."
    said = say("play", reacher[0], "--episodes", "1", "--out", path)
    assert said.out == f"{path}\n" and said.err == f"playing 1 episode of {reacher[0]}, step 80 {waits}\n"
    page = path.read_text()
    check_offline(page)
    (one,) = embedded(page)["episodes"]
    assert one["label"] == "seed 5, episode 1" and "rlxGrid(" in page
    assert len(unpack(one["actions"])) == len(unpack(one["observations"])) > 1


def test_what_is_played_is_said_before_compiling(pendulum: Any, monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(acting, "evaluate_policy", lambda *args, **more: pytest.fail(capsys.readouterr().err))
    with pytest.raises(pytest.fail.Exception, match=r"^playing 2 episodes of each of 2 members of .*, step 40 \(comp"):
        play.play(pendulum[0], 2, step=40, members=(0, 1))


def test_the_page_is_in_the_run_by_default_and_replaced(tmp_path: Path, monkeypatch: MonkeyPatch, say: Say) -> None:
    """Also where a video was asked for of what cannot be drawn."""
    monkeypatch.setattr(play, "play", lambda *arguments: play.Played("a", None, [episode(5)]))
    for _ in range(2):
        assert say("play", tmp_path).out == f"{tmp_path / 'play.html'}\n"
    assert viewer.is_ours(tmp_path / "play.html")
    with pytest.raises(RlxError, match=r"film.gif: this environment has no geometry to draw; .*play.html shows"):
        play.make(tmp_path, tmp_path / "play.html", [tmp_path / "film.gif"])
    assert viewer.is_ours(tmp_path / "play.html")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--episodes", "0"], "--episodes 0: must be at least 1"),
        (["--episodes", "19", "--member", "0", "1"], "--episodes 19 of 2 members: a page shows 36; ask for fewer"),
        (["--member", "2"], "--member 2: RUN has 0 to 1; choose one of those"),
        (["--member", "1", "1"], "--member 1 1: name each once"),
        (["--step", "41"], "41"),
        (["--out", "RUN/config.json"], "RUN/config.json: already exists and is not a page of rlx"),
        *(
            (["--gif", "a.gif", f"--seconds={x}"], f"--seconds {x}: must be more than 0 and finite")
            for x in ("inf", "nan", 0, -1)
        ),
        (["--gif", "x.mp4"], "--gif x.mp4: the name must end in .gif"),
        (["--mp4", "RUN/none/x.mp4"], "--mp4 RUN/none/x.mp4: folder RUN/none does not exist"),
    ],
)
def test_refusals_are_one_line(arguments: list[str], line: str, pendulum: tuple[Path, Driver], say: Any) -> None:
    folder, _ = pendulum
    said = say("play", folder, *(word.replace("RUN", str(folder)) for word in arguments))
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1) and line.replace("RUN", str(folder)) in said.err


@pytest.mark.browser
def test_a_played_page_opens_in_a_browser(pendulum: tuple[Path, Driver], tmp_path: Path) -> None:
    folder, _ = pendulum
    play.make(folder, tmp_path / "play.html", episodes=2, members=(0, 1))
    with browser(tmp_path / "profile") as page:
        page.open(tmp_path / "play.html")
        early, later = (page.run(f"new Promise((done) => setTimeout(() => done({SEEN}), 400))") for _ in range(2))
    assert not page.complaints
    moved = [a["steps"] < b["steps"] and a["robot"] != b["robot"] for a, b in zip(early, later, strict=True)]
    assert moved == [True] * 4


SEEN = """[...document.querySelectorAll(".pane")].map((pane) => ({
  steps: parseInt(pane.querySelector("p span").textContent.split(" ")[1]),
  robot: pane.querySelector("canvas").toDataURL() }))"""
