"""Section 3, `serving`: what answers."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from mainspring.runtimes.catalog import BUILT_IN, runtimes
from mainspring.runtimes.descriptor import Runtime, Wishes, words
from mainspring.stack.base import Name, Section
from mainspring.stack.fleet_units import Count, Factor, Gpus, Spread, Tokens
from mainspring.stack.hours import ClockTime, Days
from mainspring.stack.rollout import Abort, Stage
from mainspring.stack.tenants import Tenant
from mainspring.stack.units import Per, Seconds, Share, Size

Precision = Literal["fp32", "fp16", "bf16", "fp8", "int8", "fp4", "mxfp4", "int4"]
"""What a weight may be stored as."""

Header = Annotated[str, StringConstraints(pattern=r"^x-[a-z0-9-]{1,60}$")]
"""A header's name in lower case, `x-…`."""

ModelAlias = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}@champion$")]


def _known(name: str) -> str:
    if name not in runtimes():
        raise PydanticCustomError(
            "literal_error", "there is no such runtime", {"expected": ", ".join(f"'{one}'" for one in runtimes())}
        )
    return name


RuntimeName = Annotated[
    str, AfterValidator(_known), Field(json_schema_extra={"examples": [one.name for one in BUILT_IN]})
]
"""A model server: built in, or brought by an installed package."""


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


class Cache(Section):
    """The KV cache: what a language model keeps of the tokens it has read."""

    type: Literal["fp16", "fp8", "int8", "int4"] = "fp16"
    """What a key or a value is stored as: `fp8` on vLLM, SGLang and TensorRT-LLM, `int8` and `int4` on llama.cpp.
    Default: fp16."""
    size: Size | None = None
    """How much memory it gets, such as `8GiB`, where the runtime is told. Default: what is left."""
    prefix: bool = True
    """Whether what was read of one prompt is used again for another that begins alike. Default: true."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        return value if isinstance(value, (dict, Cache)) else {"type": value}


class Speculate(Section):
    """Speculative decoding: tokens are guessed ahead, and the model checks many in one step."""

    by: Literal["ngram", "draft"]
    """`ngram` guesses from what was said before and needs no second model; `draft` asks a small model."""
    tokens: int = Field(default=8, ge=1, le=64)
    """How many are guessed at a time. Default: 8."""
    model: str = ""
    """The small model, for `draft`: a path or a name that the runtime knows."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        return {"by": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_model(self) -> Speculate:
        if (self.by == "draft") != bool(self.model):
            raise ValueError("`draft` names its small model: `{by: draft, model: …}`; `ngram` has none")
        return self


class Parallel(Section):
    """How one replica is cut over its GPUs; the two numbers multiply to `gpus`."""

    tensor: int = Field(default=1, ge=1, le=64)
    """Every layer is cut this many ways. Default: all the GPUs that `pipeline` leaves."""
    pipeline: int = Field(default=1, ge=1, le=64)
    """The layers are dealt out to this many groups of GPUs. Default: 1."""


class Route(Section):
    """How the gateway chooses among versions and replicas, beside their load."""

    prefix: bool | None = None
    """A prompt that begins like an earlier one goes to the replica that has read it, unless that one is busy.
    Default: true for language models."""
    session: Header | None = None
    """A header, such as `x-session-id`: requests with one value of it stay on one replica while it is there."""
    split: Header | Literal["request", "user"] = "request"
    """What a version is chosen by in a canary: each `request`, the `user` field of the body, or a header's value.
    One user then sees one version. Default: request."""
    retries: Share = 0.2
    """At most this share of requests is sent a second time (before its first byte). Default: 20%."""


class Waits(Section):
    """How long the gateway waits for a replica, step by step."""

    connect: Seconds = 1.0
    """For its port to take a connection. Default: 1s."""
    first: Seconds | None = None
    """For the first byte of an answer; of a language model, of a streamed one. Default: 60s for language models."""
    idle: Seconds | None = None
    """From one piece of a streamed answer to the next. Default: 30s for language models."""


