"""Section 3, `serving`: what answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from mainspring.stack.base import Section
from mainspring.stack.units import Range, Seconds, Share, Span

ModelAlias = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}@champion$")]


class Batch(Section):
    """Requests answered together."""

    size: int = Field(default=32, ge=1, le=4096)
    """The most rows in one batch. Default: 32."""
    wait: Seconds = 0.002
    """How long the first request of a batch waits for company. Default: 2ms."""


class Objective(Section):
    """What users are promised."""

    p95: Seconds | None = None
    """95 of 100 requests are answered within this time, such as `50ms`."""
    availability: Share | None = None
    """The share of requests that must be answered, such as `99.9%`."""


class Truth(Section):
    """What becomes known later, and comes back as feedback."""

    field: str
    """The column of the training rows, and the field of a feedback call, that holds the outcome (0 or 1)."""
    within: Seconds = 7 * 86400.0
    """How long after a prediction its outcome may come. Default: 7d."""


class Stage(Section):
    """One step of the way from the first request to all of them: exactly one of `mirror`, `canary`, `all`."""

    mirror: Share | None = None
    """The share of requests that the new version answers too, unseen by users."""
    canary: Share | None = None
    """The share of requests that the new version answers for real."""
    all: Share | None = None
    """`all: 100%` ends the list: the new version takes everything and becomes the champion."""
    for_: Seconds = Field(default=0.0, alias="for")
    """How long this stage is watched before the next, such as `3d`."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Stage:
        if sum(part is not None for part in (self.mirror, self.canary, self.all)) != 1:
            raise ValueError("a stage has exactly one of `mirror`, `canary` and `all`")
        return self

    @property
    def kind(self) -> Literal["mirror", "canary", "all"]:
        """Which of the three this is."""
        return "mirror" if self.mirror is not None else "canary" if self.canary is not None else "all"

    @property
    def share(self) -> float:
        """The share of requests it touches, 0 to 1."""
        return next(s for s in (self.mirror, self.canary, self.all) if s is not None)


class Abort(Section):
    """When a rollout is given up at once."""

    errors: Share | None = None
    """More than this share of the new version's answers failed."""
    p95: Seconds | None = None
    """More than 5 of 100 of the new version's answers took longer than this."""


class Scale(Section):
    """When to change the number of replicas."""

    queue: float = Field(default=4.0, gt=0)
    """Requests waiting per replica above which one more is started."""


def _stages() -> tuple[Stage, ...]:
    return tuple(Stage.model_validate(stage) for stage in ({"canary": "10%", "for": "1h"}, {"all": "100%"}))


class Endpoint(Section):
    """A model that answers requests by its name."""

    model: ModelAlias
    """The registered model that it follows, as `NAME@champion`."""
    runtime: Literal["onnx"] = "onnx"
    """The model server that runs it."""
    replicas: Span = Range(1, 1)
    """How many processes answer: `2`, or `1..4` where `scale` chooses. Default: 1."""
    threads: int = Field(default=1, ge=1, le=256)
    """Compute threads of one replica. Default: 1."""
    scale: Scale | None = None
    """When to change the number of replicas within the range."""
    batch: Batch = Batch()
    """Requests answered together."""
    timeout: Seconds = 10.0
    """How long a request may take in all, waiting included, before it fails with 503. Default: 10s."""
    queue: int = Field(default=512, ge=1, le=100_000)
    """Requests that may wait for a replica; one more is refused with 503 and `Retry-After`. Default: 512."""
    objective: Objective = Objective()
    """What users are promised."""
    truth: Truth | None = None
    """What becomes known later, and comes back as feedback."""
    rollout: tuple[Stage, ...] = Field(default_factory=_stages, min_length=1)
    """The list of stages that a new version walks down; the last is `all: 100%`."""
    abort: Abort = Abort()
    """When a rollout is given up at once."""

    @model_validator(mode="after")
    def _ends_with_all(self) -> Endpoint:
        kinds = [stage.kind for stage in self.rollout]
        if kinds[-1] != "all" or kinds.count("all") != 1:
            raise ValueError("a rollout ends with `all: 100%`, and has it only there")
        return self

    @property
    def model_name(self) -> str:
        """The registered model's name, without the alias."""
        return self.model.split("@", 1)[0]
