"""Scenes and episodes to show, what a page of episodes holds, and what no page of ours may ask for."""

import base64
import itertools
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import numpy as np


def geom(shape: str, size: list[float], link: int = 0, position: tuple[float, ...] = (0, 0, 0)) -> dict[str, Any]:
    color = [0.9, 0.2, 0.1]
    return {"shape": shape, "size": size, "link": link, "position": position, "rotation": [1, 0, 0, 0], "color": color}


SCENE: dict[str, Any] = {
    "dt": 0.05,
    "geoms": [
        geom("plane", [0.0, 0.0], link=-1),
        geom("sphere", [0.2], 0),
        geom("capsule", [0.08, 0.3], 1, (0.5, 0, 0)),
        geom("box", [0.1, 0.2, 0.1], 1, (-0.5, 0, 0)),
        geom("cylinder", [0.1, 0.2], 0, (0, 0.5, 0)),
        geom("ellipsoid", [0.1, 0.2, 0.1], 0, (0, -0.5, 0)),
    ],
}


def episode(steps: int, links: int = 2, actions: int = 3, observations: int = 4) -> dict[str, Any]:
    """Links that walk along x and turn about z."""
    time = np.arange(steps, dtype=np.float32)[:, None] * np.ones(links)
    zero = np.zeros_like(time)
    poses = [0.05 * time, zero, zero + 0.5, np.cos(time / 40), zero, zero, np.sin(time / 40)]
    rng = np.random.default_rng(steps)
    rewards = rng.normal(size=steps).astype(np.float32)
    return {
        "poses": np.stack(poses, axis=-1),
        "observations": rng.normal(size=(steps, observations)),
        "rewards": rewards,
        "actions": rng.uniform(-1, 1, (steps, actions)),
        "return": float(rewards.sum()),
    }


PENDULUM: dict[str, Any] = {  # a rod on a cart
    "dt": 0.02,
    "geoms": [
        geom("capsule", [0.02, 1.0], link=-1),
        geom("capsule", [0.1, 0.1], 0),
        geom("capsule", [0.05, 0.3], 1, (0, 0, 0.3)),
    ],
}


def swings(angles: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Poses `[T, 2, 7]` of `PENDULUM`: the angle of the rod about y and where the cart is, both `[T]`."""
    zero, one = np.zeros_like(angles), np.ones_like(angles)
    cart = [positions, zero, zero, one, zero, zero, zero]
    rod = [positions, zero, zero, np.cos(angles / 2), zero, np.sin(angles / 2), zero]
    return np.stack([np.stack(cart, axis=-1), np.stack(rod, axis=-1)], axis=1)


def embedded(page: str) -> dict[str, Any]:
    """What the page's script will read."""
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    return json.loads(match[1])


def unpack(array: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(array["data"]), "<f4").reshape(array["shape"])


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


ODD: list[Any] = [None, [], {}, "x", -1, 1.5, True, float("nan"), float("inf"), 10**400, ["x"], [[1]]]


def mutated(tree: Any) -> Iterator[Any]:
    """Copies of a JSON tree, each with one value deleted or replaced by another kind of value."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        without = tree.copy()
        del without[key]
        yield without
        changed = mutated(tree[key]) if isinstance(tree[key], (dict, list)) else ()
        for value in itertools.chain(ODD, changed):
            copy = tree.copy()
            copy[key] = value
            yield copy


def check_offline(page: str) -> None:
    """No element of a page points to another file, nothing names an address, and its policy refuses all requests."""
    tags = Tags()
    tags.feed(page)
    assert not [tag for tag, attrs in tags.found if {"src", "href", "srcset", "data"} & attrs.keys()]
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|@import|\bfetch\(|XMLHttpRequest|WebSocket|\bimport\(", page)
    policy = next(attrs["content"] for _, attrs in tags.found if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
