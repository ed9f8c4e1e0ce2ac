"""Animated pages of recorded episodes: written, and read back. The scripts are in the same folder."""

from __future__ import annotations

import base64
import contextlib
import html
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from rlx import json_files
from rlx.errors import RlxError

FRAME_S = 0.05  # seconds a step is shown where the environment has no time step
SHAPES = ("sphere", "capsule", "cylinder", "ellipsoid", "box", "plane")  # that robot.js draws
VIEWS = {"single": "rlxSingle", "grid": "rlxGrid"}  # one episode at a time, or all of them side by side
GENERATOR = '<meta name="generator" content="rlx">'  # marks the pages that rlx wrote
ISLAND = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)

# A page may run its own script and nothing else: the policy refuses every request over the network.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{generator}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
FULL_WINDOW = "html, body { margin: 0; height: 100%; } #view { height: 100vh; height: 100dvh; }"


def page(path: Path, title: str, style: str, body: str) -> None:
    """Writes an HTML page that needs no network; atomic. `body` is HTML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    json_files.write_text(path, PAGE.format(generator=GENERATOR, title=html.escape(title), style=style, body=body))


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """For commands with --out: turns an OSError into an RlxError that names `out`."""
    try:
        yield
    except OSError as error:
        raise RlxError(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from None


def is_ours(path: Path) -> bool:
    """Whether `page` wrote this file."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return GENERATOR in file.read(1000)


def rollout_page(
    path: Path, scene: Mapping[str, Any] | None, episodes: Sequence[Mapping[str, Any]], title: str, view: str = "single"
) -> None:
    """Writes one HTML file that plays recorded episodes in any browser, without a network.

    `scene` is what an environment's `scene()` gives (see `rlx.envs.base.Renderable`). Each episode has `return` (a
    number), `rewards` `[T]`, `actions` `[T, A]` and, for a scene, `poses` `[T, links, 7]` (position x, y, z and
    quaternion w, x, y, z); without a scene `observations` `[T, O]`, drawn as moving strips instead; and optionally
    a `label`. `view` is one of `VIEWS`. A scene in which no geom can move counts as none.
    Raises ValueError for a shape that the viewer cannot draw and for arrays that do not match.
    """
    page(path, title, FULL_WINDOW, player(pack(scene, episodes, title), view))


def pack(scene: Mapping[str, Any] | None, episodes: Sequence[Mapping[str, Any]], title: str) -> dict[str, Any]:
    """The input of the viewer's script, as JSON values."""
    geoms = [] if scene is None else scene["geoms"]
    unknown = {geom["shape"] for geom in geoms} - set(SHAPES)
    if unknown:
        raise ValueError(f"the viewer draws {', '.join(SHAPES)}, not {', '.join(sorted(unknown))}")
    links = max((geom["link"] for geom in geoms), default=-1) + 1
    return {
        "title": title,
        "dt": FRAME_S if scene is None else scene["dt"],
        "geoms": geoms if links else None,
        "episodes": [{"label": f"episode {i}"} | _episode(one, links) for i, one in enumerate(episodes, 1)],
    }


def player(data: Mapping[str, Any], view: str) -> str:
    """The HTML that plays what `pack` returned, in the element `#view`."""
    names = ("robot.js", "viewer.js", f"{view}.js")
    script = "\n".join(resources.files("rlx.visual").joinpath(name).read_text("utf-8") for name in names)
    # In JSON, "<" occurs only inside strings, where the escape means the same; so no string can end the script.
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    start = f'{VIEWS[view]}(document.getElementById("view"), JSON.parse(document.getElementById("data").textContent));'
    return (
        '<div id="view"></div>\n'
        f'<script type="application/json" id="data">{text}</script>\n'
        f"<script>\n{script}\n{start}\n</script>"
    )


def recorded(path: Path) -> dict[str, Any] | None:
    """Reads back what a page of `rollout_page` shows, as `pack` returned it.

    None where there is no such page. The file may be foreign, so every value is checked.
    """
    try:
        match = ISLAND.search(json_files.read_bytes(path).decode("utf-8"))
        data = None if match is None else json.loads(match[1])
        json.dumps(data, allow_nan=False)  # refuses NaN and infinities
        return data if _is_packed(data) else None
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None


def _is_packed(data: Any) -> bool:
    """Whether `data` has the form that `pack` returns; raises as it happens for other types."""
    geoms, shown = data["geoms"], "observations" if data["geoms"] is None else "poses"
    numbers = {"size": (1, 3), "position": (3, 3), "rotation": (4, 4), "color": (3, 3)}  # least and most of each
    for geom in geoms or []:
        if geom["shape"] not in SHAPES or not isinstance(geom["link"], int):
            return False
        for name, (least, most) in numbers.items():
            if not least <= len(geom[name]) <= most or not all(map(_is_number, geom[name])):
                return False
    if not isinstance(data["title"], str) or not _is_number(data["dt"]) or data["dt"] <= 0 or not data["episodes"]:
        return False
    links = max((geom["link"] for geom in geoms or []), default=-1) + 1
    return all(_is_packed_episode(episode, shown, links) for episode in data["episodes"])


def _is_packed_episode(episode: Any, shown: str, links: int) -> bool:
    if not isinstance(episode["label"], str) or not (episode["return"] is None or _is_number(episode["return"])):
        return False
    shapes = []
    for name, rank in (("rewards", 1), ("actions", 2), (shown, 3 if shown == "poses" else 2)):
        shape, data = episode[name]["shape"], base64.b64decode(episode[name]["data"], validate=True)
        if len(shape) != rank or not all(isinstance(size, int) and size >= 0 for size in shape):
            return False
        if len(data) != 4 * math.prod(shape):
            return False
        shapes.append(shape)
    if shown == "poses" and (shapes[-1][1] < links or shapes[-1][2] != 7):
        return False
    return shapes[0][0] > 0 and len({shape[0] for shape in shapes}) == 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _episode(episode: Mapping[str, Any], links: int) -> dict[str, Any]:
    shown = "poses" if links else "observations"
    arrays = {name: np.asarray(episode[name], np.float32) for name in ("rewards", "actions", shown)}
    steps = len(arrays["rewards"])
    if not steps or any(len(array) != steps for array in arrays.values()):
        sizes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        raise ValueError(f"the arrays of an episode need the same number of rows, at least one: {sizes}")
    if links and (arrays["poses"].shape[1] < links or arrays["poses"].shape[2] != 7):
        raise ValueError(f"poses {list(arrays['poses'].shape)} do not fit the scene: [T, {links} or more, 7]")
    total = float(episode["return"])
    label = {"label": episode["label"]} if "label" in episode else {}
    value = total if np.isfinite(total) else None
    return label | {"return": value} | {name: _packed(array) for name, array in arrays.items()}


def _packed(array: np.ndarray) -> dict[str, Any]:
    data = np.ascontiguousarray(array, "<f4").tobytes()
    return {"shape": list(array.shape), "data": base64.b64encode(data).decode("ascii")}
