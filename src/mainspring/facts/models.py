"""Models that are known by name.

What this is: the tables in `data/models.json` (language models, read through the same reader as anybody's
config.json) and `data/graphs.json` (all others); pure but for
reading those files, which are part of the package. Who calls it: fit, forecasts, sizing, `catalog`.
What it must never do: ask a registry, or take a name that merely looks alike for a model.

Names: ours ("llama-3.3-70b"), or those of Hugging Face with or without the owner, with words at the end that change
what the weights say but not their shape ("nvidia/Llama-3.1-8B-Instruct-FP8"). A precision at the end becomes `native`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import fields, replace
from functools import cache
from importlib import resources
from typing import Any

from mainspring.errors import InputError
from mainspring.facts.config_json import build
from mainspring.facts.shapes import GraphShape, ModelShape

HINT = "mainspring catalog models"

PRECISIONS: dict[str, str] = {
    "fp8": "fp8",
    "bf16": "bf16",
    "fp16": "fp16",
    "nvfp4": "fp4",
    "fp4": "fp4",
    "mxfp4": "mxfp4",
    "int8": "int8",
    "w8a8": "int8",
    "int4": "int4",
    "w4a16": "int4",
    "awq": "int4",
    "gptq": "int4",
}
"""What a word at the end of a name says of the weights."""

SILENT = re.compile(
    r"instruct|chat|base|it|hf|thinking|reasoning|preview|dynamic|block|tput|baseline|fast|original|"
    r"v\d+(\.\d+)?|\d{4}|kv"
)
"""Words at the end of a name that change the weights, not their shape."""

OWNED = re.compile(r"^(meta|nvidia|redhatai|neuralmagic)-(?=[a-z])")
"""Owners that are written before the name with a hyphen ("Meta-Llama-3.1-8B")."""


@cache
def _rows(file: str = "models") -> tuple[dict[str, Any], ...]:
    text = resources.files("mainspring.facts").joinpath(f"data/{file}.json").read_text(encoding="utf-8")
    return tuple(json.loads(text))


@cache
def _names(file: str = "models") -> dict[str, str]:
    """Every name, aliases included, with our own name for it."""
    known = {row["name"]: row["name"] for row in _rows(file)}
    for row in _rows(file):
        known.update(dict.fromkeys(row.get("also", ()), row["name"]))
    return known


@cache
def _shape(name: str) -> ModelShape:
    row = next(row for row in _rows() if row["name"] == name)
    return build(row["config"], name, row["source"], row["confidence"])


def catalogue() -> dict[str, ModelShape]:
    """All built-in models by name."""
    return {row["name"]: _shape(row["name"]) for row in _rows()}


def find(name: str) -> ModelShape:
    """The shape of a model by its name; InputError `unknown-model` with what was perhaps meant."""
    plain = OWNED.sub("", name.strip().lower().rsplit("/", 1)[-1].replace("_", "-"))
    known = _names()
    words = plain.split("-")[:20]
    native = ""
    while words:
        candidate = "-".join(words)
        if candidate in known:
            shape = _shape(known[candidate])
            return replace(shape, native=native, stored=0.0) if native and native != shape.native else shape
        last = words.pop().removeprefix("quantized.")
        if last in PRECISIONS:
            native = PRECISIONS[last]
        elif not SILENT.fullmatch(last):
            break
    raise _unknown(name, plain, known)


@cache
def graphs() -> dict[str, GraphShape]:
    """All built-in models that answer a row at once, by name."""
    wanted = {one.name for one in fields(GraphShape)}
    return {
        row["name"]: GraphShape(**{key: value for key, value in row.items() if key in wanted})
        for row in _rows("graphs")
    }


def find_graph(name: str) -> GraphShape:
    """The shape of a ranker, vision, embedding or tabular model by its name; InputError `unknown-model`."""
    plain = name.strip().lower().rsplit("/", 1)[-1].replace("_", "-")
    known = _names("graphs")
    if plain in known:
        return graphs()[known[plain]]
    raise _unknown(name, plain, known)


def _unknown(name: str, plain: str, known: Iterable[str]) -> InputError:
    close = difflib.get_close_matches(plain[:100], known, n=3, cutoff=0.6)
    meant = f"; did you mean {', '.join(f'`{one}`' for one in close)}?" if close else ""
    shown = name if len(name) <= 80 else f"{name[:77]}..."
    return InputError("unknown-model", f"no model is known as `{shown}`{meant}", HINT)
