"""Films of recorded episodes, drawn by MuJoCo's own renderer: GIF by Pillow, MP4 by ffmpeg through imageio.

Any environment that has a scene can be filmed, whatever simulated it: MuJoCo gets a model that holds the ground and the
sky alone, and each frame its geoms, put where the poses say.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlx.errors import RlxError, install, say

if TYPE_CHECKING:
    import mujoco

SIZES = {".gif": (240, 320), ".mp4": (360, 480)}  # height and width of one episode's picture
STRIP, PAPER = 24, (243, 245, 248)  # height of the strip above it that says which one it is, and the strip's colour
FPS = {".gif": 20, ".mp4": 30}  # at most
MANY = 100  # pictures, from which on it is said how far their drawing is
SUN = np.asarray([-0.15, 0.75, -1.1])  # where its light goes
AZIMUTH, ELEVATION, FOVY = 126.0, -17.0, 45.0  # whence the camera looks, and how much it sees from below to above
FILLED = 0.85  # how much of a picture's height and width a robot may take
SMOOTH = 12  # steps on either side over which the camera's path is averaged: it should not shake with every stride
WORLD = """
<mujoco>
  <visual>
    <headlight ambient=".45 .45 .45" diffuse=".45 .45 .45" specular=".1 .1 .1"/>
    <global offheight="{height}" offwidth="{width}" fovy="{fovy}"/>
    <quality shadowsize="2048"/>
    <map znear=".01" zfar="60" fogstart="6" fogend="30" shadowclip="1.5"/>
    <rgba fog=".8 .86 .93 1" haze=".8 .86 .93 1"/>
  </visual>
  <statistic extent="{extent}"/>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1=".38 .56 .8" rgb2=".8 .86 .93" width="64" height="384"/>
    <texture name="floor" type="2d" builtin="checker" rgb1=".5 .58 .67" rgb2=".64 .71 .78" width="256" height="256"/>
    <material name="floor" texture="floor" texrepeat="{repeat} {repeat}" texuniform="true"/>
  </asset>
  <worldbody>
    <light type="directional" dir="{sun}" diffuse=".6 .6 .55" castshadow="true"/>
    <geom type="plane" size="0 0 1" pos="0 0 {ground}" material="floor"/>
  </worldbody>
