"""Keys of an untrusted JSON object, each asked for with its bounds.

What this is: the one place where values of a `config.json` are checked; pure. Who calls it: `facts/config_json.py` and
`facts/config_counts.py`. What it must never do: guess a value that is there but wrong.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Never, NoReturn

from mainspring.errors import InputError

LARGEST = 16 * 1024 * 1024
"""Characters of a config.json that are read: real ones stay under 2 MB (quantised ones list their modules)."""

HINT = "mainspring catalog models"


def refuse(name: str, message: str) -> NoReturn:
    """Say what is wrong with the file."""
    raise InputError("bad-model-config", f"`{name}`: {message}", HINT)


def shown(value: object) -> str:
    """A value as a message can show it."""
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} nested very deep"
    return text if len(text) <= 60 else f"{text[:57]}..."


def parse(text: str, name: str) -> dict[str, Any]:
    """The JSON object of a config.json; InputError `bad-model-config` for anything else."""
    if len(text) > LARGEST:
        refuse(name, f"is {len(text):,} characters long; a model's config.json has at most {LARGEST:,}")
    try:
        found = json.loads(text, parse_constant=_constant)
    except RecursionError:
        refuse(name, "is nested too deep for a model's config.json")
    except ValueError as error:  # JSONDecodeError, or a number of thousands of digits
        refuse(name, f"is not JSON: {shown(str(error))}")
    if not isinstance(found, dict):
        refuse(name, f"holds {shown(found)} where a JSON object is expected")
    return found


def _constant(word: str) -> Never:
    raise ValueError(f"{word} is no JSON number")


@dataclass(frozen=True, slots=True)
class Keys:
    """A JSON object, and the name that its errors carry."""

    values: dict[str, Any]
    name: str

    def first(self, names: tuple[str, ...]) -> tuple[str, Any]:
        """The first of `names` that is there and not null, with its value; ("", None) when none is."""
        for key in names:
            if self.values.get(key) is not None:
                return key, self.values[key]
        return "", None

    def whole(self, *names: str, most: int, least: int = 1, default: int | None = None) -> int:
        """A whole number from `least` to `most`; without a default, one of `names` must be there."""
        key, value = self.first(names)
        if not key:
            if default is None:
                refuse(self.name, f"has no `{names[0]}`")
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            refuse(self.name, f"`{key}: {shown(value)}` is not a whole number")
        if not least <= value <= most:
            refuse(self.name, f"`{key}: {shown(value)}` is not between {least:,} and {most:,}")
        return value

    def flag(self, *names: str, default: bool) -> bool:
        """Yes or no."""
        key, value = self.first(names)
        if not key:
            return default
        if not isinstance(value, bool):
            refuse(self.name, f"`{key}: {shown(value)}` is neither true nor false")
        return value

    def word(self, *names: str, default: str = "") -> str:
        """A string."""
        key, value = self.first(names)
        if not key:
            return default
        if not isinstance(value, str):
            refuse(self.name, f"`{key}: {shown(value)}` is not a string")
        return value

    def listed(self, key: str, kind: type, most: int) -> list[Any]:
        """A list of one kind of thing; empty when it is not there."""
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > most or any(type(one) is not kind for one in value):
            refuse(self.name, f"`{key}: {shown(value)}` is not a list of at most {most:,} of {kind.__name__}")
        return value

    def within(self, key: str) -> Keys:
        """A nested object; empty when it is not there."""
        value = self.values.get(key)
        if value is None:
            return Keys({}, self.name)
        if not isinstance(value, dict):
            refuse(self.name, f"`{key}: {shown(value)}` is not an object")
        return Keys(value, self.name)
