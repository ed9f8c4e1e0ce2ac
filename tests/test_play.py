"""Playing a checkpoint: the episodes are those that judge it, pages and films show them, and mistakes get one line."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
import pytest
from PIL import Image

from rlx import config
from rlx.analysis import play
from rlx.commands import main as cli
from rlx.errors import RlxError, install
from rlx.runs import policies
from rlx.train import acting
from rlx.train.loop import Driver
from rlx.visual import camera, video, viewer
from tests import saved_runs
from tests.browser import browser
from tests.scenes import SCENE, check_offline, embedded, episode, geom, unpack

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


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of what plays: an episode of an environment that cannot be drawn."""
    monkeypatch.setattr(play, "play", lambda *given: play.Played("a", None, [episode(5)]))


def test_played_episodes_equal_those_of_the_evaluation(pendulum: tuple[Path, Driver]) -> None:
    """Of every member, in order: returns, lengths, and poses at the start."""
    folder, driver = pendulum
    judged = driver.fetch(driver.evaluate(driver.place(policies.load_snapshot(folder, driver))))
    found = play.play(folder, 3, members=(1, 0))
    assert found.title == "sac on gymnax:Pendulum-v1" and found.scene is not None
    assert [one["label"] for one in found.episodes] == [f"seed {s}, episode {i}" for s in (6, 5) for i in (1, 2, 3)]
    returns = [one["return"] for one in found.episodes]
    np.testing.assert_allclose(returns, np.concatenate([judged.returns[1], judged.returns[0]]), rtol=1e-5)
    assert all(one["poses"].shape == (200, 1, 7) for one in found.episodes)
    np.testing.assert_allclose(found.episodes[0]["poses"][0], judged.recording["view"][1, 0, 0], atol=1e-6)
    np.testing.assert_allclose([one["rewards"].sum() for one in found.episodes], returns, rtol=1e-4)


def test_labels_distinguish_members_by_hyper_parameters(pendulum: tuple[Path, Driver], tmp_path: Path) -> None:
    """By what was varied, as `rlx compare` does: their seeds are the same."""
    shutil.copytree(pendulum[0] / "checkpoints", tmp_path / "checkpoints")
    content = json.loads((pendulum[0] / "config.json").read_text())
    content["settings"] |= {"num_seeds": 1, "tau": [0.1, 0.2]}
    (tmp_path / "config.json").write_text(json.dumps(content))
    found = play.play(tmp_path, 1, members=(0, 1))
    assert [one["label"] for one in found.episodes] == [f"tau={tau}, seed 5, episode 1" for tau in (0.1, 0.2)]


def test_step_and_eval_seed_change_the_episodes(pendulum: tuple[Path, Driver]) -> None:
    folder, driver = pendulum
    first, others = (play.play(folder, 1, **given) for given in ({"step": 40}, {"step": 80, "eval_seed": 3}))
    judged = driver.fetch(driver.evaluate(driver.place(policies.load_snapshot(folder, driver, 40))))
    assert first.title.endswith("step 40")
    assert first.episodes[0]["return"] == pytest.approx(float(judged.returns[0, 0]), rel=1e-5)
    assert not np.allclose(others.episodes[0]["poses"][0], first.episodes[0]["poses"][0])


def test_without_geometry_observations_are_shown_with_their_actions(reacher: tuple[Path, Driver]) -> None:
    """The actions are what the policy does where it was."""
    folder, driver = reacher
    found = play.play(folder, 1, members=[1])
    (one,) = found.episodes
    assert found.scene is None and "poses" not in one
    act = policies.greedy(driver.task, policies.load_snapshot(folder, driver))
    np.testing.assert_allclose(one["actions"], act(one["observations"], member=1), atol=1e-5)


