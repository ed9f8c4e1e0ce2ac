"""The pages of the documentation, and what stands between their fences."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md"))]

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


class Block(NamedTuple):
    """What stands between two fences."""

    language: str
    line: int  # of its first line, from 1
    text: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    assert text.count("\n```") % 2 == 0, f"{page}: a fence is not closed"
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        yield Block(match[1], text[: match.start(2)].count("\n") + 1, match[2])


def pages_with(language: str) -> Any:
    pages = [page for page in PAGES if any(block.language == language for block in blocks(page))]
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))
