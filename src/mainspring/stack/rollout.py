"""Section 3, `serving.NAME.rollout` and `.abort`: how a new version gets its requests, and what gives it up."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, StringConstraints, WithJsonSchema, model_validator

from mainspring.stack.base import Name, Section
from mainspring.stack.units import Seconds, Share, seconds, share

Kind = Literal["mirror", "canary", "ab", "waves", "all"]
KINDS: tuple[Kind, ...] = ("mirror", "canary", "ab", "waves", "all")
Otherwise = Literal["wait", "proceed", "abort"]
"""What follows when a stage's time is over and its promises are not certain."""
FieldName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,39}$")]


@dataclass(frozen=True, slots=True)
class Over:
    """So much more than the control has at the same time: `20% over control`."""

    fraction: float  # 0.2

    def __str__(self) -> str:
        return f"{self.fraction * 100:g}% over control"


@dataclass(frozen=True, slots=True)
class Wave:
    """By how much a rollout grows at once: `1 replica`, `2 replicas per region`, `25%`."""

    replicas: int = 0  # 0: `share` says it
    share: float = 0.0  # of all replicas
    per_region: bool = False

    def __str__(self) -> str:
        if not self.replicas:
            return f"{self.share * 100:g}%"
        return f"{self.replicas} replica{'s' * (self.replicas > 1)}{' per region' * self.per_region}"


_OVER = re.compile(r"^(\d{1,4}(?:\.\d+)?)\s*%\s+over\s+control$")
_WAVE = re.compile(r"^(\d{1,4})\s+replicas?(\s+per\s+region)?$")


def over(value: object) -> Over | None:
    """Parse `20% over control`; None when it is something else."""
    if isinstance(value, Over):
        return value
    match = _OVER.match(value.strip()) if isinstance(value, str) and len(value) <= 40 else None
    return Over(float(match[1]) / 100) if match else None


def error_bound(value: object) -> float | Over:
    """Parse a bound on failed answers: `1%`, or `50% over control`."""
    return over(value) or share(value)


def time_bound(value: object) -> float | Over:
    """Parse a bound on times: `100ms`, or `20% over control`."""
    if isinstance(value, str) and len(value) <= 20 and value.strip().endswith("%"):
        raise ValueError(f"`{value}` is not a time: write `{value.strip()} over control`, or a time such as `100ms`")
    return over(value) or seconds(value)


def only_over(value: object) -> Over:
    """Parse a bound that only the control can give."""
    found = over(value)
    if found is None:
        raise ValueError(f"`{value}` is not a bound beside the control: write `20% over control`")
    return found


def wave(value: object) -> Wave:
    """Parse the size of a wave."""
    if isinstance(value, Wave):
        return value
    text = value.strip() if isinstance(value, str) and len(value) <= 40 else ""
    match = _WAVE.match(text)
    if match and int(match[1]) >= 1:
        return Wave(replicas=int(match[1]), per_region=match[2] is not None)
    try:
        part = share(text) if text.endswith("%") else 0.0
    except ValueError:
        part = 0.0
    if part > 0:
        return Wave(share=part)
    raise ValueError(f"`{value}` is not a wave: write `1 replica`, `1 replica per region` or `25%`")


def written(value: object) -> object:
    """A bound or a wave as it stands in the file; a plain number as it is."""
    return str(value) if isinstance(value, Over | Wave) else value


_WRITTEN = PlainSerializer(written, when_used="json")


def many(value: object) -> object:
    """One of something, or a list of them."""
    return value if isinstance(value, list | tuple) else (value,)


