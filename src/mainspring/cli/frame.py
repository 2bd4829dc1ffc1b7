"""What the pages have in common: one HTML file that works offline, sections, tiles.

What this is: rendering, pure. Who calls it: `demo/page.py`, `fleet_page.py`. What it must never do: put text into a
page without escaping it.
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


def tiles(several: Sequence[tuple[str, str, str]]) -> str:
    """Name, value and note of each, side by side."""
    cells = "".join(
        f'<div class="tile"><dt>{escape(name)}</dt><dd>{escape(value)}</dd><p>{escape(note)}</p></div>'
        for name, value, note in several
    )
    return f"<dl class='tiles'>{cells}</dl>"
