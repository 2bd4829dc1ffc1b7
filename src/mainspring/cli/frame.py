"""What the pages have in common: one HTML file that works offline, sections, charts, tables, tiles.

What this is: rendering, pure. Who calls it: `fleet_page.py`, `bench_page.py`, the demos' pages. What it must never do:
put text into a page without escaping it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from mainspring.cli.style import CSS


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page: no script, no reference to anything outside, light and dark."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def section(title: str, body: str) -> str:
    """A part of the page under a heading; `body` is HTML."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def chart(title: str, drawn: str, keys: str = "") -> str:
    """A drawing under its title; `keys` are HTML that says what is what in it."""
    legend = f'<p class="keys">{keys}</p>' if keys else ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{legend}{drawn}</figure>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str | None = None) -> str:
    """Rows of words; on a narrow screen each cell says its column."""
    names = "".join(f'<th class="words">{escape(name)}</th>' for name in head)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="words" data-name="{escape(name)}">{escape(cell)}</td>'
            for name, cell in zip(head, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    above = "" if caption is None else f"<caption>{escape(caption)}</caption>"
    return f"<table>{above}<thead><tr>{names}</tr></thead><tbody>{body}</tbody></table><br>"


def tiles(several: Sequence[tuple[str, str, str]]) -> str:
    """Name, value and note of each, side by side."""
    cells = "".join(
        f'<div class="tile"><dt>{escape(name)}</dt><dd>{escape(value)}</dd><p>{escape(note)}</p></div>'
        for name, value, note in several
    )
    return f"<dl class='tiles'>{cells}</dl>"
