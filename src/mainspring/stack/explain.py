"""`explain PATH`: what a place in the stack file means, from the models' own docstrings.

What this is: the reference manual, printed. Who calls it: `mainspring explain`. What it must never do: hold text that
the models do not.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

import yaml

from mainspring.errors import InputError
from mainspring.stack import fields
from mainspring.stack.fleet_units import Spread
from mainspring.stack.problems import nearest, say
from mainspring.stack.rollout import Over, Wave
from mainspring.stack.units import Range, Rate

WIDTH = 80
"""Columns of a terminal."""


def explain(path: str = "") -> str:
    """The doc, type, default and keys of a place: `serving.rollout`, `serving.delay.batch`, or "" for the whole file.

    Raises `InputError` with the nearest valid path.
    """
    place = _found(path)
    lines = [_title(place), *_wrap(place.doc, "  "), ""]
    shown = place
    while shown.section is None and (entry := shown.entry()) is not None:
        shown = entry  # a mapping of names, or a list: what its entries hold is what is asked about
        if shown.doc and shown.doc != place.doc:
            lines += [f"  Each ({shown.path}):", *_wrap(shown.doc, "    "), ""]
    if place.path:
        lines += _facts(place)
    rows = [(key, child) for key, child in shown.children()]
    if rows:
        lines += ["", "  Keys:"] if place.path else ["  Keys:"]
        lines += _keys(rows)
    if rows and (entry := shown.entry()) is not None:
        lines += ["", f"  Any other name ({entry.path}):", *_wrap(entry.doc, "    ")]
        lines += _keys(entry.children())
    return "\n".join(lines).rstrip() + "\n"


def _keys(rows: Iterable[tuple[str, fields.Place]]) -> list[str]:
    """Keys and what they mean, as lines."""
    lines = []
    for key, child in rows:
        mark = " (required)" if child.default is fields.REQUIRED else ""
        lines += [f"    {key}{mark}", *_wrap(f"{child.doc}", "        ")]
    return lines


def describe(path: str = "") -> dict[str, Any]:
    """The same as data: path, doc, takes, default, and the keys with theirs. Raises `InputError`."""
    place = _found(path)
    shown = place
    while shown.section is None and (entry := shown.entry()) is not None:
        shown = entry
    return {**_entry(place), "keys": {key: _entry(child) for key, child in shown.children()}}


def _entry(place: fields.Place) -> dict[str, Any]:
    required = place.default is fields.REQUIRED
    default = None if required else plain_default(place)
    doc = " ".join(place.doc.split())
    return {"path": place.path, "doc": doc, "takes": fields.kind_of(place), "required": required, "default": default}


def _found(path: str) -> fields.Place:
    pieces = tuple(piece for piece in path.strip().split(".") if piece)
    place = fields.find(pieces)
    if place is None:
        raise _unknown(pieces)
    return place


def _title(place: fields.Place) -> str:
    return place.path or "mainspring.yaml"


def _facts(place: fields.Place) -> list[str]:
    lines = _wrap(f"Takes: {fields.kind_of(place)}", "  ", hang="         ")
    if place.default is fields.REQUIRED:
        lines.append("  Default: none; it has to be there" if place.path.split(".")[-1] not in ("NAME", "N") else "")
    else:
        shown = _default(place)
        if shown:
            lines += _wrap(f"Default: {shown}", "  ", hang="           ")
    return [line for line in lines if line]


def _default(place: fields.Place) -> str:
    plain = plain_default(place)
    if plain is None or plain in ({}, []):
        return "nothing"
    return " ".join(
        yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=10_000).split("\n")[0].split()
    )


def plain_default(place: fields.Place) -> Any:
    """A field's default as a person would write it in the file (None: nothing)."""
    return _plain(place.default, fields.kind_of(place))