def test_the_command_writes_a_page(
    reacher: tuple[Path, Driver], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, waits = tmp_path / "new" / "x.html", "(compiling takes 10 to 40 s, the next time less) ..."
    assert cli.main(["play", str(reacher[0]), "--episodes", "1", "--out", str(path)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{path}\n"
    assert said.err == f"playing 1 episode of {reacher[0]}, step 80 {waits}\n"
    page = path.read_text()
    check_offline(page)
    (one,) = embedded(page)["episodes"]
    assert one["label"] == "seed 5, episode 1" and "rlxGrid(" in page
    assert len(unpack(one["actions"])) == len(unpack(one["observations"])) > 1


def test_play_prints_a_line_before_compiling(
    pendulum: tuple[Path, Driver], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(acting, "evaluate_policy", lambda *given, **more: pytest.fail(capsys.readouterr().err))
    with pytest.raises(pytest.fail.Exception, match=r"^playing 2 episodes of each of 2 members of .*, step 40 \(comp"):
        play.play(pendulum[0], 2, step=40, members=(0, 1))


def test_the_page_is_in_the_run_by_default_and_replaced(
    numbers: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Into the run where nothing else is said; a page of ours is replaced."""
    for _ in range(2):
        assert cli.main(["play", str(tmp_path)]) == 0
        assert capsys.readouterr().out == f"{tmp_path / 'play.html'}\n"
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
        (["--seconds", "0"], "--seconds 0: must be more than 0"),
        (["--gif", "x.mp4"], "--gif x.mp4: the name must end in .gif"),
        (["--mp4", "RUN/none/x.mp4"], "--mp4 RUN/none/x.mp4: folder RUN/none does not exist"),
    ],
)
def test_refusals_are_one_line(
    arguments: list[str], line: str, pendulum: tuple[Path, Driver], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = pendulum
    assert cli.main(["play", str(folder), *(word.replace("RUN", str(folder)) for word in arguments)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and line.replace("RUN", str(folder)) in said.err


def test_a_folder_without_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(RlxError, match="is not a run folder"):
        play.play(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config.to_json(config.resolve("sac", PENDULUM))))
    with pytest.raises(RlxError, match="checkpoint"):
        play.play(tmp_path)


def test_videos_need_geometry(numbers: None, tmp_path: Path) -> None:
    """The page is there nevertheless."""
    with pytest.raises(RlxError, match=r"film.gif: this environment has no geometry to draw; .*play.html shows"):
        play.make(tmp_path, tmp_path / "play.html", [tmp_path / "film.gif"])
    assert viewer.is_ours(tmp_path / "play.html")


# Films


def test_rotations_are_mujocos() -> None:
    for quaternion in np.random.default_rng(0).normal(size=(5, 4)):
        unit, expected = quaternion / np.linalg.norm(quaternion), np.zeros(9)
        mujoco.mju_quat2Mat(expected, unit)
        np.testing.assert_allclose(camera.matrix(quaternion).reshape(-1), expected, atol=1e-12)


def test_geoms_are_carried_by_their_links() -> None:
    """By hand: a link at (1, 2, 3), turned a quarter about z, carries x to y."""
    poses = np.array([[0, 0, 0, 1, 0, 0, 0], [1, 2, 3, np.sqrt(0.5), 0, 0, np.sqrt(0.5)]])
    position, rotation = camera.placed(geom("box", [1.0, 1.0, 1.0], 1, (0.5, 0, 0)), poses)
    np.testing.assert_allclose(position, [1, 2.5, 3], atol=1e-12)
    np.testing.assert_allclose(rotation, [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)
    position, _ = camera.placed(geom("box", [1.0, 1.0, 1.0], -1, (0.5, 0, 0)), poses)
    np.testing.assert_array_equal(position, [0.5, 0, 0])


def test_fill_adds_all_geoms_except_planes() -> None:
    """With the sizes that its own models have; needs nothing to draw with."""
    bodies = """<geom type="sphere" size=".2"/><geom type="capsule" size=".08 .3"/><geom type="box" size=".1 .2 .1"/>
      <geom type="cylinder" size=".1 .2"/><geom type="ellipsoid" size=".1 .2 .1"/>"""
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody><body><freejoint/>{bodies}</body></worldbody></mujoco>")
    data, option = mujoco.MjData(model), mujoco.MjvOption()
    mujoco.mj_forward(model, data)
    theirs, ours = (mujoco.MjvScene(model, maxgeom=20) for _ in range(2))
    mujoco.mjv_updateScene(model, data, option, None, mujoco.MjvCamera(), mujoco.mjtCatBit.mjCAT_ALL, theirs)
    geoms: Any = SCENE["geoms"]
    poses = episode(3)["poses"][2]
    video.fill(ours, geoms, poses)
    assert ours.ngeom == theirs.ngeom == 5
    for own, other, given in zip(ours.geoms, theirs.geoms, geoms[1:], strict=False):
        assert own.type == other.type and own.category == other.category
        np.testing.assert_allclose(own.size, other.size)
        np.testing.assert_allclose(own.pos, camera.placed(given, poses)[0], atol=1e-6)
        np.testing.assert_allclose(own.rgba, [0.9, 0.2, 0.1, 1])


def test_the_camera_follows_a_walking_robot_and_is_fixed_otherwise() -> None:
    walking, standing = episode(200)["poses"], episode(200)["poses"] * np.array([0, 1, 1, 1, 1, 1, 1])
    centres, distance = camera.camera_path(SCENE, walking, (240, 320))
    assert centres.shape == (200, 3) and centres[150, 0] - centres[50, 0] == pytest.approx(5, abs=0.2)
    assert 1.5 < distance < 4
    still, _ = camera.camera_path(SCENE, standing, (240, 320))
    assert (still == still[0]).all()


def test_the_ground_is_a_plane_or_just_below_all_geoms() -> None:
    one = episode(5)
    assert camera.ground(SCENE, [one]) == 0
    floating = {"geoms": [geom("sphere", [0.2], 0), geom("capsule", [0.1, 0.3], 1)]}
    assert camera.ground(floating, [one]) == pytest.approx(0.5 - 0.4)


@pytest.mark.parametrize(("count", "size"), [(1, (2, 3)), (2, (2, 6)), (3, (4, 6)), (5, (4, 9))])
def test_pictures_side_by_side(count: int, size: tuple[int, int]) -> None:
    whole = video.tile([np.full((2, 3, 3), i + 100, np.uint8) for i in range(count)])
    assert whole.shape == (*size, 3)
    assert (whole[-1, -1] == (100 + count - 1 if count in (1, 2) else (28, 35, 48))).all()
    assert whole[0, 0, 0] == 100 and {*np.unique(whole)} >= {*range(100, 100 + count)}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Pictures without a renderer: one colour a frame. Holds which moments were asked for."""
    asked: list[list[int]] = []

    def pictures(scene: Any, episodes: Any, moments: Any, size: tuple[int, int]) -> Any:
        asked.append(list(moments))
        return (np.full((*size, 3), 10 * i, np.uint8) for i, _ in enumerate(moments))

    monkeypatch.setattr(video, "render", pictures)
    return asked


@pytest.mark.parametrize(
    ("dt", "seconds", "moments", "duration"),
    [(0.05, 10.0, list(range(20)), 50), (0.05, 0.25, list(range(5)), 50), (0.02, 0.3, [0, 3, 6, 9, 12], 60)],
)
def test_a_gif(
    dt: float,
    seconds: float,
    moments: list[int],
    duration: int,
    drawn: list[list[int]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As long as asked at most, in the environment's time, with no more frames a second than a GIF is good for."""
    video.write(tmp_path / "a.gif", SCENE | {"dt": dt}, [episode(20), episode(7)], seconds)
    assert drawn == [moments]
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"drawing {tmp_path / 'a.gif'}: {len(moments)} frames of 2 episodes ...\n"
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == len(moments) and image.info["duration"] == duration  # type: ignore[attr-defined]
        assert image.info["loop"] == 0


def test_an_mp4(drawn: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames: list[Any] = []

    def get_writer(path: Path, **given: Any) -> SimpleNamespace:
        frames.append((path, given["fps"]))
        return SimpleNamespace(append_data=lambda frame: frames.append(frame.shape), close=lambda: frames.append("end"))

    v2 = SimpleNamespace(get_writer=get_writer)  # imageio need not be here
    monkeypatch.setitem(sys.modules, "imageio", SimpleNamespace(v2=v2))
    monkeypatch.setitem(sys.modules, "imageio.v2", v2)
    video.write(tmp_path / "a.mp4", SCENE, [episode(4)], 10.0)
    assert frames == [(tmp_path / "a.mp4", 20.0), *[(*video.SIZES[".mp4"], 3)] * 4, "end"]


def test_without_ffmpeg(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Said before anything is simulated."""
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["play", "runs/none", "--mp4", "a.mp4"]) == 2
    assert capsys.readouterr().err == f"rlx: --mp4 a.mp4: needs ffmpeg; {install('video')}, or use --gif\n"


@pytest.mark.parametrize("error", [ImportError("no EGL\nat all"), mujoco.FatalError("no OpenGL"), RuntimeError()])
def test_without_a_renderer(error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*given: Any) -> None:
        raise error

    monkeypatch.setattr(mujoco, "Renderer", fails)
    with pytest.raises(RlxError, match=r"no video: MuJoCo has no renderer here .*install libegl1, or lib") as said:
        video.write(tmp_path / "a.gif", SCENE, [episode(4) | {"label": "a"}], 1.0)
    assert "\n" not in str(said.value) and not (tmp_path / "a.gif").exists()


@pytest.mark.parametrize(
    ("system", "set_before", "display", "chosen"),
    [
        ("Linux", {}, "", "egl"),
        ("Linux", {"MUJOCO_GL": "osmesa"}, "", "osmesa"),
        ("Linux", {}, ":0", None),
        ("Darwin", {}, "", None),
    ],
)
def test_choose_renderer_selects_egl_without_a_display(
    system: str, set_before: dict[str, str], display: str, chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video.platform, "system", lambda: system)
    monkeypatch.setattr(video.os, "environ", {"DISPLAY": display} | set_before)
    video.choose_renderer()
    assert video.os.environ.get("MUJOCO_GL") == chosen


FILM = """
from rlx.visual import video
video.choose_renderer()
import sys
from pathlib import Path
from rlx.errors import RlxError, install
from tests.scenes import SCENE, episode
try:
    video.write(Path(sys.argv[1]), SCENE, [episode(6) | {"label": "a"}, episode(3) | {"label": "b"}], 10.0)
except RlxError as error:
    print(error)
"""


def test_a_video_is_written_or_one_line_says_why_not(tmp_path: Path) -> None:
    """Where there is something to draw with, the robot is in the picture and moves; else one line says what lacks."""
    done = subprocess.run(
        [sys.executable, "-c", FILM, str(tmp_path / "a.gif")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    if done.stdout:
        assert done.stdout.startswith("no video: MuJoCo has no renderer here (") and done.stdout.count("\n") == 1
        return
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.size) == (6, (640, 264))  # type: ignore[attr-defined]
        frames = []
        for i in range(6):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB"), float))
    red = (frames[0][..., 0] > 100) & (frames[0][..., 0] > 2 * frames[0][..., 2])
    assert 0.02 < red.mean() < 0.5
    left, right = ([np.abs(b - a)[:, half].mean() for a, b in itertools.pairwise(frames)] for half in HALVES)
    assert min(left) > 0.5 and max(right[2:]) < 0.5  # the second episode has ended after three steps


HALVES = (slice(None, 320), slice(320, None))


@pytest.mark.browser
def test_a_played_page_opens_in_a_browser(pendulum: tuple[Path, Driver], tmp_path: Path) -> None:
    folder, _ = pendulum
    play.make(folder, tmp_path / "play.html", episodes=2, members=(0, 1))
    with browser(tmp_path / "profile") as page:
        page.open(tmp_path / "play.html")
        early, later = (page.run(f"new Promise((done) => setTimeout(() => done({SEEN}), 400))") for _ in range(2))
    assert not page.complaints
    assert len(early) == 4 and all(
        a["steps"] < b["steps"] and a["robot"] != b["robot"] for a, b in zip(early, later, strict=True)
    )


SEEN = """[...document.querySelectorAll(".pane")].map((pane) => ({
  steps: parseInt(pane.querySelector("p span").textContent.split(" ")[1]),
  robot: pane.querySelector("canvas").toDataURL() }))"""
