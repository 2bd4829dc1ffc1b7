"""How the command line speaks: data on stdout, talk on stderr, tables of 80 columns, a glyph with a word for states.

What this is: the shared options of all verbs, and the few functions that write. Who calls it: every verb.
What it must never do: import a heavy package before it is needed, or rely on colour.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import click

WIDTH = 80
"""Columns of a table."""
FORMATS = ("table", "json", "yaml")
STATES = {
    "ok": ("✔", "+"),
    "progressing": ("◌", "~"),
    "waiting": ("·", "."),
    "paused": ("‖", "="),
    "bad": ("✖", "x"),
    "left out": ("–", "-"),
    "unknown": ("?", "?"),
}
"""A state's glyph, and the same in ASCII."""
_COLOURS = {"ok": "green", "progressing": "cyan", "waiting": "yellow", "paused": "yellow", "bad": "red"}

Column = str | tuple[str, str]
"""A key of the rows, which is also the header; or a header and a key."""


@dataclass(slots=True)
class Options:
    """What the global options said."""

    file: Path = Path("mainspring.yaml")
    output: str = "table"
    debug: bool = False
    color: bool = True

    def at(self, path: Path | None) -> None:
        """Take the stack file from an argument: the file itself, or its folder."""
        if path is not None:
            self.file = path / "mainspring.yaml" if path.is_dir() else path

    @property
    def folder(self) -> Path:
        """The folder that the stack file is in."""
        return self.file.resolve().parent

    @property
    def state(self) -> Path:
        """The state folder beside the stack file."""
        return self.folder / ".mainspring"


pass_options = click.make_pass_decorator(Options, ensure=True)
"""Gives a verb the `Options` as its first argument."""


def cell(value: object) -> str:
    """A value as it stands in a table: `<none>` for nothing, no control characters."""
    if value in (None, "", (), []):
        return "<none>"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ",".join(cell(item) for item in value)
    return "".join(char if char.isprintable() else " " for char in str(value))


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[Column], width: int = WIDTH) -> str:
    """Rows as text, with UPPERCASE headers; the widest columns are cut (`…`) until a line fits `width`."""
    pairs = [(column, column) if isinstance(column, str) else column for column in columns]
    head = [header.upper() for header, _ in pairs]
    body = [[cell(row.get(key)) for _, key in pairs] for row in rows]
    widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(pairs))]
    gaps = 2 * (len(widths) - 1)
    while sum(widths) + gaps > width and max(widths) > 8:
        widths[widths.index(max(widths))] -= 1
    lines = ["  ".join(_fit(text, size) for text, size in zip(line, widths, strict=True)) for line in (head, *body)]
    return "\n".join(line.rstrip() for line in lines)


def _fit(text: str, size: int) -> str:
    return text.ljust(size) if len(text) <= size else f"{text[: size - 1]}…"


def plain(data: Any) -> Any:
    """Data as JSON knows it: dataclasses and models become mappings, moments become text."""
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        return {one.name: plain(getattr(data, one.name)) for one in dataclasses.fields(data)}
    if hasattr(data, "model_dump"):
        return data.model_dump(mode="json", by_alias=True)
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple, set, frozenset)):
        return [plain(item) for item in data]
    if isinstance(data, float) and data - data != 0:
        return None  # JSON has no NaN and no infinity
    if isinstance(data, (datetime, date)):
        return data.isoformat()
    return data if isinstance(data, (str, int, float, bool, type(None))) else str(data)


def render(data: Any, fmt: str = "table", columns: Sequence[Column] | None = None) -> str:
    """Data as text: a list of mappings is a table, one mapping is its keys and values."""
    if fmt == "json":
        return json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False)
    if fmt == "yaml":
        import yaml

        return yaml.safe_dump(plain(data), sort_keys=False, allow_unicode=True).rstrip()
    data = plain(data)
    if isinstance(data, Mapping):
        size = max((len(key) for key in data), default=0)
        return "\n".join(f"{key.upper().ljust(size)}  {cell(value)}" for key, value in data.items())
    if isinstance(data, list):
        if not data:
            return "<none>"
        if all(isinstance(row, Mapping) for row in data):
            return table(data, columns or list(dict.fromkeys(key for row in data for key in row)))
        return "\n".join(cell(item) for item in data)
    return str(data)


def emit(data: Any, fmt: str = "table", columns: Sequence[Column] | None = None) -> None:
    """Write data to stdout in the format that `-o` asked for."""
    click.echo(render(data, fmt, columns))


def talk(message: str = "") -> None:
    """Say something to the person: stderr, never data."""
    click.echo(message, err=True)


def state(kind: str, word: str = "", *, color: bool = False) -> str:
    """A state as a glyph and a word (`✔ ok`); `kind` is a key of `STATES`. Reads without colour."""
    glyph, ascii_glyph = STATES.get(kind, STATES["unknown"])
    try:
        glyph.encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        glyph = ascii_glyph
    text = f"{glyph} {word or kind}"
    return click.style(text, fg=_COLOURS.get(kind)) if color else text