def _plain(value: Any, kind: str) -> Any:
    if hasattr(value, "model_fields_set"):
        made = {}
        for name, info in type(value).model_fields.items():
            key = info.alias or name
            if value.model_fields_set and name not in value.model_fields_set:
                continue
            child = fields.Place(key, info.annotation, "", info.default, tuple(info.metadata))
            plain = _plain(getattr(value, name), fields.kind_of(child))
            if plain is not None and plain not in ({}, []):
                made[key] = plain
        return made
    if isinstance(value, Over | Wave):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item, "") for item in value]
    if isinstance(value, Rate):
        return _rate(value, money=kind.startswith("budget"))
    if isinstance(value, Range):
        return value.low if value.low == value.high else f"{value.low}..{value.high}"
    if isinstance(value, Spread):
        return value.low if value.low == value.high and not value.per_region else str(value)
    return _number(value, kind) if isinstance(value, float) else value


def _number(value: float, kind: str) -> float | str:
    """A number with its unit, as a person writes it."""
    if kind.startswith("factor"):
        return f"{value:g}x"
    if kind.startswith("duration"):
        return duration(value)
    if kind.startswith("share"):
        return f"{value * 100:.10g}%"
    return f"${value:g}/h" if kind.startswith("price") else value


def duration(seconds: float) -> str:
    """Seconds as a person writes them: `2ms`, `10m`, `14d`."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds * 1000:g}ms" if seconds < 1 else f"{seconds:g}s"


def _rate(rate: Rate, *, money: bool) -> str:
    unit = {31556952.0: "year", 2629746.0: "month", 604800.0: "week", 86400.0: "day"}.get(rate.per) or duration(
        rate.per
    )
    return f"${rate.count:g}/{unit}" if money else f"{rate.count:g} per {unit}"


def _wrap(text: str, indent: str, hang: str | None = None) -> list[str]:
    flat = " ".join(text.split())
    return textwrap.wrap(flat, WIDTH, initial_indent=indent, subsequent_indent=hang or indent, break_long_words=False)


def _unknown(pieces: tuple[str, ...]) -> InputError:
    """Say where a path leaves the file, and what is there instead."""
    for end in range(len(pieces) - 1, -1, -1):
        place = fields.find(pieces[:end])
        if place is None:
            continue
        while place.section is None and (entry := place.entry()) is not None:
            place = entry
        known = [key for key, _ in place.children()]
        near = nearest(pieces[end], known)
        prefix = ".".join(pieces[:end])
        meant = f"; did you mean `{near}`?" if near else ""
        where = f"`{prefix}` has" if prefix else "the stack file has"
        target = ".".join(piece for piece in (prefix, near) if piece)
        return InputError(
            "unknown-path", f"{where} no {say(pieces[end])}{meant}", f"mainspring explain {target}".strip()
        )
    return InputError("unknown-path", f"there is no {say('.'.join(pieces))}", "mainspring explain")


def reference() -> str:
    """The whole file's reference as Markdown: every key with its doc; the second half of `docs/stack-file.md`."""
    lines: list[str] = []
    for name, section in fields.ROOT.children():
        lines += [f"### `{name}`", "", " ".join(section.doc.split()), ""]
        lines += _listed(section)
        lines.append("")
    return "\n".join(lines)


def _listed(place: fields.Place, level: int = 0) -> list[str]:
    shown = place
    while shown.section is None and (entry := shown.entry()) is not None:
        shown = entry
    lines: list[str] = []
    for key, child in shown.children():
        required = " (required)" if child.default is fields.REQUIRED else ""
        default = (
            "" if "Default" in child.doc or required or not plain_default(child) else f" Default: {_default(child)}."
        )
        doc = " ".join(child.doc.split())
        takes = "" if child.section or child.element else f" *{fields.kind_of(child)}*."
        lines.append(f"{'  ' * level}- `{key}`{required}: {doc}{takes}{default}")
        lines += _listed(child, level + 1)
    entry = shown.entry() if shown.section is not None else None
    if entry is not None:
        lines.append(f"{'  ' * level}- any other name: {' '.join(entry.doc.split())}")
        lines += _listed(entry, level + 1)
    return lines
