"""Films: what is in the picture, GIFs and MP4s, episodes that went wrong, and machines without a renderer."""

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
import pytest
from PIL import Image

from rlx.commands import main as cli
from rlx.errors import RlxError, install
from rlx.visual import camera, video
from tests import processes
from tests.scenes import PENDULUM, SCENE, episode, geom, swings


def surface(geom: dict[str, Any]) -> np.ndarray:
    """Points all over a geom, in its own frame."""
    ball = np.random.default_rng(0).normal(size=(4000, 3))
    ball /= np.linalg.norm(ball, axis=1, keepdims=True)
    size, ends = geom["size"], np.sign(ball[:, 2:])
    if geom["shape"] == "capsule":
        return size[0] * ball + np.array([0, 0, size[1]]) * ends
    if geom["shape"] == "cylinder":
        rim = ball[:, :2] / np.linalg.norm(ball[:, :2], axis=1, keepdims=True)
        return np.concatenate([size[0] * rim, size[1] * ends], axis=1)
    return np.sign(ball) * size if geom["shape"] == "box" else ball * size


def in_picture(points: np.ndarray, centre: np.ndarray, distance: float, wide: float) -> np.ndarray:
    """Points `[..., 3]` as MuJoCo's own camera sees them, `[..., 2]`: the picture's edges are at -1 and 1."""
    model = mujoco.MjModel.from_xml_string(f'<mujoco><visual><global fovy="{camera.FOVY}"/></visual></mujoco>')
    data, seen = mujoco.MjData(model), mujoco.MjvScene(model, maxgeom=1)
    mujoco.mj_forward(model, data)
    view = video.camera(centre, distance)
    mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, view, mujoco.mjtCatBit.mjCAT_ALL, seen)
    eye, *others = seen.camera
    away = points - np.mean([eye.pos, *(other.pos for other in others)], axis=0)
    depth, high = away @ eye.forward, eye.frustum_top / eye.frustum_near
    across = away @ np.cross(eye.forward, eye.up) / (high * wide)
    return np.stack([across, away @ eye.up / high], axis=-1) / depth[..., None]


TIME = np.linspace(0, 6, 60)
TURNED = [{**one, "rotation": [0.8, 0.3, -0.4, 0.2]} for one in SCENE["geoms"]]
FILMED = {
    "a pendulum at rest": (PENDULUM, swings(0 * TIME, 0 * TIME)),
    "a pendulum that swings": (PENDULUM, swings(TIME, 0 * TIME)),
    "a pendulum whose cart drives away": (PENDULUM, swings(np.sin(TIME), TIME)),
    "all shapes, walking": (SCENE, episode(60)["poses"]),
    "all shapes, turned": (SCENE | {"geoms": TURNED}, episode(60)["poses"]),
}


@pytest.mark.parametrize("name", FILMED)
@pytest.mark.parametrize("kind", video.SIZES)
def test_the_whole_robot_is_in_every_frame(name: str, kind: str) -> None:
    """With a margin, and no smaller than need be."""
    (scene, poses), (height, width) = FILMED[name], video.SIZES[kind]
    centres, distance = camera.camera_path(scene, poses, (height, width))
    furthest = []
    for centre, frame in zip(centres, poses, strict=True):
        placed = [(camera.placed(one, frame), surface(one)) for one in scene["geoms"] if one["link"] >= 0]
        points = np.concatenate([position + shape @ rotation.T for (position, rotation), shape in placed])
        furthest.append(np.abs(in_picture(points, centre, distance, width / height)).max())
    assert camera.FILLED - 0.02 < max(furthest) <= camera.FILLED + 1e-6


