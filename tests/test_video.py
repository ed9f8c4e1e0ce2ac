"""Films: what is in the picture, and episodes that went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from rlx.commands import main as cli
from rlx.errors import RlxError
from rlx.visual import camera, video
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
def test_support_of_each_shape(
    shape: str, size: list[float], direction: tuple[float, float, float], wanted: float
) -> None:
    assert camera.support(geom(shape, size), np.asarray(direction)) == pytest.approx(wanted)


def test_non_finite_steps_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an episode that burst; the others are as long as they were."""
    given: list[Any] = []

    def pictures(scene: Any, episodes: Any, moments: Any, size: tuple[int, int]) -> Any:
        given.extend([list(moments), *episodes])
        return (np.zeros((*size, 3), np.uint8) for _ in moments)

    monkeypatch.setattr(video, "render", pictures)
    burst, well = episode(6), episode(4)
    burst["poses"][3, 1, 0], burst["poses"][5] = np.nan, np.inf
    (tmp_path / "elsewhere").write_text("of somebody")
    (tmp_path / "a.gif").symlink_to("elsewhere")
    video.write(tmp_path / "a.gif", SCENE, [burst, well], 10.0)
    assert (tmp_path / "elsewhere").read_text() == "of somebody" and not (tmp_path / "a.gif").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gif", "elsewhere"]
    moments, first, second = given
    kept = [0, 1, 2, 4]
    assert moments == [0, 1, 2, 3]
    np.testing.assert_array_equal(first["poses"], burst["poses"][kept])
    np.testing.assert_array_equal(first["rewards"], burst["rewards"][kept])
    np.testing.assert_array_equal(second["poses"], well["poses"])
    assert np.isfinite(camera.camera_path(SCENE, first["poses"], (240, 320))[0]).all()


def test_an_episode_without_finite_steps_is_refused(tmp_path: Path) -> None:
    burst = episode(3)
    burst["poses"][:] = np.nan
    with pytest.raises(RlxError, match=r"a.gif: an episode has no finite pose to draw"):
        video.write(tmp_path / "a.gif", SCENE, [episode(3), burst], 10.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seconds", ["inf", "nan", "0", "-1"])
def test_seconds_must_be_positive_and_finite(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["play", "runs/none", "--gif", "a.gif", f"--seconds={seconds}"]) == 2
    assert capsys.readouterr().err == f"rlx: --seconds {seconds}: must be more than 0 and finite\n"


def test_long_videos_print_their_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """At each quarter; a short one says nothing, and no frame is lost."""
    frames = [np.full(1, i) for i in range(120)]
    assert [int(frame[0]) for frame in video._with_progress(iter(frames), 120)] == list(range(120))
    assert capsys.readouterr().err == "  30 of 120\n  60 of 120\n  90 of 120\n"
    assert len(list(video._with_progress(iter(frames[:99]), 99))) == 99
    assert capsys.readouterr().err == ""