_ERRORS = WithJsonSchema({"type": ["string", "number"], "examples": ["1%", "50% over control"]})
_TIMES = WithJsonSchema({"type": "string", "examples": ["100ms", "20% over control"]})
ErrorBound = Annotated[float | Over, BeforeValidator(error_bound), _WRITTEN, _ERRORS]
TimeBound = Annotated[float | Over, BeforeValidator(time_bound), _WRITTEN, _TIMES]
RelativeBound = Annotated[
    Over, BeforeValidator(only_over), _WRITTEN, WithJsonSchema({"type": "string", "examples": ["20% over control"]})
]
WaveSize = Annotated[
    Wave, BeforeValidator(wave), _WRITTEN, WithJsonSchema({"type": "string", "examples": ["1 replica"]})
]
ErrorBounds = Annotated[tuple[ErrorBound, ...], BeforeValidator(many), Field(max_length=4)]
TimeBounds = Annotated[tuple[TimeBound, ...], BeforeValidator(many), Field(max_length=4)]


class Stage(Section):
    """One step of the way from the first request to all: exactly one of `mirror`, `canary`, `ab`, `waves`, `all`."""

    mirror: Share | None = None
    """The share of requests that the new version answers too, unseen by users."""
    canary: Share | None = None
    """The share of requests that the new version answers for real."""
    ab: Share | None = None
    """The same, to find out which version users do better with: an A/B test by the field of feedback `metric`."""
    waves: WaveSize | None = None
    """Replicas of the old version are replaced wave by wave: `1 replica`, `1 replica per region`, `25%`."""
    all: Share | None = None
    """`all: 100%` ends the list: the new version takes everything and becomes the champion."""
    for_: Seconds = Field(default=0.0, alias="for")
    """How long this stage is watched at least before the next, such as `3d`."""
    within: Seconds = 0.0
    """The time for all waves together, such as `6h`: each is watched for an equal part of it."""
    in_: Name | None = Field(default=None, alias="in")
    """The one region whose requests it touches. Default: all regions."""
    metric: FieldName | None = None
    """The field of feedback that an A/B test is about, 0 to 1: more is better."""
    otherwise: Otherwise = "wait"
    """When its time is over and what was promised is not certain: `wait`, `proceed` (the risk is told) or `abort`.
    Default: wait."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Stage:
        if sum(getattr(self, kind) is not None for kind in KINDS) != 1:
            raise ValueError("a stage has exactly one of `mirror`, `canary`, `ab`, `waves` and `all`")
        if (self.ab is not None) != (self.metric is not None):
            raise ValueError("`metric` names the field of feedback that an `ab` stage is about")
        if self.within and self.waves is None:
            raise ValueError("`within` is the time for all `waves`; other stages have `for`")
        return self

    @property
    def kind(self) -> Kind:
        """Which of the five this is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def share(self) -> float:
        """The share of requests it touches, 0 to 1; of waves: in the end all."""
        return next((s for s in (self.mirror, self.canary, self.ab, self.all) if s is not None), 1.0)


class Abort(Section):
    """When a rollout is given up, and how sure that is. A bound may be a list: each of them holds."""

    errors: ErrorBounds = (Over(0.0),)
    """More than this share of the new version's answers failed. Default: `0% over control`."""
    p95: TimeBounds = ()
    """More than 5 of 100 of the new version's answers took longer: than `100ms`, or than `20% over control`, which is
    the time that 95 of 100 of the control's answers of like length keep."""
    ttft: TimeBounds = ()
    """The same for the first token of a streamed answer."""
    tokens: RelativeBound | None = None
    """Output tokens of an answer, on average: `30% over control`. Default: no bound."""
    cost: RelativeBound | None = None
    """Seconds of compute that an answer is charged for, on average: `20% over control`. Default: no bound."""
    score: Share | None = None
    """Feedback on the new version is worse by more than this (of 0 to 1), on average. Default: no bound."""
    feedback: FieldName = "score"
    """The field of feedback that `score` is about, 0 to 1: more is better."""
    false_aborts: Share = Field(default=0.05, gt=0, lt=1)
    """The chance at most that a version within all bounds is given up, however often it is looked at. Default: 5%."""
    wrong_promotions: Share = Field(default=0.05, gt=0, lt=1)
    """The chance at most that a promise is called kept when it is not. Default: 5%."""

    def least(self, name: Literal["errors", "p95", "ttft"]) -> float | None:
        """The smallest of the bounds that are numbers."""
        return min((b for b in getattr(self, name) if not isinstance(b, Over)), default=None)