@pytest.mark.parametrize(
    ("shape", "size", "direction", "wanted"),
    [
        ("sphere", [0.5], (3, 0, 4), 2.5),
        ("capsule", [0.1, 0.3], (1, 0, 0), 0.1),
        ("capsule", [0.1, 0.3], (0, 0, -2), 0.8),
        ("cylinder", [0.1, 0.3], (3, 4, 0), 0.5),
        ("cylinder", [0.1, 0.3], (0, 0.6, 0.8), 0.3),
        ("ellipsoid", [0.3, 0.2, 0.4], (1, 0, 1), 0.5),
        ("box", [0.1, 0.2, 0.3], (1, -1, 1), 0.6),
        ("plane", [1.0, 2.0], (0, 0, 1), 0.0),
    ],
)
def test_support_of_each_shape(shape: str, size: list[float], direction: Any, wanted: float) -> None:
    assert camera.support(geom(shape, size), np.asarray(direction)) == pytest.approx(wanted)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], Any]]:
    """Pictures without a renderer: one colour a frame. Holds which moments of which episodes were asked for."""
    asked: list[tuple[list[int], Any]] = []

    def pictures(scene: Any, episodes: Any, moments: Any, size: tuple[int, int]) -> Any:
        asked.append((list(moments), episodes))
        return (np.full((*size, 3), 10 * i, np.uint8) for i, _ in enumerate(moments))

    monkeypatch.setattr(video, "render", pictures)
    return asked


def test_non_finite_steps_are_left_out(tmp_path: Path, drawn: list[Any]) -> None:
    """Of an episode that burst; the others are as long as they were. With no finite step left it is refused."""
    burst, well = episode(6), episode(4)
    burst["poses"][3, 1, 0], burst["poses"][5] = np.nan, np.inf
    (tmp_path / "elsewhere").write_text("of somebody")
    (tmp_path / "a.gif").symlink_to("elsewhere")
    video.write(tmp_path / "a.gif", SCENE, [burst, well], 10.0)
    assert (tmp_path / "elsewhere").read_text() == "of somebody" and not (tmp_path / "a.gif").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gif", "elsewhere"]
    ((moments, (first, second)),) = drawn
    kept = [0, 1, 2, 4]
    assert moments == [0, 1, 2, 3]
    np.testing.assert_array_equal(first["poses"], burst["poses"][kept])
    np.testing.assert_array_equal(first["rewards"], burst["rewards"][kept])
    np.testing.assert_array_equal(second["poses"], well["poses"])
    assert np.isfinite(camera.camera_path(SCENE, first["poses"], (240, 320))[0]).all()
    burst["poses"][:] = np.nan
    with pytest.raises(RlxError, match=r"b.gif: an episode has no finite pose to draw"):
        video.write(tmp_path / "b.gif", SCENE, [well, burst], 10.0)
    assert not (tmp_path / "b.gif").exists()


def test_long_videos_print_their_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """At each quarter; a short one says nothing, and no frame is lost."""
    frames = [np.full(1, i) for i in range(120)]
    assert [int(frame[0]) for frame in video._with_progress(iter(frames), 120)] == list(range(120))
    assert capsys.readouterr().err == "  30 of 120\n  60 of 120\n  90 of 120\n"
    assert len(list(video._with_progress(iter(frames[:99]), 99))) == 99
    assert capsys.readouterr().err == ""


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
    floating = {"geoms": [geom("sphere", [0.2], 0), geom("capsule", [0.1, 0.3], 1)]}  # the ground is just below them
    assert camera.ground(SCENE, [episode(5)]) == 0 and camera.ground(floating, [episode(5)]) == pytest.approx(0.1)


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
    for mine, other, shape in zip(ours.geoms, theirs.geoms, geoms[1:], strict=False):
        assert mine.type == other.type and mine.category == other.category
        np.testing.assert_allclose(mine.size, other.size)
        np.testing.assert_allclose(mine.pos, camera.placed(shape, poses)[0], atol=1e-6)
        np.testing.assert_allclose(mine.rgba, [0.9, 0.2, 0.1, 1])


def test_the_camera_follows_a_walking_robot_and_is_fixed_otherwise() -> None:
    walking, standing = episode(200)["poses"], episode(200)["poses"] * np.array([0, 1, 1, 1, 1, 1, 1])
    centres, distance = camera.camera_path(SCENE, walking, (240, 320))
    assert centres.shape == (200, 3) and centres[150, 0] - centres[50, 0] == pytest.approx(5, abs=0.2)
    assert 1.5 < distance < 4
    still, _ = camera.camera_path(SCENE, standing, (240, 320))
    assert (still == still[0]).all()


