"""HTML of a report: style, tables, figures and tiles. All texts are escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

STYLE = """
:root { color-scheme: light; --ink: #1c2330; --soft: #5a6475; --line: #dfe3ea; --paper: #fff; --wash: #f5f7fa; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--wash); font: 15px/1.55 system-ui, sans-serif;
  font-variant-numeric: tabular-nums; }
.sheet { max-width: 1160px; margin: 0 auto; padding: 28px 20px 56px; }
.sheet > h1 { margin: 0; font-size: 28px; line-height: 1.25; }
.sheet > .about { margin: 4px 0 20px; color: var(--soft); overflow-wrap: anywhere; }
.sheet > .warning { margin: -8px 0 20px; padding: 8px 14px; background: #fff4d6; border-radius: 8px; }
.card { margin: 0 0 18px; padding: 18px 22px; background: var(--paper); border: 1px solid var(--line);
  border-radius: 10px; }
.card h2 { margin: 0 0 10px; font-size: 18px; }
.card h3 { margin: 18px 0 6px; font-size: 15px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px; margin-bottom: 18px; }
.tiles div { padding: 14px 18px; background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  color: var(--soft); font-size: 13px; }
.tiles b { display: block; color: var(--ink); font-size: 26px; line-height: 1.2; }
.side-by-side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 18px 28px; }
* + .side-by-side { margin-top: 18px; }
h2 + .side-by-side { margin-top: 0; }
.side-by-side > div { min-width: 0; }
.side-by-side h3:first-child { margin-top: 0; }
figure { margin: 0; max-width: 620px; }
figure svg { display: block; width: 100%; height: auto; }
.words { margin: 4px 0 0; padding: 0; list-style: none; }
figcaption, .note { margin: 8px 0 0; color: var(--soft); font-size: 13px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; }
th, td { padding: 5px 14px 5px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th:not(:first-child) { white-space: normal; max-width: 11em; }
th:first-child, td:first-child { text-align: left; }
td.changed { font-weight: 650; }
i.key { display: inline-block; width: 11px; height: 11px; margin-right: 8px; border-radius: 3px; }
details { margin-top: 12px; }
summary { cursor: pointer; color: var(--soft); }
#view { height: 620px; }
.card.player { padding: 0; overflow: hidden; border: 0; }
@media print { .player { display: none; } .card { break-inside: avoid; } }
"""


class Cell(str):
    """Text of a table cell that is highlighted: it differs from the default."""


def table(rows: Sequence[Sequence[str]], colors: Mapping[str, str] | None = None) -> str:
    """Rows of cells, headings first; a heading or first cell with a run's name is marked with its colour."""
    keys = colors or {}

    def cell(text: str, tag: str, names: bool) -> str:
        key = f'<i class="key" style="background: {keys[text]}"></i>' if names and text in keys else ""
        changed = ' class="changed"' if isinstance(text, Cell) else ""
        return f"<{tag}{changed}>{key}{html.escape(text)}</{tag}>"

    head, *body = rows
    top = "".join(cell(text, "th", True) for text in head)
    lines = ("".join(cell(text, "td", i == 0) for i, text in enumerate(row)) for row in body)
    inner = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{inner}</tbody></table></div>'


def card(title: str, *parts: str) -> str:
    """One section of the page; `parts` are HTML."""
    return f'<section class="card"><h2>{html.escape(title)}</h2>{"".join(parts)}</section>'


def figure(svg: str, alt: str, caption: str) -> str:
    """A figure with a text alternative and a caption."""
    text = f"{svg}<figcaption>{html.escape(caption)}</figcaption>"
    return f'<figure role="img" aria-label="{html.escape(alt)}">{text}</figure>'


def side_by_side(*parts: str) -> str:
    """HTML side by side, where the page is wide enough."""
    return f'<div class="side-by-side">{"".join(f"<div>{part}</div>" for part in parts if part)}</div>'


def tiles(numbers: Iterable[tuple[str, str]]) -> str:
    """Key numbers, each as (number, caption)."""
    inner = "".join(f"<div><b>{html.escape(number)}</b>{html.escape(text)}</div>" for number, text in numbers)
    return f'<div class="tiles">{inner}</div>'


def note(text: str) -> str:
    """A paragraph in small print."""
    return f'<p class="note">{html.escape(text)}</p>'


def warning(text: str) -> str:
    """A highlighted paragraph."""
    return f'<p class="warning">{html.escape(text)}</p>'


def words(lines: Iterable[str]) -> str:
    """A list of sentences."""
    return f'<ul class="words">{"".join(f"<li>{html.escape(line)}</li>" for line in lines)}</ul>'


def subtitle(text: str) -> str:
    """A heading within a section."""
    return f"<h3>{html.escape(text)}</h3>"


def fold(title: str, inside: str) -> str:
    """HTML that the reader can unfold."""
    return f"<details><summary>{html.escape(title)}</summary>{inside}</details>"
