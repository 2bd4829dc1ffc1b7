"""The settings of a language model: a version is its weights together with these.

What this is: `Manifest.settings` with names and ranges checked. Who calls it: whoever reads a manifest, and the
replica, which makes them the engine's defaults: a request's own values win.
What it must never do: give a setting a value that nobody chose; one that is left out is the engine's own.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from mainspring.errors import InputError

Value = str | int | float | bool

TEXT = 20_000
"""Characters of a system text at most."""

WHOLE: dict[str, tuple[int, int]] = {"top_k": (0, 1_000_000), "max_tokens": (1, 1_000_000), "seed": (0, 2**32 - 2)}
"""Whole numbers: least and most. The seed above the last one means a fresh seed each time to llama.cpp."""

REAL: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 5.0), "top_p": (0.0, 1.0), "min_p": (0.0, 1.0), "repeat_penalty": (0.0, 10.0)
}  # fmt: skip
"""Other numbers: least and most."""

POSITIVE = frozenset({"top_p", "repeat_penalty"})
"""Those that may not be zero."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a version answers where a request does not say; None: as the engine does."""

    system: str = ""  # the system message of requests that bring none; "": the chat template's own
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    max_tokens: int | None = None
    seed: int | None = None


NAMES = tuple(field.name for field in fields(Settings))


def read_settings(given: Mapping[str, Value]) -> Settings:
    """The settings of a manifest; InputError `bad-settings` for an unknown name or a value out of range."""
    made: dict[str, Value] = {}
    for name, value in given.items():
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, 1)
            asked = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(f'`{one}`' for one in NAMES)}"
            raise InputError("bad-settings", f"there is no setting `{name:.100}`", asked)
        wrong = _wrong(name, value)
        if wrong:
            raise InputError("bad-settings", f"the setting `{name}: {str(value)[:60]}` {wrong}")
        made[name] = value
    return Settings(**made)  # type: ignore[arg-type]  # each was checked by its name


def _wrong(name: str, value: Value) -> str:
    """What is wrong with a value; "" for nothing."""
    if name == "system":
        return _wrong_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "is not a number"
    if name in WHOLE:
        low, high = WHOLE[name]
        if not isinstance(value, int) or not low <= value <= high:
            return f"is not a whole number between {low:,} and {high:,}"
        return ""
    least, most = REAL[name]
    if name in POSITIVE:
        return "" if least < value <= most else f"is not above {least:g} and at most {most:g}"
    return "" if least <= value <= most else f"is not between {least:g} and {most:g}"


def _wrong_text(value: Value) -> str:
    if not isinstance(value, str) or not value or len(value) > TEXT:
        return f"is not a text of 1 to {TEXT:,} characters"
    odd = next((one for one in value if (one < " " and one not in "\n\t") or "\ud800" <= one <= "\udfff"), "")
    return f"has a character `{odd!r}` that no template can carry" if odd else ""
