"""Pages of episodes hold what they were given, play it in a browser, and ask the network for nothing."""

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from rlx.analysis import play
from rlx.errors import RlxError
from rlx.evaluate import renderable_scene
from rlx.runs import recording
from rlx.visual import viewer
from tests.browser import browser
from tests.scenes import SCENE, check_offline, embedded, episode, geom, mutated, unpack


@pytest.mark.parametrize("view", viewer.VIEWS)
def test_page_holds_what_it_was_given(tmp_path: Path, view: str) -> None:
    """Titles are escaped, the network is asked for nothing, and rlx knows the page again."""
    episodes, title = [episode(30), episode(7)], "</script><script>alert(1)</script> & {data}"
    path = tmp_path / "a.html"
    viewer.rollout_page(path, SCENE, episodes, title, view)
    page = path.read_text()
    check_offline(page)
    data = embedded(page)
    assert "<script>alert" not in page and data["title"] == title and data["dt"] == 0.05
    assert data["geoms"] == json.loads(json.dumps(SCENE["geoms"]))
    for given, held in zip(episodes, data["episodes"], strict=True):
        assert held["return"] == given["return"] and "observations" not in held
        for name in ("poses", "rewards", "actions"):
            np.testing.assert_array_equal(unpack(held[name]), np.asarray(given[name], np.float32))
    viewer.rollout_page(path, SCENE, episodes, "x" * 5000, view)
    (tmp_path / "b.html").write_text("<!doctype html><title>my page</title>")
    assert viewer.is_ours(path) and not viewer.is_ours(tmp_path / "b.html")


