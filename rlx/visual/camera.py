"""The camera of videos: where a scene's geoms are, how far they reach, and a path that keeps all of them in view."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

AZIMUTH, ELEVATION, FOVY = 126.0, -17.0, 45.0  # the camera's direction and vertical field of view, in degrees
FILLED = 0.85  # share of a picture's height and width that a robot may fill
SMOOTH = 12  # steps on either side over which the camera's path is averaged, so that it does not shake


def placed(geom: Mapping[str, Any], poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A geom's position `[3]` and rotation matrix `[3, 3]` in the world."""
    position, rotation = np.asarray(geom["position"], float), matrix(np.asarray(geom["rotation"], float))
    if geom["link"] < 0:
        return position, rotation
    link = np.asarray(poses[geom["link"]], float)
    turn = matrix(link[3:])
    return link[:3] + turn @ position, turn @ rotation


def matrix(quaternion: np.ndarray) -> np.ndarray:
    """The rotation matrix `[3, 3]` of a quaternion w, x, y, z of any non-zero length."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.asarray(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def support(geom: Mapping[str, Any], directions: np.ndarray) -> np.ndarray:
    """How far a geom extends from its centre along `directions` `[..., 3]` of its own frame, times their lengths."""
    size, along = np.asarray(geom["size"], float), np.abs(directions)
    if geom["shape"] in ("sphere", "capsule"):
        return size[0] * np.linalg.norm(along, axis=-1) + (size[1] * along[..., 2] if len(size) > 1 else 0.0)
    if geom["shape"] == "cylinder":
        return size[0] * np.hypot(along[..., 0], along[..., 1]) + size[1] * along[..., 2]
    if geom["shape"] == "ellipsoid":
        return np.linalg.norm(size * along, axis=-1)
    return along[..., : len(size)] @ size


def reach(scene: Mapping[str, Any], poses: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """How far the moving geoms extend from the origin along each of `directions` `[D, 3]` at each step: `[T, D]`."""
    moving = [geom for geom in scene["geoms"] if geom["link"] >= 0]
    extents = np.empty((len(poses), len(moving), len(directions)))
    for t, frame in enumerate(poses):
        for i, geom in enumerate(moving):
            position, rotation = placed(geom, frame)
            extents[t, i] = directions @ position + support(geom, directions @ rotation)
    return extents.max(axis=1)


def camera_path(scene: Mapping[str, Any], poses: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """The points `[T, 3]` that the camera looks at, and its distance, so that the robot is in every frame of `size`.

    `poses` are `[T, links, 7]`. If the robot stays in about the same place, the camera does not move.
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
    """A vector for the right, left, upper and lower edge of a picture, `[4, 3]`.

    A point x is inside an edge of the view from distance d at the centre c where edge . (x - c) <= d.
    """
    turn, tilt, up = math.radians(AZIMUTH), math.radians(ELEVATION), FILLED * math.tan(math.radians(FOVY) / 2)
    forward = np.asarray([math.cos(tilt) * math.cos(turn), math.cos(tilt) * math.sin(turn), math.sin(tilt)])
    right = np.asarray([math.sin(turn), -math.cos(turn), 0.0])
    across, above = right / (up * size[1] / size[0]), np.cross(right, forward) / up
    return np.stack([across, -across, above, -above]) - forward


def ground(scene: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]]) -> float:
    """The height of the ground: a plane's, or else just below all geoms."""
    for geom in scene["geoms"]:
        if geom["shape"] == "plane":
            return float(geom["position"][2])
    down = np.asarray([[0.0, 0.0, -1.0]])
    return -max(float(reach(scene, np.asarray(one["poses"]), down).max()) for one in episodes)