@pytest.mark.parametrize(("count", "size"), [(1, (2, 3)), (2, (2, 6)), (3, (4, 6)), (5, (4, 9))])
def test_pictures_side_by_side(count: int, size: tuple[int, int]) -> None:
    tiled = video.tile([np.full((2, 3, 3), i + 100, np.uint8) for i in range(count)])
    assert tiled.shape == (*size, 3)
    assert (tiled[-1, -1] == (100 + count - 1 if count in (1, 2) else (28, 35, 48))).all()
    assert tiled[0, 0, 0] == 100 and {*np.unique(tiled)} >= {*range(100, 100 + count)}


@pytest.mark.parametrize(
    ("dt", "seconds", "moments", "duration"),
    [(0.05, 10.0, list(range(20)), 50), (0.05, 0.25, list(range(5)), 50), (0.02, 0.3, [0, 3, 6, 9, 12], 60)],
)
def test_a_gif(dt: float, seconds: float, moments: Any, duration: int, drawn: Any, tmp_path: Path, capsys: Any) -> None:
    """As long as asked at most, in the environment's time, with no more frames a second than a GIF is good for."""
    video.write(tmp_path / "a.gif", SCENE | {"dt": dt}, [episode(20), episode(7)], seconds)
    said = capsys.readouterr()
    assert drawn[0][0] == moments and said.out == ""
    assert said.err == f"drawing {tmp_path / 'a.gif'}: {len(moments)} frames of 2 episodes ...\n"
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.info["duration"], image.info["loop"]) == (len(moments), duration, 0)  # type: ignore[attr-defined]


def test_an_mp4(drawn: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames: list[Any] = []

    def get_writer(path: Path, **options: Any) -> SimpleNamespace:
        frames.append(options["fps"])
        Path(path).touch()
        return SimpleNamespace(append_data=lambda frame: frames.append(frame.shape), close=lambda: frames.append("end"))

    v2 = SimpleNamespace(get_writer=get_writer)  # imageio need not be here
    monkeypatch.setitem(sys.modules, "imageio", SimpleNamespace(v2=v2))
    monkeypatch.setitem(sys.modules, "imageio.v2", v2)
    video.write(tmp_path / "a.mp4", SCENE, [episode(4)], 10.0)
    assert (tmp_path / "a.mp4").exists() and frames == [20.0, *[(*video.SIZES[".mp4"], 3)] * 4, "end"]


def test_without_ffmpeg(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Said before anything is simulated."""
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["play", "runs/none", "--mp4", "a.mp4"]) == 2
    assert capsys.readouterr().err == f"rlx: --mp4 a.mp4: needs ffmpeg; {install('video')}, or use --gif\n"


@pytest.mark.parametrize("error", [ImportError("no EGL\nat all"), mujoco.FatalError("no OpenGL"), RuntimeError()])
def test_without_a_renderer(error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*args: Any) -> None:
        raise error

    monkeypatch.setattr(mujoco, "Renderer", fails)
    with pytest.raises(RlxError, match=r"no video: MuJoCo has no renderer here .*install libegl1, or lib") as said:
        video.write(tmp_path / "a.gif", SCENE, [episode(4) | {"label": "a"}], 1.0)
    assert "\n" not in str(said.value) and not (tmp_path / "a.gif").exists()


RENDERERS = [("Linux", {}, "", "egl"), ("Linux", {"MUJOCO_GL": "osmesa"}, "", "osmesa"), ("Linux", {}, ":0", None)]


@pytest.mark.parametrize(("system", "set_before", "display", "chosen"), [*RENDERERS, ("Darwin", {}, "", None)])
def test_egl_without_a_display(system: str, set_before: Any, display: str, chosen: Any, monkeypatch: Any) -> None:
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
from tests import processes
from tests.scenes import SCENE, episode
try:
    video.write(Path(sys.argv[1]), SCENE, [episode(6) | {"label": "a"}, episode(3) | {"label": "b"}], 10.0)
except RlxError as error:
    print(error)
"""
HALVES = (slice(None, 320), slice(320, None))


@pytest.mark.slow
def test_a_video_is_written_or_one_line_says_why_not(tmp_path: Path) -> None:
    """Where there is something to draw with, the robot is in the picture and moves; else one line says what lacks."""
    done = processes.python("-c", FILM, tmp_path / "a.gif")
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
