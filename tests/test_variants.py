"""Tables of agents and their variants: seeds that are added, which rows are made, and what the page says of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import off_policy, variants
from benchmarks.variants import Group

GROUPS = {"walk": Group("A walk", {"env": "walk"}, {"sac": ("sac", {}), "wide": ("sac", {"width": 9})}, goal=10.0)}
MADE = {"date": "2026-01-01", "versions": {"jax": "1.0"}, "hardware": {"kind": "cpu"}, "processor": "2 cores"}


def fake_run(agent: str, settings: dict[str, Any], seeds: int, seed: int = 0) -> dict[str, Any]:
    """Seed s returns s, and 10 + s at the end."""
    returns = [[float(first + s) for s in range(seed, seed + seeds)] for first in (0, 10)]
    made = MADE | {"versions": {"jax": "1.0", "commit": f"of{seed}"}}
    return {"agent": agent, "settings": settings, "env_steps": [5, 9], "returns": returns, "cpu_s": 2.0, "made": made}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`make(arguments)` runs the command into one folder; returns its rows and the page."""
    monkeypatch.setattr(variants, "run", fake_run)

    def make(*arguments: str) -> tuple[dict[str, Any], str]:
        monkeypatch.setattr("sys.argv", ["variants", *arguments, "--out", str(tmp_path)])
        variants.main(GROUPS, "walks", "Walks", "what it does")
        return json.loads((tmp_path / "walks.json").read_text())["walk"], (tmp_path / "walks.md").read_text()

    return make


def test_seeds_that_are_missing_are_added(make: Any) -> None:
    rows, page = make("--rows", "wide", "--seeds", "2")
    assert list(rows) == ["wide"] and rows["wide"]["settings"] == {"width": 9, "env": "walk"}
    assert "## A walk, 2 seeds" in page and "| seeds |" not in page
    rows, page = make("--rows", "sac")
    assert list(rows) == ["sac", "wide"] and "## A walk, 2 to 5 seeds" in page  # in the table's order
    assert "| sac | 12 (11 to 13) | 7 (6 to 8) | 9 | 2 | 5 |" in page and "| wide | 10 (10 to 11) |" in page
    rows, page = make()
    assert rows["wide"]["returns"] == [[0, 1, 2, 3, 4], [10, 11, 12, 13, 14]] and rows["wide"]["cpu_s"] == 4.0
    assert "2026-01-01, 2 cores, jax 1.0, commits of0, of2." in page and "| seeds |" not in page


def test_rows_that_no_table_has_are_refused(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make("--rows", "wider")
    assert "--rows: no table of walk has wider" in capsys.readouterr().err


def test_all_robots_in_one_table() -> None:
    """Interquartile means of the last returns, ordered by the mean ratio to SAC's; rows that every robot has."""

    def row(*final: float) -> dict[str, Any]:
        return {"returns": [[0.0] * len(final), list(final)]}

    made = {name: {"sac": row(1, 2, 3, 4, 99), "td3": row(6, 6, 6, 6, 6)} for name in off_policy.ROBOTS}
    made["ant"]["alone"] = row(7, 7)
    assert off_policy.overview({"ant": made["ant"]}) == []
    made["hopper"]["td3"] = row(9, 9)
    (page,) = off_policy.overview(made)
    lines = page.splitlines()
    assert "over 2 to 5 seeds" in page and "alone" not in page
    assert lines[-2:] == ["| td3 | 6 | 6 | 9 | 6 | 6 | 2.20 |", "| sac | 3 | 3 | 3 | 3 | 3 | 1.00 |"]
