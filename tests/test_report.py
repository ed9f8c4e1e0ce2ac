"""Curves carry their labels and lines; rollout pages hold what they were given and ask the network for nothing."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from rlx import report, scores
from tests.browser import browser


def geom(shape: str, size: list[float], link: int = 0, position: tuple[float, ...] = (0, 0, 0)) -> dict[str, Any]:
    color = [0.9, 0.2, 0.1]
    return {"shape": shape, "size": size, "link": link, "position": position, "rotation": [1, 0, 0, 0], "color": color}


SCENE = {
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


def embedded(page: str) -> dict[str, Any]:
    """What the page's script will read."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def unpack(array: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(array["data"]), "<f4").reshape(array["shape"])


def test_curve_has_a_line_for_every_seed_and_its_labels(tmp_path: Path) -> None:
    steps = np.arange(4) * 1000
    returns = np.random.default_rng(0).normal(size=(4, 5))
    series = [report.Series("sac", steps, returns), report.Series("", steps, returns[:, :1])]
    figure = report.curve(tmp_path / "curve.png", series, "sac on brax:ant")
    (axes,) = figure.axes
    lines = axes.get_lines()
    assert len(lines) == 5 + 1 + 1
    np.testing.assert_array_equal(np.stack([line.get_ydata() for line in lines[:5]], axis=1), returns)
    np.testing.assert_allclose(np.asarray(lines[5].get_ydata()), scores.interquartile_mean(returns))
    assert lines[5].get_linewidth() > 2 * lines[0].get_linewidth()
    assert axes.get_title("left") == "sac on brax:ant"
    assert "environment steps" in axes.get_xlabel() and "return" in axes.get_ylabel()
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["sac: interquartile mean of 5 seeds", "1 seed"]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_importing_the_report_leaves_matplotlib_alone() -> None:
    code = "import sys, rlx.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_page_holds_what_it_was_given(tmp_path: Path) -> None:
    episodes = [episode(30), episode(7)]
    report.rollout_page(tmp_path / "a.html", SCENE, episodes, "sac on brax:ant")
    data = embedded((tmp_path / "a.html").read_text())
    assert data["title"] == "sac on brax:ant" and data["dt"] == 0.05
    assert data["geoms"] == json.loads(json.dumps(SCENE["geoms"]))
    for given, held in zip(episodes, data["episodes"], strict=True):
        assert held["return"] == given["return"] and "observations" not in held
        for name in ("poses", "rewards", "actions"):
            np.testing.assert_array_equal(unpack(held[name]), np.asarray(given[name], np.float32))


@pytest.mark.parametrize("scene", [None, {"dt": 0.1, "geoms": []}, {"dt": 0.1, "geoms": [geom("plane", [0, 0], -1)]}])
def test_page_without_geometry_shows_observations(tmp_path: Path, scene: dict[str, Any] | None) -> None:
    given = episode(9)
    report.rollout_page(tmp_path / "a.html", scene, [given], "a")
    data = embedded((tmp_path / "a.html").read_text())
    assert data["geoms"] is None and "poses" not in data["episodes"][0]
    np.testing.assert_array_equal(
        unpack(data["episodes"][0]["observations"]), np.asarray(given["observations"], np.float32)
    )


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_page_asks_the_network_for_nothing(tmp_path: Path) -> None:
    report.rollout_page(tmp_path / "a.html", SCENE, [episode(5)], "a")
    page = (tmp_path / "a.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert not [tag for tag, attrs in tags.found if {"src", "href", "srcset", "data"} & attrs.keys()]
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|@import|\bfetch\(|XMLHttpRequest|WebSocket|\bimport\(", page)
    policy = next(attrs["content"] for _, attrs in tags.found if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"


def test_a_title_cannot_break_out(tmp_path: Path) -> None:
    title = "</script><script>alert(1)</script> & {data}"
    report.rollout_page(tmp_path / "a.html", None, [episode(5)], title)
    page = (tmp_path / "a.html").read_text()
    assert "<script>alert" not in page and embedded(page)["title"] == title


def test_a_thousand_steps_of_a_humanoid_stay_small(tmp_path: Path) -> None:
    report.rollout_page(tmp_path / "a.html", SCENE, [episode(1000, links=13, actions=17) for _ in range(4)], "a")
    assert (tmp_path / "a.html").stat().st_size < 3e6


@pytest.mark.parametrize(
    ("scene", "changes", "complaint"),
    [
        ({"dt": 0.1, "geoms": [geom("mesh", [1.0])]}, {}, "not mesh"),
        (SCENE, {"rewards": np.zeros(4)}, r"rewards \[4\]"),
        (SCENE, {"poses": np.zeros((5, 1, 7))}, r"poses \[5, 1, 7\]"),
        (None, {"rewards": [], "actions": [], "observations": []}, "at least one"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, scene: Any, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        report.rollout_page(tmp_path / "a.html", scene, [episode(5) | changes], "a")
    assert not list(tmp_path.iterdir())


# Plays, pauses, turns, scrubs and changes the episode as a visitor would; keeps the first visible canvas each time.
VISIT = """(async () => {
  const canvas = [...document.querySelectorAll("canvas")].find((c) => c.clientWidth > 0), shots = {};
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const drawn = () => new Promise((done) => requestAnimationFrame(done)); // called after the viewer's own drawing
  const shoot = async (name) => { await drawn(); await drawn(); shots[name] = canvas.toDataURL(); };
  const change = (selector, value, event) => {
    const element = document.querySelector(selector);
    element.value = value;
    element.dispatchEvent(new Event(event));
    return element;
  };
  await shoot("early");
  await pause(400);
  await shoot("later");
  document.querySelector("button").click();
  await shoot("paused");
  await pause(200);
  await shoot("still");
  canvas.dispatchEvent(new PointerEvent("pointermove", { buttons: 1, movementX: 120, movementY: 10 }));
  await shoot("turned");
  change("input", document.querySelector("input").max, "input");
  await shoot("end");
  const score = document.querySelector(".score b").textContent;
  change("header select", 1, "change");
  await shoot("second");
  return { shots, score, last: Number(document.querySelector("input").max) };
})()"""


@pytest.mark.browser
@pytest.mark.parametrize("scene", [SCENE, None], ids=["robot", "strips"])
def test_page_plays_in_a_browser(tmp_path: Path, scene: dict[str, Any] | None) -> None:
    """The picture moves, stops, turns, is scrubbed and changes episode; nothing is asked for and nothing fails."""
    episodes = [episode(200), episode(80)]
    report.rollout_page(tmp_path / "a.html", scene, episodes, "a")
    with browser(tmp_path / "profile") as page:
        page.open(tmp_path / "a.html")
        seen = page.run(VISIT)
        page.screenshot(tmp_path / "a.png")
    assert not page.complaints
    shots = seen["shots"]
    assert shots["early"] != shots["later"]
    assert shots["paused"] == shots["still"]
    assert (shots["turned"] != shots["still"]) == (scene is not None)
    assert shots["end"] != shots["still"] and shots["second"] != shots["end"]
    assert float(seen["score"]) == pytest.approx(episodes[0]["return"], abs=0.06)
    assert seen["last"] == 79
    if scene is not None:
        pixels = imread(tmp_path / "a.png")[..., :3]
        red = (pixels[..., 0] > 0.5) & (pixels[..., 0] > 2 * pixels[..., 2])
        assert red.mean() > 0.01, "the lit robot is not on the screen"
