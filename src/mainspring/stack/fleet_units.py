"""Human units of fleets: `8 x H100-80GB`, `8 per region`, `1000 tokens`, `3x`, `2TB/s`, `60% at 35% off`.

What this is: parsers, as in `units.py`. Who calls it: the models of `compute`, `orchestration`, `serving`, `cost`.
What it must never do: know which GPUs or regions there are.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from mainspring.stack.units import number, share, size

_TEXT = 80


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) and len(value) <= _TEXT else ""


@dataclass(frozen=True, slots=True)
class Times:
    """So many of something: `8 x H100-80GB`, `4 x h100`, `1 x 1g.10gb of a100`."""

    count: int
    name: str  # "h100"
    slice: str = ""  # "1g.10gb"; "" for whole GPUs

    def __str__(self) -> str:
        return f"{self.count} x {self.slice + ' of ' if self.slice else ''}{self.name}"


_SLICE = r"([1-7]g\.\d+gb(?:\+me)?)\s+of\s+"
_WORD = r"((?![xX] )[A-Za-z](?:[A-Za-z0-9 ._+-]*[A-Za-z0-9])?)"
_TIMES = re.compile(rf"^(\d{{1,5}})\s*[x×]\s*(?:{_SLICE})?{_WORD}$")


def times(value: object) -> Times:
    """Parse `4 x h100`; one is meant where no number is given (`h100`)."""
    if isinstance(value, Times):
        return value
    text = _text(value)
    match = _TIMES.match(text if re.match(r"^\d+\s*[x×]", text) else f"1 x {text}")
    if match and int(match[1]) >= 1:
        return Times(int(match[1]), match[3], match[2] or "")
    raise ValueError(f"`{value}` is not a number of GPUs: write `4 x h100`, or `1 x 1g.10gb of a100` for a MIG slice")


@dataclass(frozen=True, slots=True)
class Spread:
    """From `low` to `high`, in all or in each region: `3..6 per region`."""

    low: int
    high: int
    per_region: bool = False

    def __str__(self) -> str:
        span = f"{self.low}" if self.low == self.high else f"{self.low}..{self.high}"
        return f"{span} per region" if self.per_region else span


_SPREAD = re.compile(r"^(\d{1,6})(?:\s*\.\.\s*(\d{1,6}))?(\s+per\s+region)?$")


def spread(value: object) -> Spread:
    """Parse a range of whole numbers that may be meant for each region (`2`, `1..4`, `8 per region`)."""
    if isinstance(value, Spread):
        return value
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)
    match = _SPREAD.match(text)
    if match and int(match[1]) <= int(match[2] or match[1]):
        return Spread(int(match[1]), int(match[2] or match[1]), bool(match[3]))
    raise ValueError(f"`{value}` is not a range: write `2`, `1..4` or `3..6 per region`, the smaller number first")


def factor(value: object) -> float:
    """Parse a factor (`3x`, `1.5x`), 1 or more."""
    text = _text(value)
    try:
        found = float(text[:-1]) if text.endswith(("x", "×")) else math.nan
    except ValueError:
        found = math.nan
    if 1 <= found <= 1000:
        return found
    raise ValueError(f"`{value}` is not a factor: write `3x`, at least `1x`")


def tokens(value: object) -> float:
    """Parse a number of tokens (`1000`, `4k`, `1000 tokens`), above 0."""
    text = _text(value).removesuffix("tokens").strip() if isinstance(value, str) else value
    found = number(text) if text != "" else 0.0
    if 0 < found <= 1e8:
        return found
    raise ValueError(f"`{value}` is not a number of tokens: write `1000` or `4k tokens`")


def bandwidth(value: object) -> float:
    """Parse bytes a second (`2TB/s`, `450GB/s`)."""
    text = _text(value)
    if text.endswith("/s"):
        return float(size(text[:-2].strip()))
    raise ValueError(f"`{value}` is not a bandwidth: write `450GB/s`")


_OPS = re.compile(r"^(\d+(?:\.\d+)?)\s*([TP])(?:FLOPS|OPS)$", re.IGNORECASE)


def throughput(value: object) -> float:
    """Parse operations a second (`300 TFLOPS`, `2 PFLOPS`, `130 TOPS`), dense."""
    match = _OPS.match(_text(value))
    if match:
        return float(match[1]) * {"T": 1e12, "P": 1e15}[match[2].upper()]
    raise ValueError(f"`{value}` is not a throughput: write `300 TFLOPS`, dense (not the sparse number of a brochure)")


def watts(value: object) -> float:
    """Parse a power (`700W`, `1.2kW`)."""
    match = re.match(r"^(\d+(?:\.\d+)?)\s*(k?)W$", _text(value))
    if match:
        return float(match[1]) * (1000.0 if match[2] else 1.0)
    raise ValueError(f"`{value}` is not a power: write `700W`")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of what is bought, and its discount: `60% at 35% off`, `rest`."""

    share: float | None  # None: the rest
    off: float | None  # None: as the price list has it


_PART = re.compile(r"^(rest|\d+(?:\.\d+)?%)(?:\s+at\s+(\d+(?:\.\d+)?%)\s+off)?$")


def part(value: object) -> Part:
    """Parse a part of what is bought (`60% at 35% off`, `40%`, `rest`)."""
    if isinstance(value, Part):
        return value
    match = _PART.match(_text(value))
    if match:
        return Part(None if match[1] == "rest" else share(match[1]), share(match[2]) if match[2] else None)
    raise ValueError(f"`{value}` is not a part: write `60% at 35% off`, `40%` or `rest`")


@dataclass(frozen=True, slots=True)
class Survival:
    """What may be lost without missing the objective: `1 region`, `1 node per region`."""

    count: int
    what: str  # "region" | "node"


def survival(value: object) -> Survival:
    """Parse something that may be lost (`1 region`, `1 node per region`)."""
    if isinstance(value, Survival):
        return value
    match = re.match(r"^(\d{1,3})\s+(regions?|nodes?\s+per\s+region)$", _text(value))
    if match:
        return Survival(int(match[1]), "region" if match[2].startswith("region") else "node")
    raise ValueError(f"`{value}` is not something to lose: write `1 region` or `1 node per region`")


def _say(text: str) -> WithJsonSchema:
    return WithJsonSchema({"type": ["string", "integer"], "examples": [text]})


Gpus = Annotated[Times, BeforeValidator(times), _say("4 x h100")]
Count = Annotated[Spread, BeforeValidator(spread), _say("3..6 per region")]
Factor = Annotated[float, BeforeValidator(factor), _say("3x")]
Tokens = Annotated[float, BeforeValidator(tokens), _say("1000 tokens")]
Bandwidth = Annotated[float, BeforeValidator(bandwidth), _say("2TB/s")]
Throughput = Annotated[float, BeforeValidator(throughput), _say("300 TFLOPS")]
Watts = Annotated[float, BeforeValidator(watts), _say("700W")]
Bought = Annotated[Part, BeforeValidator(part), _say("60% at 35% off")]
Loss = Annotated[Survival, BeforeValidator(survival), _say("1 region")]
