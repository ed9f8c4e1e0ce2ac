"""Recorded episodes as a page that moves by itself: written, and read again. The scripts lie beside this file."""

from __future__ import annotations

import base64
import contextlib
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from rlx import json_files
from rlx.errors import RlxError

FRAME_S = 0.05  # how long a step is shown where the environment has no time of its own
SHAPES = ("sphere", "capsule", "cylinder", "ellipsoid", "box", "plane")  # that robot.js draws
VIEWS = {"single": "rlxSingle", "grid": "rlxGrid"}  # one episode at a time, or all of them side by side
GENERATOR = '<meta name="generator" content="rlx">'  # by which a page of ours is known
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
WHOLE = "html, body { margin: 0; height: 100%; } #view { height: 100vh; height: 100dvh; }"


def page(path: Path, title: str, style: str, body: str) -> None:
    """Writes an HTML page of ours that needs no network, whole or not at all. `body` is HTML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    json_files.write_text(path, PAGE.format(generator=GENERATOR, title=html.escape(title), style=style, body=body))


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """For commands that have an --out: where `out` cannot be written, raises RlxError that says so."""
    try:
        yield
    except OSError as error:
        raise RlxError(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from None


def is_ours(path: Path) -> bool:
    """Whether a file is a page that `page` wrote."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return GENERATOR in file.read(1000)


def rollout_page(
    path: Path, scene: Mapping[str, Any] | None, episodes: Sequence[Mapping[str, Any]], title: str, view: str = "single"
) -> None:
    """Writes one HTML file that plays recorded episodes in any browser, without a network.

    `scene` is what an environment's `scene()` gives (see `rlx.envs.base.Renderable`). Each episode has `return` (a
    number), `rewards` `[T]`, `actions` `[T, A]` and, for a scene, `poses` `[T, links, 7]` (position x, y, z and
    quaternion w, x, y, z); without a scene `observations` `[T, O]`, which are drawn as moving strips instead; and
    perhaps a `label`. `view` is one of `VIEWS`. A scene whose geoms all stand on the world counts as none.
    Raises ValueError for a shape that the viewer cannot draw and for arrays that do not fit each other.
    """
    page(path, title, WHOLE, player(pack(scene, episodes, title), view))


def pack(scene: Mapping[str, Any] | None, episodes: Sequence[Mapping[str, Any]], title: str) -> dict[str, Any]:
    """What the viewer's script reads, as JSON values."""
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
    """The part of a page that plays what `pack` returned; it fills the element `#view`."""
    names = ("robot.js", "viewer.js", f"{view}.js")
    script = "\n".join(resources.files("rlx.visual").joinpath(name).read_text("utf-8") for name in names)
    # In JSON a "<" can only stand in a string, where its escape is the same; so no string can end the script.
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    start = f'{VIEWS[view]}(document.getElementById("view"), JSON.parse(document.getElementById("data").textContent));'
    return (
        '<div id="view"></div>\n'
        f'<script type="application/json" id="data">{text}</script>\n'
        f"<script>\n{script}\n{start}\n</script>"
    )


def recorded(path: Path) -> dict[str, Any] | None:
    """What a page that `rollout_page` wrote shows, as `pack` returned it; None where there is no such page."""
    try:
        found = ISLAND.search(path.read_text("utf-8"))
        data = {} if found is None else dict(json.loads(found[1]))
    except (OSError, ValueError, TypeError):
        return None
    return data if data.get("episodes") else None


def _episode(episode: Mapping[str, Any], links: int) -> dict[str, Any]:
    shown = "poses" if links else "observations"
    arrays = {name: np.asarray(episode[name], np.float32) for name in ("rewards", "actions", shown)}
    steps = len(arrays["rewards"])
    if not steps or any(len(array) != steps for array in arrays.values()):
        sizes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        raise ValueError(f"an episode needs as many rows in every array, and at least one: {sizes}")
    if links and (arrays["poses"].shape[1] < links or arrays["poses"].shape[2] != 7):
        raise ValueError(f"poses {list(arrays['poses'].shape)} do not fit the scene: [T, {links} or more, 7]")
    total = float(episode["return"])
    label = {"label": episode["label"]} if "label" in episode else {}
    value = total if np.isfinite(total) else None
    return label | {"return": value} | {name: _packed(array) for name, array in arrays.items()}


def _packed(array: np.ndarray) -> dict[str, Any]:
    data = np.ascontiguousarray(array, "<f4").tobytes()
    return {"shape": list(array.shape), "data": base64.b64encode(data).decode("ascii")}
