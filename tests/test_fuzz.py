"""A slice of `make fuzz`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import fuzz


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "templates"
    fuzz.make_templates(folder)
    return folder


@pytest.mark.parametrize("kind", fuzz.CASES)
def test_odd_input_ends_in_a_line(kind: str, templates: Path) -> None:
    assert fuzz.run_cases(kind, range(60), 0, templates) == []


def test_findings_say_how_to_repeat_them(templates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(words: list[str]) -> int:
        raise KeyError("a")

    monkeypatch.setattr(fuzz, "rlx", fails)
    (line,) = fuzz.run_cases("data", range(3, 4), 7, templates)
    assert line.startswith("python -m tests.fuzz --only data --seed 7 --case 3") and "KeyError" in line