class Period(Section):
    """A stretch of the week in which more replicas are held ready."""

    on: Days = tuple(range(7))
    """Days, such as `mon-fri`, `sat,sun` or `every day`. Default: every day."""
    from_: ClockTime = Field(alias="from")
    """When it begins, such as `08:00`; UTC."""
    until: ClockTime
    """When it ends, such as `18:00`; UTC. At or before `from`: on the next day."""
    least: int = Field(ge=0, le=100_000)
    """Replicas that are held ready, whatever the traffic."""


class Scale(Section):
    """How many replicas there are within the range of `replicas`."""

    queue: float = Field(default=4.0, gt=0, le=100_000)
    """Requests waiting per replica above which one more is started. Default: 4."""
    ahead: Literal["load time"] | Seconds = "load time"
    """How far ahead demand is judged: as long as a replica takes to load (measured, then remembered), or so long."""
    down: Seconds | None = None
    """For how long fewer replicas must have been enough before one is stopped. Default: 2 times to load, 30s to 5m."""
    idle: Seconds = 600.0
    """Nobody must have asked for so long before the last one is stopped, where `replicas` begins at 0. Default: 10m."""
    hold: Seconds = Field(default=60.0, gt=0)
    """How long a request waits while there is no replica: time to start one. Default: 60s."""
    forecast: bool = True
    """Whether what the same hour of earlier weeks asked for is held ready ahead. Default: true."""
    schedule: tuple[Period, ...] = Field(default=(), max_length=100)
    """Stretches of the week in which more replicas are held ready."""


def _stages() -> tuple[Stage, ...]:
    return tuple(Stage.model_validate(stage) for stage in ({"canary": "10%", "for": "1h"}, {"all": "100%"}))