def test_a_thousand_steps_of_a_humanoid_stay_small(tmp_path: Path) -> None:
    viewer.rollout_page(tmp_path / "a.html", SCENE, [episode(1000, links=13, actions=17) for _ in range(4)], "a")
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
def test_arrays_of_wrong_shapes_are_refused(tmp_path: Path, scene: Any, changes: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        viewer.rollout_page(tmp_path / "a.html", scene, [episode(5) | changes], "a")
    assert not list(tmp_path.iterdir())


# Plays, pauses, turns and scrubs as a visitor would; keeps what `PICTURES` are each time.
TOUR = """(async () => {
  const shots = {}, pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const drawn = () => new Promise((done) => requestAnimationFrame(done)); // called after the viewer's own drawing
  const shoot = async (name) => { await drawn(); await drawn(); shots[name] = PICTURES; };
  const change = (selector, value, event) => {
    const element = document.querySelector(selector);
    element.value = value;
    element.dispatchEvent(new Event(event));
  };
  const first = [...document.querySelectorAll("canvas")].find((c) => c.clientWidth > 0);
  await shoot("early");
  await pause(500);
  await shoot("later");
  document.querySelector("button").click();
  await shoot("paused");
  await pause(200);
  await shoot("still");
  first.dispatchEvent(new PointerEvent("pointermove", { buttons: 1, movementX: 120, movementY: 10 }));
  await shoot("turned");
  change("input", document.querySelector("input").max, "input");
  await shoot("end");
"""
VISIT = (
    TOUR.replace("PICTURES", "first.toDataURL()")
    + """
  const score = document.querySelector(".score b").textContent;
  change("header select", 1, "change");
  await shoot("second");
  return { shots, score, last: Number(document.querySelector("input").max) };
})()"""
)
PANES = """[...document.querySelectorAll(".pane")].map((pane) =>
  [...pane.querySelectorAll("canvas")].map((canvas) => canvas.toDataURL()))"""
GRID = (
    TOUR.replace("PICTURES", PANES)
    + """
  const texts = (selector) => [...document.querySelectorAll(selector)].map((element) => element.textContent);
  return { shots, returns: texts("output"), names: texts(".pane b"), steps: texts(".pane p span"),
    over: [...document.querySelectorAll(".pane")].map((pane) => pane.classList.contains("over")),
    across: getComputedStyle(document.querySelector("main")).gridTemplateColumns.split(" ").length,
    wide: document.documentElement.scrollWidth <= window.innerWidth };
})()"""
)


@pytest.mark.browser
@pytest.mark.parametrize("scene", [SCENE, None], ids=["robot", "strips"])
def test_page_plays_in_a_browser(tmp_path: Path, scene: dict[str, Any] | None) -> None:
    """The picture moves, stops, turns, is scrubbed and changes episode; nothing is asked for and nothing fails."""
    episodes = [episode(200), episode(80)]
    viewer.rollout_page(tmp_path / "a.html", scene, episodes, "a")
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


def test_recorded_reads_back_what_pack_returned(tmp_path: Path) -> None:
    """Also of a page that is no page of episodes, or none at all: nothing."""
    episodes = [episode(3) | {"label": "</script>"}, episode(4)]
    viewer.rollout_page(tmp_path / "a.html", SCENE, episodes, "a")
    result = viewer.recorded(tmp_path / "a.html")
    assert result is not None and result == json.loads(json.dumps(viewer.pack(SCENE, episodes, "a")))
    assert [one["label"] for one in result["episodes"]] == ["</script>", "episode 2"]
    for text in ("<p>", *(ISLAND % data for data in ("{", "{}", "[]", "null", "5", "[" * 10**5))):
        (tmp_path / "b.html").write_text(text)
        assert viewer.recorded(tmp_path / "b.html") is None
    assert viewer.recorded(tmp_path / "none.html") is None


ISLAND = '<script type="application/json" id="data">%s</script>'


@pytest.mark.parametrize("scene", [SCENE, None])
def test_a_foreign_page_is_read_as_rlx_wrote_it_or_not_at_all(tmp_path: Path, scene: Any) -> None:
    """Whatever is read can be put into a report: it is JSON, and its arrays have the sizes they state."""
    count, path = 0, tmp_path / "a.html"
    for data in mutated(viewer.pack(scene, [episode(2)], "a")):
        path.write_text(ISLAND % json.dumps(data))
        read = viewer.recorded(path)
        if read is not None:
            assert "<script" in viewer.player(read, "grid")
            assert [len(unpack(one["rewards"])) for one in read["episodes"]] == [2]
            count += 1
    assert count < 250


def test_a_full_disk_after_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is a matter of room, since `rlx train` has no --out; and the page that was there stays."""

    def full(draft: Path, target: Path) -> None:
        if target.suffix == ".html":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.replace(draft, target)

    (tmp_path / "rollout.html").write_text("good")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RlxError, match=r"No space left on device\); make room, then go on with `rlx train --resume"):
        with recording.marked(tmp_path):
            viewer.rollout_page(tmp_path / "rollout.html", SCENE, [episode(3)], "a")
    assert (tmp_path / "rollout.html").read_text() == "good" and not list(tmp_path.glob("*.tmp"))


def test_an_unwritable_page_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(play, "play", lambda *arguments: play.Played("a", SCENE, [episode(3)]))
    (tmp_path / "file").touch()
    with pytest.raises(RlxError, match=r"new/a.html: cannot be written \(Not a directory\); choose another --out"):
        play.make(tmp_path, tmp_path / "file" / "new" / "a.html")


def landscape(geoms: list[dict[str, Any]]) -> Any:
    return SimpleNamespace(scene=lambda: {"dt": 0.1, "geoms": geoms})


@pytest.mark.parametrize("shapes", [[], [geom("plane", [0, 0], -1)], [geom("box", [1, 1, 1], -1)]])
def test_scenes_without_moving_geoms_are_not_renderable(shapes: list[dict[str, Any]]) -> None:
    """The recorder and the page agree about it, which shows observations instead, as it does without any scene."""
    assert renderable_scene(landscape(shapes)) is None
    for scene in (None, landscape(shapes).scene()):
        packed, given = viewer.pack(scene, [episode(3)], "a"), episode(3)["observations"]
        assert packed["geoms"] is None and "poses" not in packed["episodes"][0]
        np.testing.assert_array_equal(unpack(packed["episodes"][0]["observations"]), given.astype(np.float32))
    moving = landscape([*shapes, geom("box", [1, 1, 1], 0)])
    assert renderable_scene(moving) == moving.scene()
    assert viewer.pack(moving.scene(), [episode(3)], "a")["geoms"] == moving.scene()["geoms"]


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("scene", [SCENE, None], ids=["robots", "strips"])
def test_a_grid_plays_in_a_browser(tmp_path: Path, scene: dict[str, Any] | None, width: int) -> None:
    """Every pane moves and stops with the others, one camera turns them all, and each shows its return and actions."""
    episodes = [episode(steps) for steps in (200, 80, 150)]
    viewer.rollout_page(tmp_path / "a.html", scene, episodes, "a", "grid")
    with browser(tmp_path / "profile", width) as page:
        page.open(tmp_path / "a.html")
        seen = page.run(GRID)
    assert not page.complaints
    shots = seen["shots"]
    for i in range(3):
        (early, bars), (later, later_bars) = shots["early"][i], shots["later"][i]
        assert early != later and bars != later_bars
        assert shots["paused"][i] == shots["still"][i]
        assert (shots["turned"][i][0] != shots["still"][i][0]) == (scene is not None)
    assert len({shot[0] for shot in shots["end"]}) == 3
    assert seen["names"] == ["episode 1", "episode 2", "episode 3"]
    assert [float(text) for text in seen["returns"]] == pytest.approx([one["return"] for one in episodes], abs=0.06)
    assert seen["steps"] == ["step 200 of 200", "step 80 of 80", "step 150 of 150"]
    assert seen["over"] == [False, True, True]
    assert (seen["across"], seen["wide"]) == (3 if width > 1000 else 1, True)
