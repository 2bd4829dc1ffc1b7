"""Section 3, `serving`: what answers."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from mainspring.stack.base import Name, Section
from mainspring.stack.fleet_units import Count, Factor, Gpus, Spread, Tokens
from mainspring.stack.units import Per, Seconds, Share, Size

Precision = Literal["fp32", "fp16", "bf16", "fp8", "int8", "fp4", "mxfp4", "int4"]
"""What a weight may be stored as."""

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
    p99: Seconds | None = None
    """99 of 100 requests are answered within this time."""
    ttft: Seconds | None = None
    """The first token comes within this time for 95 of 100 requests, such as `500ms`; for language models."""
    tpot: Seconds | None = None
    """The mean time from one token to the next, such as `25ms`; for language models."""
    availability: Share | None = None
    """The share of requests that must be answered, such as `99.9%`."""

    @field_validator("availability")
    @classmethod
    def _possible(cls, availability: float | None) -> float | None:
        if availability is not None and availability > 0.999999:
            raise ValueError(f"`{availability:.9g}` is more than can be promised: write `99.9999%` at most")
        return availability


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
    in_: Name | None = Field(default=None, alias="in")
    """The one region whose requests it touches. Default: all regions."""

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


class Quantiles(Section):
    """How long prompts or outputs are: a number of tokens, or quantiles of them."""

    p50: Tokens
    """Half of them are at most this long."""
    p95: Tokens | None = None
    """95 of 100 are at most this long. Default: all are as long as `p50`."""
    max: Tokens | None = None
    """None is longer than this. Default: no bound."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        return value if isinstance(value, (dict, Quantiles)) else {"p50": value}

    @model_validator(mode="after")
    def _in_order(self) -> Quantiles:
        low, high = self.p95 or self.p50, self.max or math.inf
        if not self.p50 <= low <= high:
            raise ValueError("`p50`, `p95` and `max` grow in this order")
        return self


class Traffic(Section):
    """What users send: what `plan` sizes for."""

    requests: Per | None = None
    """Requests in all regions together, on average, such as `500k/day`. Default: the trace's."""
    peak: Factor = 3.0
    """The busiest minutes over the average. Default: 3x, since measured peaks of services by day are 2x to 4x."""
    prompt: Quantiles | None = None
    """Tokens of a prompt, such as `1000 tokens` or `{p50: 900, p95: 4k}`; for language models."""
    output: Quantiles | None = None
    """Tokens of an answer, such as `{p50: 90, p95: 150}`; for language models."""
    cached: Share = 0.0
    """The share of prompt tokens that the prefix cache answers. Default: 0%."""
    variability: float | None = Field(default=None, gt=0, le=1000)
    """The squared coefficient of variation of the gaps between requests; 1 is Poisson. Default: the trace's, or 1."""
    trace: str | None = None
    """A trace of requests beside this file: lengths, variability and rate come from it where they are not given."""
    regions: dict[Name, Share] = Field(default_factory=dict)
    """The share of requests that comes from each region. Default: even."""
    rows: float = Field(default=1.0, gt=0, le=1e6)
    """Rows of one request; for other models than language models. Default: 1."""


class Weights(Section):
    """The model's weights, as files."""

    size: Size | None = None
    """All files together, such as `140GB`. Default: worked out from `shape` and `precision`."""
    cache: Literal["none", "node"] = "none"
    """`node` keeps a copy on each node's own disk, so that a restart need not fetch them. Default: none."""


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
    runtime: Literal["onnx", "vllm", "sglang", "trtllm"] = "onnx"
    """The model server that runs it. `up` runs `onnx`; the others are planned. Default: onnx."""
    shape: str | None = None
    """What the model is like, for `plan`: a name of `mainspring catalog models`, or a path to a config.json, GGUF or
    ONNX file. Default: worked out from `weights.size`, and labelled as assumed."""
    precision: Precision | None = None
    """Of the weights. Default: `fp16`."""
    kv: Literal["fp16", "fp8"] = "fp16"
    """Precision of the KV cache. Default: fp16."""
    allow: tuple[Precision, ...] = ()
    """Other precisions that its users accept: `plan` may propose them. Default: none; they are shown as options."""
    gpus: Gpus | None = None
    """The GPUs of one replica: `4 x h100` (a pool's name), or `1 x 1g.10gb of a100` for a slice. Default: none."""
    cores: float | None = Field(default=None, gt=0, le=1024)
    """Cores of one replica, on a pool of CPU servers. Default: none."""
    replicas: Count = Spread(1, 1)
    """How many replicas answer: `2`, `1..4` where `scale` chooses, or `3..6 per region`. Default: 1."""
    weights: Weights = Weights()
    """The model's weights, as files."""
    traffic: Traffic | None = None
    """What users send: what `plan` sizes for."""
    regions: tuple[Name, ...] = ()
    """The only regions that requests and weights may be in (residency). Default: all."""
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
