"""Gates of safety: what a language model must not say, and what a tabular model must survive.

What this is: the part of `pipelines.NAME.gates` that is about safety, as frozen models. Who calls it:
`stack/pipelines.py`, and `decide/safety.py` and `decide/ranges.py`, which judge. What it must never do: read a file.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from mainspring.stack.base import Section
from mainspring.stack.units import Confidence, Seconds, Share, share

_BOUND = re.compile(r"at[ _](least|most)\s+(\S+)")
_NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:e[-+]?[0-9]+)?"
_SPAN = re.compile(rf"(?P<low>{_NUMBER})\s*\.\.\s*(?P<high>{_NUMBER})", re.IGNORECASE)
MOST_BANNED = 2_000


def span_of_values(value: object) -> tuple[float, float]:
    """Parse what a value may be (`0..5000`, or `[0, 5000]`), both ends included. Raises `ValueError`."""
    ends: list[Any] = list(value) if isinstance(value, list | tuple) else []
    if isinstance(value, str) and len(value) <= 64 and (match := _SPAN.fullmatch(value.strip())):
        ends = [match["low"], match["high"]]
    try:
        numbers = [math.nan if isinstance(end, bool) else float(end) for end in ends]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) == 2 and all(map(math.isfinite, numbers)) and numbers[0] < numbers[1]:
        return numbers[0], numbers[1]
    raise ValueError(f"`{value}` is not a range of values: write `0..5000`, the smaller number first")


ValueSpan = Annotated[
    tuple[float, float],
    BeforeValidator(span_of_values),
    WithJsonSchema({"type": ["string", "array"], "examples": ["0..5000"]}),
]


class SafetyBound(Section):
    """A bound on a share of a set's items; short: `at least 95%`, or `at most 5%`."""

    at_least: Share | None = None
    """The share must be this or higher."""
    at_most: Share | None = None
    """The share must be this or lower."""
    no_worse_by: Share | None = None
    """The share may be worse than the champion's, on the same items, by this at most (with `confidence`)."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        match = _BOUND.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"`{value[:60]}` is not a bound: write `at least 95%`, or `at most 5%`")
        return {f"at_{match[1]}": share(match[2])}

    @model_validator(mode="after")
    def _bounds(self) -> SafetyBound:
        if self.at_least is None and self.at_most is None and self.no_worse_by is None:
            raise ValueError("a bound has one of `at_least`, `at_most` and `no_worse_by`")
        return self


class SafetyGate(Section):
    """What a language model must withstand, asked on a real replica; sets of prompts come with Mainspring."""

    injections: SafetyBound | None = None
    """The share of the shipped attacks that come through (instructions that somebody slips in are followed, or the
    system text is given away), such as `at most 5%`."""
    refusals: SafetyBound | None = None
    """The share of clearly improper requests that it declines, such as `at least 95%`."""
    false_refusals: SafetyBound | None = None
    """The share of harmless requests that only sound improper and that it declines all the same: `at most 20%`."""
    banned: tuple[str, ...] | str = ()
    """What no answer may have in it, of these sets and of `evals`: words, phrases and `/patterns/`, or the name of a
    file beside this one with one of them on each line."""
    confidence: Confidence = 0.95
    """How sure a comparison must be; also of the intervals that are told. Default: 95%."""
    timeout: Seconds = 900.0
    """The longest that asking all of it may take for one version. Default: 15m."""

    @field_validator("banned")
    @classmethod
    def _patterns(cls, banned: tuple[str, ...] | str) -> tuple[str, ...] | str:
        if not isinstance(banned, str):
            for one in banned:
                banned_pattern(one)
        elif not banned.strip():
            raise ValueError("`banned` names no file")
        return banned

    @model_validator(mode="after")
    def _ways(self) -> SafetyGate:
        if not (self.injections or self.refusals or self.false_refusals or self.banned):
            raise ValueError("`safety` has at least one of `injections`, `refusals`, `false_refusals` and `banned`")
        if self.refusals is not None and self.refusals.at_most is not None:
            raise ValueError("`refusals` are wanted: write `at least 95%`")
        for name in ("injections", "false_refusals"):
            bound: SafetyBound | None = getattr(self, name)
            if bound is not None and bound.at_least is not None:
                raise ValueError(f"`{name}` are not wanted: write `at most 5%`")
        return self

    @property
    def sets(self) -> tuple[str, ...]:
        """The sets of prompts that are asked, in order."""
        return tuple(name for name in ("injections", "refusals", "false_refusals") if getattr(self, name) is not None)


def banned_pattern(text: str) -> re.Pattern[str]:
    """What finds a banned word, phrase or `/pattern/` in an answer, whatever its case. Raises `ValueError`."""
    if not text.strip() or len(text) > 500:
        raise ValueError("a banned word has 1 to 500 characters")
    if len(text) > 2 and text.startswith("/") and text.endswith("/"):
        try:
            return re.compile(text[1:-1], re.IGNORECASE)
        except re.error as error:
            raise ValueError(f"`{text}` is not a pattern: {error}") from error
    words = r"\s+".join(map(re.escape, text.split()))
    return re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)


def banned_lines(text: str) -> tuple[str, ...]:
    """What a file of banned words names, one on each line; `#` begins a remark. Raises `ValueError`."""
    found = tuple(line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    if not found or len(found) > MOST_BANNED:
        raise ValueError(f"it names {len(found):,} words: 1 to {MOST_BANNED:,} are wanted")
    for one in found:
        banned_pattern(one)
    return found


class InputGate(Section):
    """What a tabular model's packaged artefact is asked on a real replica: values at, beyond and far from a range."""

    columns: dict[str, ValueSpan] = Field(min_length=1)
    """What each raw column may be, both ends included: `{distance: 0..5000}`."""
    outside: Share = 0.0
    """The share of the held-out rows that may have a value outside its range. Default: none."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        if isinstance(value, dict) and "columns" not in value:
            return {"columns": value}
        return value
