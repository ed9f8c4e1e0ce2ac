"""Films of episodes that went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx import cli, film
from rlx.errors import RlxError
from tests.scenes import SCENE, episode


def test_moments_that_are_not_finite_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an episode that burst; the others are as long as they were."""
    given: list[Any] = []

    def pictures(scene: Any, episodes: Any, moments: Any, size: tuple[int, int]) -> Any:
        given.extend([list(moments), *episodes])
        return (np.zeros((*size, 3), np.uint8) for _ in moments)

    monkeypatch.setattr(film, "pictures", pictures)
    burst, well = episode(6), episode(4)
    burst["poses"][3, 1, 0], burst["poses"][5] = np.nan, np.inf
    film.write(tmp_path / "a.gif", SCENE, [burst, well], 10.0)
    moments, first, second = given
    kept = [0, 1, 2, 4]
    assert moments == [0, 1, 2, 3]
    np.testing.assert_array_equal(first["poses"], burst["poses"][kept])
    np.testing.assert_array_equal(first["rewards"], burst["rewards"][kept])
    np.testing.assert_array_equal(second["poses"], well["poses"])
    assert np.isfinite(film.camera_path(SCENE, first["poses"])[0]).all()


def test_an_episode_without_a_finite_moment(tmp_path: Path) -> None:
    burst = episode(3)
    burst["poses"][:] = np.nan
    with pytest.raises(RlxError, match=r"a.gif: an episode holds no finite pose to film; .* play another --step"):
        film.write(tmp_path / "a.gif", SCENE, [episode(3), burst], 10.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seconds", ["inf", "nan", "0", "-1"])
def test_a_film_has_an_end(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["play", "runs/none", "--gif", "a.gif", f"--seconds={seconds}"]) == 2
    assert capsys.readouterr().err == f"rlx: --seconds {seconds}: must be more than 0 and finite\n"
