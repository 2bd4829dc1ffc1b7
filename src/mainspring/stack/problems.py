"""What is wrong with a stack file, where a person can find it: places, nearest valid keys, plain words.

What this is: the second pass's complaints (pydantic's) turned into `Problem`s at the nodes they are about.
Who calls it: `load.py`, `resolve.py`. What it must never do: print, or quote more of a value than fits a line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from mainspring.errors import Problem
from mainspring.stack import fields
from mainspring.stack.yaml12 import Node

MAX_PROBLEMS = 100
"""More than these are counted, not shown."""

Loc = tuple[str | int, ...]


def nearest(word: str, words: Iterable[str]) -> str:
    """The most alike of some words, or "" when none is near."""
    candidates = [known for known in words if known]
    close = difflib.get_close_matches(word[:60], candidates, n=1, cutoff=0.6)
    if close:
        return close[0]
    begun = [known for known in candidates if len(word) >= 3 and (known.startswith(word) or word.startswith(known))]
    return min(begun, key=len) if begun else ""


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """`"; did you mean `replicas`?"`, or what there is when nothing is near and the list is short."""
    known = sorted(words)
    near = nearest(word, known)
    if near:
        return f"; did you mean `{near}`?"
    if 0 < len(known) <= 8:
        return f"; there is {', '.join(f'`{name[:60]}`' for name in known)}"
    return ""


def say(value: object, limit: int = 60) -> str:
    """A value in backticks on one line, cut to `limit` characters."""
    text = "".join(char if char.isprintable() else " " for char in str(value)[: limit + 1])
    return f"`{text[:limit]}…`" if len(text) > limit else f"`{text}`"


@dataclass(frozen=True, slots=True)
class Places:
    """Where things stand in one file: makes `Problem`s from paths."""

    file: str
    root: Node | None = None

    def find(self, loc: Sequence[str | int], *, key: bool = False) -> tuple[Node | None, int]:
        """The deepest node on the way to `loc`, and how many pieces led to it; `key`: the key, not its value."""
        node, used, spot = self.root, 0, self.root
        for piece in loc:
            if node is not None and node.kind == "map" and str(piece) in node.entries:
                spot, node = node.entries[str(piece)]
            elif node is not None and node.kind == "list" and isinstance(piece, int) and piece < len(node.items):
                spot = node = node.items[piece]
            else:
                break
            used += 1
        return (spot if key and used == len(loc) else node), used

    def problem(
        self, loc: Sequence[str | int], code: str, message: str, *, key: bool = False, hint: str = ""
    ) -> Problem:
        """A problem with the value (or the key) at `loc`; when it is absent, the nearest thing above is pointed at."""
        node, used = self.find(loc, key=key)
        if 0 < used < len(loc):  # point at the name of what lacks something, not at its first entry
            node, _ = self.find(loc[:used], key=True)
        where = (node.line, node.column) if node else (0, 1)
        path = ".".join(str(piece)[:60] for piece in loc)
        return Problem(code, message, path, self.file, *where, hint or explain_hint(loc))


def explain_hint(loc: Sequence[str | int]) -> str:
    """The command that explains the deepest place that exists on the way to `loc`."""
    for end in range(len(loc), 0, -1):
        place = fields.walk(tuple(loc[:end]))
        if place is not None:
            words = [piece for piece in place.path.split(".") if piece not in ("N", "NAME")]
            return f"mainspring explain {'.'.join(words)}"
    return "mainspring explain"


def of_validation(error: ValidationError, places: Places, prefix: Loc = ()) -> list[Problem]:
    """Pydantic's complaints as problems; those of one value's alternatives are told once."""
    found: dict[tuple[str, str], Problem] = {}
    for item in error.errors(include_url=False)[: 10 * MAX_PROBLEMS]:
        problem = _one(dict(item), places, prefix)
        found.setdefault((problem.path, problem.message), problem)
        if len(found) > MAX_PROBLEMS:
            break
    return list(found.values())


def _one(item: dict[str, Any], places: Places, prefix: Loc) -> Problem:
    kind: str = item["type"]
    loc: Loc = (*prefix, *item["loc"])
    if loc and loc[-1] == "[key]":
        return _bad_name(loc[:-1], places)
    if kind == "extra_forbidden":
        place = fields.walk(loc[:-1])
        known = fields.keys(place.section) if place and place.section else {}
        message = f"there is no {say(loc[-1])} here{did_you_mean(str(loc[-1]), known)}"
        hint = explain_hint(loc[:-1])
        return places.problem(loc, "unknown-key", message, key=True, hint=hint)
    if kind == "missing":
        place = fields.walk(loc)
        what = f": {_first_sentence(place.doc)}" if place and place.doc else ""
        return places.problem(loc, "missing-key", f"{say(loc[-1])} is missing{what}")
    at = item.get("ctx", {}).get("at", ()) if kind not in _PHRASES else ()
    loc = _trim((*loc, *at), places)
    return places.problem(loc, _code(kind), _message(kind, item))


def _bad_name(loc: Loc, places: Places) -> Problem:
    message = f"{say(loc[-1])} is not a name: lower-case letters, digits and hyphens, a letter first, 40 at most"
    return places.problem(loc, "bad-name", message, key=True)


def _trim(loc: Loc, places: Places) -> Loc:
    """Drop what pydantic adds below a scalar (union members, the long form of a shorthand)."""
    node, used = places.find(loc)
    if node is not None and used < len(loc) and node.kind == "scalar":
        return loc[:used]
    return loc


def _code(kind: str) -> str:
    return {"value_error": "bad-value", "literal_error": "bad-value"}.get(kind, kind.replace("_", "-"))


_PHRASES = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "`true` or `false`",
    "bool_parsing": "`true` or `false`",
    "string_type": "a text (put it in quotes if it looks like a number)",
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
    "dict_type": "a mapping of names",
    "tuple_type": "a list",
    "list_type": "a list",
}


def _message(kind: str, item: dict[str, Any]) -> str:
    given = item.get("input")
    ctx = item.get("ctx", {})
    if kind == "value_error":
        return _cut(str(ctx.get("error", item["msg"])))
    if kind in _PHRASES:
        wanted = _PHRASES[kind]
        return f"{_given(given)} is not {wanted}" if given is not None else f"there is no value; {wanted} is wanted"
    if kind == "literal_error":
        known = [word.strip("'") for word in str(ctx.get("expected", "")).replace(" or ", ", ").split(", ")]
        near = nearest(str(given), known) if len(known) > 1 else ""
        listed = " or ".join(f"`{word}`" for word in known)
        return f"{_given(given)} is not known: write {listed}" + (f"; did you mean `{near}`?" if near else "")
    if kind == "string_pattern_mismatch":
        return f"{_given(given)} {_pattern(str(ctx.get('pattern', '')))}"
    bounds = {"greater_than_equal": ("ge", "at least"), "less_than_equal": ("le", "at most")}
    bounds |= {"greater_than": ("gt", "more than"), "less_than": ("lt", "less than")}
    if kind in bounds:
        name, words = bounds[kind]
        return f"{_given(given)} is out of range: {words} {ctx.get(name)} is wanted"
    if kind == "too_short":
        return "nothing is in it: at least one is wanted"
    return _cut(f"{_given(given)}: {item['msg']}")


def _pattern(pattern: str) -> str:
    if "@champion" in pattern:
        return "is not a model to follow: write `NAME@champion`"
    if ":" in pattern:
        return "is not a function: write `module:function`"
    return "is not a name: lower-case letters, digits and hyphens, a letter first, 40 at most"


def _given(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return say({True: "true", False: "false"}[value] if isinstance(value, bool) else value)


def _cut(text: str, limit: int = 300) -> str:
    flat = "".join(char if char.isprintable() else " " for char in text[: limit + 1])
    return flat if len(flat) <= limit else f"{flat[:limit]}…"


def _first_sentence(doc: str) -> str:
    flat = " ".join(doc.split())
    sentence = flat.split(". ", 1)[0].rstrip(".")
    return sentence[0].lower() + sentence[1:] if sentence[:1].isupper() and not sentence[1:2].isupper() else sentence


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """File order, without repeats, cut to `MAX_PROBLEMS` with a last line that counts the rest."""
    unique = sorted(dict.fromkeys(problems), key=lambda one: (one.line, one.column, one.path, one.message))
    if len(unique) <= MAX_PROBLEMS:
        return tuple(unique)
    rest = len(unique) - MAX_PROBLEMS
    last = unique[-1]
    more = Problem("more-problems", f"and {rest} more", "", last.file, 0, 1)
    return (*unique[:MAX_PROBLEMS], more)