</mujoco>
"""


def choose_renderer() -> None:
    """Has MuJoCo draw without a screen where there is none; to be called before anything imports it."""
    if platform.system() == "Linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")


def files(gif: str | None, mp4: str | None) -> list[Path]:
    """The films that were asked for. Raises RlxError, naming the remedy, for one that cannot be written here."""
    asked = {".gif": gif, ".mp4": mp4}
    for kind, name in asked.items():
        if name is None:
            continue
        flag, path = f"--{kind.removeprefix('.')} {name}", Path(name)
        if path.suffix.lower() != kind:
            raise RlxError(f"{flag}: the name must end in {kind}")
        if not path.parent.is_dir():
            raise RlxError(f"{flag}: there is no folder {path.parent}; make it first")
        if kind == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
            raise RlxError(f"{flag}: needs ffmpeg; {install('video')}, or make a GIF by --gif")
    return [Path(name) for name in asked.values() if name is not None]


def write(path: Path, scene: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]], seconds: float) -> None:
    """Films the first `seconds` of the episodes, side by side, in the format of the file's ending.

    Moments whose poses are not finite are left out. Raises RlxError where nothing is left of an episode, where no
    renderer is there, or where the file cannot be written.
    """
    kind, episodes = path.suffix.lower(), [finite(episode) for episode in episodes]
    if not all(len(episode["poses"]) for episode in episodes):
        raise RlxError(f"{path}: an episode holds no finite pose to film; the run has diverged, so play another --step")
    skip = max(1, math.ceil(1 / (scene["dt"] * FPS[kind]) - 1e-6))  # steps a frame
    steps = min(max(len(episode["poses"]) for episode in episodes), max(1, round(seconds / scene["dt"])))
    moments = range(0, steps, skip)
    say(f"drawing {path}: {len(moments)} pictures of {len(episodes)} episode{'s' * (len(episodes) > 1)} ...")
    frames = _counted(pictures(scene, episodes, moments, SIZES[kind]), len(moments))
    try:
        _write_gif(path, frames, scene["dt"] * skip) if kind == ".gif" else _write_mp4(path, frames, scene["dt"] * skip)
    except OSError as error:
        raise RlxError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from None


def finite(episode: Mapping[str, Any]) -> dict[str, Any]:
    """An episode without the moments at which the simulation had burst."""
    poses = np.asarray(episode["poses"])
    kept = np.isfinite(poses).all(axis=(1, 2))
    return {**episode, "poses": poses[kept], "rewards": np.asarray(episode["rewards"])[kept]}


def _counted(frames: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """The frames; of many, says at each quarter how many are drawn."""
    for i, frame in enumerate(frames, 1):
        yield frame
        if count >= MANY and i % (count // 4) == 0 and i < count:
            say(f"  {i} of {count}")


def _write_gif(path: Path, frames: Iterator[np.ndarray], frame_s: float) -> None:
    from PIL import Image

    images = [Image.fromarray(frame).quantize(128, dither=Image.Dither.NONE) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=round(1000 * frame_s), loop=0)


def _write_mp4(path: Path, frames: Iterator[np.ndarray], frame_s: float) -> None:
    import imageio.v2 as imageio

    writer: Any = imageio.get_writer(path, fps=1 / frame_s, quality=8, macro_block_size=8)
    with contextlib.closing(writer):
        for frame in frames:
            writer.append_data(frame)


def pictures(
    scene: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]], moments: Sequence[int], size: tuple[int, int]
) -> Iterator[np.ndarray]:
    """The episodes at each of the moments as one picture `[H, W, 3]` of bytes, with labels and returns.

    Each has the height and width `size`, and above it a strip of STRIP; one that has ended stands still.
    Raises RlxError where MuJoCo finds nothing to draw with.
    """
    import mujoco

    paths = [camera_path(scene, np.asarray(episode["poses"]), size) for episode in episodes]
    totals = [np.cumsum(episode["rewards"]) for episode in episodes]
    distance = max(distance for _, distance in paths)
    radius = distance / 2
    cell, height = 2.0 ** round(math.log2(radius)), ground(scene, episodes)
    look = {"height": size[0], "width": size[1], "fovy": FOVY, "extent": radius, "sun": " ".join(map(str, SUN))}
    xml = WORLD.format(**look, repeat=0.5 / cell, ground=height)
    with renderer(mujoco.MjModel.from_xml_string(xml), size) as draw:
        for moment in moments:
            tiles = []
            for episode, (centres, _), total in zip(episodes, paths, totals, strict=True):
                t = min(moment, len(total) - 1)
                _aim(draw, centres[t], distance)
                fill(draw.scene, scene["geoms"], np.asarray(episode["poses"][t]))
                tiles.append(_labelled(draw.render(), f"{episode['label']}   return {total[t]:.1f}"))
            yield tile(tiles)


def renderer(model: mujoco.MjModel, size: tuple[int, int]) -> mujoco.Renderer:
    """MuJoCo's renderer. Raises RlxError, naming the remedy, where it finds nothing to draw with."""
    import mujoco

    try:
        return mujoco.Renderer(model, *size)
    except Exception as error:  # each way to draw fails in its own way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RlxError(
            f"no film: MuJoCo has nothing to draw with ({reason[:100]}); install libegl1, or libosmesa6 and set"
            " MUJOCO_GL=osmesa"
        ) from None


def camera(centre: np.ndarray, distance: float) -> mujoco.MjvCamera:
    """MuJoCo's camera that looks at `centre`."""
    import mujoco

    made = mujoco.MjvCamera()
    made.lookat[:], made.distance = centre, distance
    made.azimuth, made.elevation = AZIMUTH, ELEVATION
    return made


def _aim(draw: mujoco.Renderer, centre: np.ndarray, distance: float) -> None:
    """Begins a frame: the ground and the sky, with `centre` in the middle and in the sun."""
    import mujoco

    data = mujoco.MjData(draw.model)
    mujoco.mj_forward(draw.model, data)
    draw.update_scene(data, camera(centre, distance))
    for light in draw.scene.lights[: draw.scene.nlight]:
        if not light.headlight:
            light.pos[:] = centre - 1.5 * distance * SUN  # shadows are found about here


def fill(drawn: mujoco.MjvScene, geoms: Sequence[Mapping[str, Any]], poses: np.ndarray) -> None:
    """Adds a scene's geoms to what MuJoCo draws, carried by links at `poses` `[links, 7]`; planes are the ground's."""
    import mujoco

    for geom in geoms:
        if geom["shape"] == "plane":
            continue
        kind = getattr(mujoco.mjtGeom, f"mjGEOM_{geom['shape'].upper()}")
        size = np.zeros(3)
        size[: len(geom["size"])] = geom["size"]
        position, rotation = placed(geom, poses)
        color = np.asarray([*geom["color"], 1.0], np.float32)
        mujoco.mjv_initGeom(drawn.geoms[drawn.ngeom], kind, size, position, rotation.reshape(-1), color)
        drawn.geoms[drawn.ngeom].category = mujoco.mjtCatBit.mjCAT_DYNAMIC  # mere decoration casts no shadow
        drawn.ngeom += 1


