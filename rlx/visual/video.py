"""Videos of recorded episodes, drawn by MuJoCo's renderer: GIF by Pillow, MP4 by ffmpeg through imageio.

Works for every environment with a scene, whatever simulated it: MuJoCo's model is only the ground and the sky, and the
geoms are added to each frame at their recorded poses.
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

from rlx import json_files
from rlx.errors import RlxError, install, say
from rlx.visual.camera import AZIMUTH, ELEVATION, FOVY, camera_path, ground, placed

if TYPE_CHECKING:
    import mujoco

SIZES = {".gif": (240, 320), ".mp4": (360, 480)}  # height and width of one episode's picture
STRIP, PAPER = 24, (243, 245, 248)  # height and colour of the strip with the label above it
FPS = {".gif": 20, ".mp4": 30}  # at most
MANY = 100  # frames, from which on progress is printed
SUN = np.asarray([-0.15, 0.75, -1.1])  # direction of the light
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
    """Selects rendering without a display where there is none; call it before anything imports MuJoCo."""
    if platform.system() == "Linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")


def files(gif: str | None, mp4: str | None) -> list[Path]:
    """The paths of the requested videos. Raises RlxError for one that cannot be written here."""
    requested = {".gif": gif, ".mp4": mp4}
    for kind, name in requested.items():
        if name is None:
            continue
        flag, path = f"--{kind.removeprefix('.')} {name}", Path(name)
        if path.suffix.lower() != kind:
            raise RlxError(f"{flag}: the name must end in {kind}")
        if not path.parent.is_dir():
            raise RlxError(f"{flag}: folder {path.parent} does not exist; create it first")
        if kind == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
            raise RlxError(f"{flag}: needs ffmpeg; {install('video')}, or use --gif")
    return [Path(name) for name in requested.values() if name is not None]


def write(path: Path, scene: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]], seconds: float) -> None:
    """Writes a video of the first `seconds` of the episodes, side by side, in the format of the file's suffix.

    Steps whose poses are not finite are left out. Raises RlxError where no step of an episode is left, where MuJoCo has
    no renderer, or where the file cannot be written.
    """
    kind, episodes = path.suffix.lower(), [finite(episode) for episode in episodes]
    if not all(len(episode["poses"]) for episode in episodes):
        raise RlxError(f"{path}: an episode has no finite pose to draw, since the run diverged; play another --step")
    skip = max(1, math.ceil(1 / (scene["dt"] * FPS[kind]) - 1e-6))  # steps a frame
    steps = min(max(len(episode["poses"]) for episode in episodes), max(1, round(seconds / scene["dt"])))
    moments = range(0, steps, skip)
    say(f"drawing {path}: {len(moments)} frames of {len(episodes)} episode{'s' * (len(episodes) > 1)} ...")
    frames = _with_progress(render(scene, episodes, moments, SIZES[kind]), len(moments))
    save = _write_gif if kind == ".gif" else _write_mp4
    try:
        with json_files.drafted(path) as draft:
            save(draft, frames, scene["dt"] * skip)
    except OSError as error:
        raise RlxError(f"{path}: cannot be written ({error.strerror or error}); choose another folder") from None


def finite(episode: Mapping[str, Any]) -> dict[str, Any]:
    """An episode without the steps at which the simulation had diverged."""
    poses = np.asarray(episode["poses"])
    is_finite = np.isfinite(poses).all(axis=(1, 2))
    return {**episode, "poses": poses[is_finite], "rewards": np.asarray(episode["rewards"])[is_finite]}


def _with_progress(frames: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """The frames; where there are many, prints the progress at each quarter."""
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


def render(
    scene: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]], moments: Sequence[int], size: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Draws the episodes side by side at each of the steps `moments`: `[H, W, 3]` uint8, with labels and returns.

    Each episode has the height and width `size` and a strip with its label; one that has ended stands still.
    Raises RlxError where MuJoCo has no renderer.
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
    """MuJoCo's renderer. Raises RlxError where there is none on this machine."""
    import mujoco

    try:
        return mujoco.Renderer(model, *size)
    except Exception as error:  # each backend raises its own type
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RlxError(
            f"no video: MuJoCo has no renderer here ({reason[:100]}); install libegl1, or libosmesa6 and set"
            " MUJOCO_GL=osmesa"
        ) from None


def camera(centre: np.ndarray, distance: float) -> mujoco.MjvCamera:
    """MuJoCo's camera that looks at `centre`."""
    import mujoco

    view = mujoco.MjvCamera()
    view.lookat[:], view.distance = centre, distance
    view.azimuth, view.elevation = AZIMUTH, ELEVATION
    return view


def _aim(draw: mujoco.Renderer, centre: np.ndarray, distance: float) -> None:
    """Begins a frame: ground and sky, with the camera and the light directed at `centre`."""
    import mujoco

    data = mujoco.MjData(draw.model)
    mujoco.mj_forward(draw.model, data)
    draw.update_scene(data, camera(centre, distance))
    for light in draw.scene.lights[: draw.scene.nlight]:
        if not light.headlight:
            light.pos[:] = centre - 1.5 * distance * SUN  # shadows are computed around here


def fill(drawn: mujoco.MjvScene, geoms: Sequence[Mapping[str, Any]], poses: np.ndarray) -> None:
    """Adds a scene's geoms, with links at `poses` `[links, 7]`, to MuJoCo's scene; planes are drawn as the ground."""
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
        drawn.geoms[drawn.ngeom].category = mujoco.mjtCatBit.mjCAT_DYNAMIC  # decoration would cast no shadow
        drawn.ngeom += 1


def tile(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one size in a grid, about as wide as high; unused cells are dark."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    height, width, _ = pictures[0].shape
    grid = np.full((rows * height, columns * width, 3), (28, 35, 48), np.uint8)
    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        grid[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
    return grid


def _labelled(picture: np.ndarray, text: str) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (picture.shape[1], STRIP + picture.shape[0]), PAPER)
    image.paste(Image.fromarray(picture), (0, STRIP))
    ImageDraw.Draw(image).text((12, 2), text, fill=(28, 35, 48), font=ImageFont.load_default(16))
    return np.asarray(image)
