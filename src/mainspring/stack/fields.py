"""The models as a tree that can be walked by path: which keys a place has, and what each takes.

What this is: the one place that looks inside the pydantic models; pure. Who calls it: `problems.py` (the nearest
valid key), `explain.py`, `schema.py`. What it must never do: read a stack file.
"""

from __future__ import annotations

import difflib
import functools
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator, StringConstraints
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mainspring.stack import compute, fleet_units, rollout, units
from mainspring.stack.base import Section
from mainspring.stack.compute import ENTRIES
from mainspring.stack.model import Stack

_UNITS: dict[Callable[..., Any], str] = {
    units.seconds: "duration, such as `2h`",
    units.share: "share, such as `5%`",
    units.size: "size, such as `80GiB`",
    units.dollars: "amount, such as `$5`",
    units.price: "price, such as `$0.10/h`",
    units.budget: "budget, such as `$100/month`",
    units.rate: "rate, such as `2 per month`",
    units.per_replica: "rate, such as `2/s per replica`",
    units.span: "whole number or range, such as `1..2`",
    units.moment: "day or moment, such as `2013-01-31`",
    compute.rate: "price, such as `$4/h per gpu`",
    fleet_units.times: "number of GPUs, such as `4 x h100`",
    fleet_units.spread: "whole number or range, such as `3..6 per region`",
    fleet_units.factor: "factor, such as `3x`",
    fleet_units.tokens: "number of tokens, such as `1000 tokens`",
    fleet_units.bandwidth: "bandwidth, such as `2TB/s`",
    fleet_units.throughput: "dense throughput, such as `300 TFLOPS`",
    fleet_units.watts: "power, such as `700W`",
    fleet_units.part: "part and discount, such as `60% at 35% off`",
    fleet_units.survival: "loss, such as `1 region`",
    rollout.error_bound: "bound, such as `1%` or `50% over control`",
    rollout.time_bound: "bound, such as `100ms` or `20% over control`",
    rollout.only_over: "bound, such as `20% over control`",
    rollout.wave: "wave, such as `1 replica per region` or `25%`",
    rollout.many: "bound, or a list of them",
}
_PLAIN = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", type(None): ""}
REQUIRED = object()
"""The default of a field that has none."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the file: a field of a model, or an entry of a mapping or a list."""

    path: str  # with NAME and N where any name or number goes: "serving.NAME.rollout"
    annotation: Any
    doc: str = ""
    default: Any = REQUIRED
    metadata: tuple[Any, ...] = ()

    @property
    def section(self) -> type[Section] | None:
        """The model whose keys this place has, if it has fixed keys."""
        return next((kind for kind in _options(self.annotation) if _is_section(kind)), None)

    @property
    def element(self) -> Any:
        """What an entry of this mapping or list is; None when this is neither."""
        for kind in _options(self.annotation):
            origin, args = get_origin(kind), get_args(kind)
            if _is_section(kind) and kind in ENTRIES:
                return ENTRIES[kind]
            if origin is dict:
                return args[1]
            if origin in (tuple, list):
                return args[0]
        return None

    @property
    def is_list(self) -> bool:
        """Whether entries are numbered, not named."""
        return any(get_origin(kind) in (tuple, list) for kind in _options(self.annotation))

    def children(self) -> Iterator[tuple[str, Place]]:
        """The keys of a model, in the file's order."""
        if self.section is not None:
            prefix = f"{self.path}." if self.path else ""
            for key, info in keys(self.section).items():
                yield key, _place(prefix + key, info)

    def child(self, piece: str) -> Place | None:
        """The place one key (or entry) further down."""
        for key, place in self.children():
            if key == piece:
                return place
        return self.entry()

    def entry(self) -> Place | None:
        """Any entry of this mapping or list."""
        element = self.element
        if element is None:
            return None
        label = "N" if self.is_list else "NAME"
        doc = next((kind.__doc__ or "" for kind in _options(element) if _is_section(kind)), "")
        return Place(f"{self.path}.{label}", element, doc)


ROOT = Place("", Stack, Stack.__doc__ or "")
"""The whole file."""


@functools.cache
def keys(section: type[Section]) -> dict[str, FieldInfo]:
    """A model's fields by the key that the file uses (`from`, not `from_`)."""
    return {info.alias or name: info for name, info in section.model_fields.items()}


def _place(path: str, info: FieldInfo) -> Place:
    default: Any = REQUIRED
    if info.default_factory is not None:
        default = info.get_default(call_default_factory=True)
    elif info.default is not PydanticUndefined:
        default = info.default
    return Place(path, info.annotation, info.description or "", default, tuple(info.metadata))


def walk(loc: tuple[str | int, ...]) -> Place | None:
    """The place that a path of keys and numbers leads to; None when it leads out of the models."""
    place: Place | None = ROOT
    for piece in loc:
        place = place.child(str(piece)) if place else None
    return place


def find(pieces: tuple[str, ...]) -> Place | None:
    """The place that a person's path means: names of mappings may be given, written `*`, or left out."""

    def search(place: Place, rest: tuple[str, ...]) -> Place | None:
        if not rest:
            return place
        for key, child in place.children():
            if key == rest[0]:
                return search(child, rest[1:])
        entry = place.entry()
        if entry is None:
            return None
        direct = search(entry, rest)
        if direct is None and difflib.get_close_matches(
            rest[0][:40], [key for key, _ in entry.children()], n=1, cutoff=0.8
        ):
            return None  # a slip of a key, not a name
        return direct or search(entry, rest[1:])

    return search(ROOT, pieces)


def kind_of(place: Place) -> str:
    """What a place takes, in words: "duration, such as `2h`"."""
    named = _unit(place.metadata)
    return named or _words(place.annotation, place.metadata)


def _words(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    options = [option for option in _options(annotation) if option is not type(None)]
    if len(options) > 1:
        return " or ".join(dict.fromkeys(_words(option) for option in options))
    kind = options[0]
    if get_origin(kind) is typing.Annotated:
        base, *rest = get_args(kind)
        return _unit(tuple(rest)) or _words(base, tuple(rest))
    if get_origin(kind) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is dict:
        return f"names, each with: {_words(get_args(kind)[1])}"
    if get_origin(kind) in (tuple, list):
        return f"list of: {_words(get_args(kind)[0])}"
    if _is_section(kind):
        return f"keys ({', '.join(f'`{key}`' for key in keys(kind))})"
    if any(isinstance(item, StringConstraints) and ":" in str(item.pattern) for item in metadata):
        return "function, as `module:function`"
    return _PLAIN.get(kind, "any value")


def _unit(metadata: tuple[Any, ...]) -> str:
    for item in metadata:
        if isinstance(item, BeforeValidator) and item.func in _UNITS:
            return _UNITS[item.func]
    return ""


def _options(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; a single annotation is a union of itself."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(get_args(annotation))
    return (annotation,)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)