def placed(geom: Mapping[str, Any], poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a geom is in the world: position `[3]` and rotation matrix `[3, 3]`."""
    position, rotation = np.asarray(geom["position"], float), matrix(np.asarray(geom["rotation"], float))
    if geom["link"] < 0:
        return position, rotation
    link = np.asarray(poses[geom["link"]], float)
    turn = matrix(link[3:])
    return link[:3] + turn @ position, turn @ rotation


def matrix(quaternion: np.ndarray) -> np.ndarray:
    """The rotation matrix `[3, 3]` of a quaternion w, x, y, z of any length but 0."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.asarray(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def support(geom: Mapping[str, Any], directions: np.ndarray) -> np.ndarray:
    """How far a geom goes from its middle along `directions` `[..., 3]` of its own frame, in units of their lengths."""
    size, along = np.asarray(geom["size"], float), np.abs(directions)
    if geom["shape"] in ("sphere", "capsule"):
        return size[0] * np.linalg.norm(along, axis=-1) + (size[1] * along[..., 2] if len(size) > 1 else 0.0)
    if geom["shape"] == "cylinder":
        return size[0] * np.hypot(along[..., 0], along[..., 1]) + size[1] * along[..., 2]
    if geom["shape"] == "ellipsoid":
        return np.linalg.norm(size * along, axis=-1)
    return along[..., : len(size)] @ size


def reach(scene: Mapping[str, Any], poses: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """How far what moves goes along each of `directions` `[D, 3]` at each moment, from the origin: `[T, D]`."""
    moving = [geom for geom in scene["geoms"] if geom["link"] >= 0]
    found = np.empty((len(poses), len(moving), len(directions)))
    for t, frame in enumerate(poses):
        for i, geom in enumerate(moving):
            position, rotation = placed(geom, frame)
            found[t, i] = directions @ position + support(geom, directions @ rotation)
    return found.max(axis=1)


def camera_path(scene: Mapping[str, Any], poses: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """What the camera looks at, `[T, 3]`, and from how far, so that all of a robot is in each picture of `size`.

    `poses` are `[T, links, 7]`. A robot that stays about where it is has one camera that does not move.
    """
    edges = _edges(size)
    far = reach(scene, poses, np.concatenate([np.eye(3), -np.eye(3), edges]))
    high, low = far[:, :3], -far[:, 3:6]
    middles = (low + high) / 2
    if np.linalg.norm(np.ptp(middles, axis=0)) < 1.5 * np.linalg.norm(high - low, axis=1).max():
        centres = np.broadcast_to((low.min(axis=0) + high.max(axis=0)) / 2, middles.shape)
    else:
        near = [slice(max(t - SMOOTH, 0), t + SMOOTH + 1) for t in range(len(middles))]
        centres = np.stack([middles[window].mean(axis=0) for window in near])
    return centres, float((far[:, 6:] - centres @ edges.T).max())


def _edges(size: tuple[int, int]) -> np.ndarray:
    """For the right, left, upper and lower edge of a picture, the direction along which far is near the edge, `[4, 3]`.

    A point x, seen from the distance d of the centre c, lies inside an edge where edge . (x - c) <= d.
    """
    turn, tilt, up = math.radians(AZIMUTH), math.radians(ELEVATION), FILLED * math.tan(math.radians(FOVY) / 2)
    forward = np.asarray([math.cos(tilt) * math.cos(turn), math.cos(tilt) * math.sin(turn), math.sin(tilt)])
    right = np.asarray([math.sin(turn), -math.cos(turn), 0.0])
    across, above = right / (up * size[1] / size[0]), np.cross(right, forward) / up
    return np.stack([across, -across, above, -above]) - forward


def ground(scene: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]]) -> float:
    """How high the ground is: a plane's height, else just below everything."""
    for geom in scene["geoms"]:
        if geom["shape"] == "plane":
            return float(geom["position"][2])
    down = np.asarray([[0.0, 0.0, -1.0]])
    return -max(float(reach(scene, np.asarray(one["poses"]), down).max()) for one in episodes)


def tile(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one size as one, in as many columns as rows or one more; what is left over stays dark."""
    across = math.ceil(math.sqrt(len(pictures)))
    down = math.ceil(len(pictures) / across)
    height, width, _ = pictures[0].shape
    whole = np.full((down * height, across * width, 3), (28, 35, 48), np.uint8)
    for i, picture in enumerate(pictures):
        row, column = divmod(i, across)
        whole[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
    return whole


def _labelled(picture: np.ndarray, text: str) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (picture.shape[1], STRIP + picture.shape[0]), PAPER)
    image.paste(Image.fromarray(picture), (0, STRIP))
    ImageDraw.Draw(image).text((12, 2), text, fill=(28, 35, 48), font=ImageFont.load_default(16))
    return np.asarray(image)