class Endpoint(Section):
    """A model that answers requests by its name."""

    model: ModelAlias
    """The registered model that it follows, as `NAME@champion`."""
    runtime: RuntimeName = "onnx"
    """The model server that runs it, such as `triton` or `vllm`; `mainspring runtime list` has them all.
    Default: onnx."""
    instances: int = Field(default=1, ge=1, le=64)
    """Copies of the model in one server, where the runtime can hold several. Default: 1."""
    share: bool = False
    """Whether its model is loaded into one server with those of other endpoints that say so, where the runtime can.
    Default: false."""
    args: tuple[str, ...] = Field(default=(), max_length=100)
    """More words for the server's own command line, passed on as they are. Default: none."""
    protocol: Literal["openai", "oip", "oip1", "tfserving", "torchserve"] | None = None
    """What the server of `runtime: external` speaks; the other runtimes say it themselves."""
    shape: str | None = None
    """What the model is like, for `plan`: a name of `mainspring catalog models`, or a path to a config.json, GGUF or
    ONNX file. Default: worked out from `weights.size`, and labelled as assumed."""
    precision: Precision | None = None
    """Of the weights. Default: `fp16`."""
    kv: Cache = Cache()
    """The KV cache: `fp8`, or `{type: fp8, size: 8GiB, prefix: true}`; for language models."""
    slots: int | None = Field(default=None, ge=1, le=4096)
    """Requests that one replica works on at once; for language models. Default: 4 on llama.cpp, else the runtime's."""
    context: Tokens | None = None
    """Tokens that one conversation may have, its answer included. Default: 2048 on llama.cpp, else the model's."""
    speculate: Speculate | None = None
    """Speculative decoding: `ngram`, or `{by: ngram, tokens: 8}`. Default: none."""
    parallel: Parallel | None = None
    """How one replica is cut over its GPUs: `{tensor: 4, pipeline: 2}`. Default: every layer over all of them."""
    auth: Literal["none", "token"] = "none"
    """`token`: requests need `Authorization: Bearer …`, made by `mainspring keys create`. Default: none."""
    route: Route = Route()
    """How the gateway chooses among versions and replicas, beside their load."""
    waits: Waits = Waits()
    """How long the gateway waits for a replica, step by step."""
    allow: tuple[Precision, ...] = ()
    """Other precisions that its users accept: `plan` may propose them. Default: none; they are shown as options."""
    gpus: Gpus | None = None
    """The GPUs of one replica: `4 x h100` (a pool's name), or `1 x 1g.10gb of a100` for a slice. Default: none."""
    cores: float | None = Field(default=None, gt=0, le=1024)
    """Cores of one replica, on a pool of CPU servers or on this machine. Default: none; of this machine `threads`."""
    memory: Size | None = None
    """Main memory of one replica, where the pool's `memory` limits what may be used. Default: not counted."""
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
    """How many replicas there are within the range. Default: by the defaults of `scale`."""
    tenants: dict[Name, Tenant] = Field(default_factory=dict, max_length=10_000)
    """Who may use it, each with limits of its own; a key belongs to one (`mainspring keys create --tenant`)."""
    fail: Literal["open", "closed"] = "closed"
    """While limits can't be counted (the disk is full, say): `closed` refuses those who have any, `open` lets them in.
    Default: closed."""
    batch: Batch = Batch()
    """Requests answered together."""
    timeout: Seconds | None = None
    """How long a request may take in all, waiting included. Default: 10s; `10m` for language models."""
    queue: int = Field(default=512, ge=1, le=100_000)
    """Requests that may be inside; one more is refused, with `Retry-After`. Default: 512."""
    objective: Objective = Objective()
    """What users are promised."""
    truth: Truth | None = None
    """What becomes known later, and comes back as feedback."""
    rollout: tuple[Stage, ...] = Field(default_factory=_stages, min_length=1)
    """The list of stages that a new version walks down; the last is `all: 100%` or `waves`."""
    abort: Abort = Abort()
    """When a rollout is given up, and how sure that is."""

    @model_validator(mode="after")
    def _ends_with_all(self) -> Endpoint:
        kinds = [stage.kind for stage in self.rollout]
        last = ("all", "waves")
        if kinds[-1] not in last or sum(kind in last for kind in kinds) != 1:
            raise ValueError("a rollout ends with `all: 100%` or with `waves`, and has them only there")
        return self

    @property
    def model_name(self) -> str:
        """The registered model's name, without the alias."""
        return self.model.split("@", 1)[0]

    @property
    def server(self) -> Runtime:
        """What `runtime` is and can do."""
        return runtimes()[self.runtime]

    @property
    def is_language(self) -> bool:
        """Whether it answers OpenAI's API, and not the Open Inference Protocol."""
        return self.server.kind == "language" or self.protocol == "openai"

    @property
    def deadline(self) -> float:
        """Seconds that a request may take in all."""
        return self.timeout if self.timeout is not None else 600.0 if self.is_language else 10.0

    @property
    def at_once(self) -> int:
        """Requests that one replica works on at once; 0 where nobody says."""
        return self.slots or (self.server.slots if self.gpus is None else 0)

    @property
    def wishes(self) -> Wishes:
        """What is asked of the runtime."""
        many = self.gpus.count if self.gpus is not None and not self.gpus.slice else 1
        cut = self.parallel or Parallel(tensor=many)
        guess = self.speculate
        return Wishes(
            slots=self.slots, context=None if self.context is None else int(self.context), kv=self.kv.type,
            kv_bytes=self.kv.size, prefix=self.kv.prefix, speculate=guess.by if guess else "",
            tokens=guess.tokens if guess else 0, draft=guess.model if guess else "", tensor=cut.tensor,
            pipeline=cut.pipeline, instances=self.instances, precision=self.precision or "", args=self.args,
            gpus=many if self.gpus is not None else 0, protocol=self.protocol or "", share=self.share,
        )  # fmt: skip

    @property
    def words(self) -> tuple[str, ...]:
        """The runtime's own words for all of it."""
        return words(self.server, self.wishes)
