"""The stack file's JSON schema (draft 2020-12), for editors, made from the models and their docstrings.

What this is: one pure function over the models. Who calls it: `mainspring schema`, `init`. What it must never do:
say anything that the models do not.
"""

from __future__ import annotations

import warnings
from typing import Any

from pydantic.json_schema import PydanticJsonSchemaWarning

from mainspring.stack import fields
from mainspring.stack.base import Section
from mainspring.stack.explain import plain_default
from mainspring.stack.model import Stack

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SHORT = {
    "StepSpec": {"type": "string", "description": "The function alone, as `module:function`."},
    "DataSpec": {"type": "string", "description": "The address alone."},
}


def json_schema() -> dict[str, Any]:
    """The schema of a whole stack file; defaults are written as a person would write them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PydanticJsonSchemaWarning)  # defaults that are not JSON are set below
        made = Stack.model_json_schema(by_alias=True, mode="validation")
    definitions: dict[str, Any] = made.get("$defs", {})
    _defaults(made, Stack)
    for section in _sections(Section):
        if section.__name__ in definitions:
            _defaults(definitions[section.__name__], section)
    for name, short in _SHORT.items():
        definitions[name] = {
            "anyOf": [short, definitions[name]],
            "description": definitions[name].get("description", ""),
        }
    return {"$schema": DIALECT, "title": "Mainspring stack file", **{k: v for k, v in made.items() if k != "title"}}


def _defaults(schema: dict[str, Any], section: type[Section]) -> None:
    root = fields.Place("", section)
    for key, place in root.children():
        entry = schema.get("properties", {}).get(key)
        if entry is None:
            continue
        entry.pop("title", None)
        entry.pop("default", None)
        if place.doc:
            entry["description"] = " ".join(place.doc.split())
        if place.default is not fields.REQUIRED:
            plain = plain_default(place)
            if plain is not None and plain not in ({}, []):
                entry["default"] = plain


def _sections(base: type[Section]) -> list[type[Section]]:
    found = list(base.__subclasses__())
    return found + [deep for one in found for deep in _sections(one)]
