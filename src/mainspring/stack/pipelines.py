"""Section 4, `pipelines`: how a version is made."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mainspring.stack.base import FunctionPath, Name, Section
from mainspring.stack.safety import InputGate, SafetyGate, ValueSpan
from mainspring.stack.units import (
    Confidence,
    Dollars,
    Moment,
    Per,
    PerReplica,
    Rate,
    Seconds,
    Share,
    Size,
    count_back,
    cron,
)


class Window(Section):
    """A stretch of time; both ends may be left open."""

    from_: Moment | None = Field(default=None, alias="from")
    """The first day (or moment) whose rows count."""
    to: Moment | None = None
    """The last day whose rows count, included; a moment is excluded itself."""

    @model_validator(mode="after")
    def _in_order(self) -> Window:
        if self.from_ is not None and self.to is not None and self.from_.isoformat() > self.to.isoformat():
            raise ValueError(f"`from` ({self.from_}) is after `to` ({self.to})")
        return self


class StepSpec(Section):
    """One step: a plain function, run in a process of its own."""

    run: FunctionPath
    """The function, as `module:function`; its parameters are filled by name."""
    timeout: Seconds = 3600.0
    """After this time the step is stopped and has failed. Default: 1h."""
    retries: int = Field(default=0, ge=0, le=10)
    """How often a step that failed is tried again. Default: 0."""
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    """Parameters of the function that are fixed here, such as `{iterations: 100}`."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        return {"run": value} if isinstance(value, str) else value


class DataSpec(Section):
    """A source of data, versioned by the hash of what was read."""

    url: str
    """`package:NAME/path` (a file inside an installed package), a path, `http(s)://`, `s3://`, or a SQLAlchemy URL."""
    query: str | None = None
    """The SQL query, for a SQLAlchemy URL."""
    format: Literal["csv", "parquet", "jsonl"] | None = None
    """The format; default: by the name's ending."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        return {"url": value} if isinstance(value, str) else value


class MetricGate(Section):
    """A bound on a quality metric of the candidate, on rows that it was not trained on."""

    at_least: float | None = None
    """The candidate's own value must be this or higher."""
    at_most: float | None = None
    """The candidate's own value must be this or lower."""
    no_worse_by: float | None = Field(default=None, ge=0)
    """The candidate may be worse than the champion, on the same rows, by this at most (with `confidence`)."""
    rows: str = "last 14d"
    """The rows held out for the gates, counted back from the end of the data. Default: last 14d."""
    by: Literal["day", "row"] = "day"
    """What is resampled for the interval: whole days (rows of a day are alike) or single rows. Default: day."""
    confidence: Share = 0.95
    """How sure the verdict must be. Default: 95%."""

    @field_validator("rows")
    @classmethod
    def _stretch(cls, rows: str) -> str:
        count_back(rows)
        return rows

    @model_validator(mode="after")
    def _bounds(self) -> MetricGate:
        if self.at_least is None and self.at_most is None and self.no_worse_by is None:
            raise ValueError("a gate has at least one of `at_least`, `at_most` and `no_worse_by`")
        return self

    @property
    def holdout(self) -> float:
        """`rows` as seconds back from the end of the data."""
        return count_back(self.rows)


class LatencyGate(Section):
    """A bound on the time that a real replica of the artefact takes for one row, or for one answer."""

    p95: Seconds
    """95 of 100 single rows (of a language model: whole answers) are there within this time."""
    at: PerReplica | None = None
    """Of a language model: the rate at which one replica is asked meanwhile, such as `2/s per replica`, whether it
    keeps up or not. Default: one request after another."""


class GroupGate(Section):
    """A bias check: how far the groups of a column may differ in a metric."""

    column: str
    """The raw column whose values are the groups."""
    metric: Literal["brier", "auc", "rate"] = "brier"
    """What is compared: `brier`, `auc`, or `rate` (mean prediction minus mean outcome, calibration in the large)."""
    differ_at_most: float = Field(gt=0)
    """The largest difference between two groups that is let pass."""
    min_rows: int = Field(default=200, ge=1)
    """Groups with fewer held-out rows are not judged. Default: 200."""
    confidence: Confidence = 0.95
    """How sure it must be that no two groups differ by more; at `50%` the differences that are seen decide.
    Default: 95%."""


class CheckGate(Section):
    """A check of your own: returns `True`, `False`, or `(passed, message)`."""

    run: FunctionPath
    """The function; it may ask for `model`, `rows`, `predictions`, `champion_predictions`."""


class EvalGate(Section):
    """An evaluation of your own, for a language model: a function that asks it things and scores each answer 0 to 1."""

    run: FunctionPath
    """The function, as `module:function`. It gets `ask` and returns a list with the score of each of its items."""
    at_least: Share | None = None
    """The mean score must be this or higher, such as `90%`."""
    no_worse_by: Share | None = None
    """The mean may be below the champion's, on the same items, by this at most (with `confidence`)."""
    confidence: Confidence = 0.95
    """How sure the comparison must be; also of the interval that is told. Default: 95%."""
    timeout: Seconds = 600.0
    """The longest that the function may take for one version. Default: 10m."""

    @model_validator(mode="after")
    def _bounds(self) -> EvalGate:
        if self.at_least is None and self.no_worse_by is None:
            raise ValueError("an evaluation has at least one of `at_least` and `no_worse_by`")
        return self


class MemoryGate(Section):
    """A bound on what serving takes."""

    at_most: Size
    """Bytes of memory that a real replica holds after it has answered everything that it was asked, such as `1GB`."""


class Gates(Section):
    """What a candidate must pass before it sees traffic."""

    brier: MetricGate | None = None
    """Mean squared error of the probability; lower is better."""
    auc: MetricGate | None = None
    """Area under the ROC curve; higher is better."""
    latency: LatencyGate | None = None
    """The time that the packaged artefact takes, on a real replica."""
    inputs: InputGate | None = None
    """Of a tabular model: what each column may be. A real replica is asked beyond it, and must survive."""
    predictions: ValueSpan | None = None
    """Of a tabular model: what every prediction must lie in, such as `0.001..0.999`."""
    groups: dict[Name, GroupGate] = Field(default_factory=dict)
    """Bias checks, by name."""
    checks: dict[Name, CheckGate] = Field(default_factory=dict)
    """Checks of your own, by name."""
    evals: dict[Name, EvalGate] = Field(default_factory=dict)
    """Evaluations of a language model, by name: quality, and what else matters."""
    safety: SafetyGate | None = None
    """What a language model must withstand: injected instructions, improper requests, banned output."""
    memory: MemoryGate | None = None
    """The memory that a replica takes."""


class Retrain(Section):
    """When a new version is made."""

    when: tuple[Name, ...] = ()
    """Names of `monitoring.drift` and `monitoring.quality` that ask for a new version when they fire."""
    schedule: str | None = None
    """A cron line (`0 3 * * 1`, in UTC) that asks for a new version."""
    at_most: Per = Rate(4, 2629746.0)
    """The most runs in a period. Default: 4 per month."""
    cooldown: Seconds = 86400.0
    """The least time from one run's start to the next. Default: 1d."""

    @field_validator("schedule")
    @classmethod
    def _cron(cls, schedule: str | None) -> str | None:
        return None if schedule is None else cron(schedule)


class ModelSettings(Section):
    """How a language model answers where a request does not say: a version is its weights together with these."""

    system: str | None = Field(default=None, min_length=1, max_length=20_000)
    """The system message of requests that bring none. Default: the chat template's own."""
    temperature: float | None = Field(default=None, ge=0, le=5)
    """How freely tokens are drawn, 0 (always the likeliest) to 5. Default: the runtime's."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Only the likeliest tokens that together reach this probability are drawn from. Default: the runtime's."""
    top_k: int | None = Field(default=None, ge=0, le=1_000_000)
    """Only this many of the likeliest tokens are drawn from; 0 is all. Default: the runtime's."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Only tokens at least this likely, against the likeliest, are drawn from. Default: the runtime's."""
    repeat_penalty: float | None = Field(default=None, gt=0, le=10)
    """How much tokens of late are held back; 1 is not at all. Default: the runtime's."""
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    """The longest answer of requests that name no limit. Default: what the context has left."""
    seed: int | None = Field(default=None, ge=0, le=2**32 - 2)
    """Where drawing begins, so that the same request gives the same answer. Default: another each time."""

    @field_validator("system")
    @classmethod
    def _plain(cls, system: str | None) -> str | None:
        odd = next(
            (one for one in system or "" if (one < " " and one not in "\n\t") or "\ud800" <= one <= "\udfff"), ""
        )
        if odd:
            raise ValueError(f"`system` has a character `{odd!r}` that no chat template can carry")
        return system

    @property
    def given(self) -> dict[str, str | int | float | bool]:
        """Those that the file gives."""
        return self.model_dump(exclude_none=True)


class PipelineSpec(Section):
    """How a version of a model is made: from data by `steps`, or from `weights` as they are."""

    produces: Name
    """The registered model that the run makes a version of."""
    data: dict[Name, DataSpec] = Field(default_factory=dict)
    """Sources, by the name that steps ask for them."""
    first: Window = Window()
    """The rows of the first version."""
    then: Literal["all data so far"] = "all data so far"
    """The rows of later versions: everything up to the moment of the run."""
    time: str = "time"
    """The column of the first step's table that holds each row's moment. Default: time."""
    id: str = "id"
    """The column of the first step's table that names each row. Default: id."""
    truth_after: Seconds = 0.0
    """How long after a row's moment its outcome is known; younger rows are left out of a run. Default: at once."""
    track: Literal["mlflow"] = "mlflow"
    """Where runs and versions are recorded."""
    steps: dict[Name, StepSpec] = Field(default_factory=dict)
    """The steps, in order. `features` (also used at serving) and `train` have a meaning of their own."""
    weights: str | None = Field(default=None, min_length=1, max_length=2_000)
    """Instead of steps: a GGUF file that is packaged as it is. `package:NAME/path` (a file of an installed
    distribution), a path beside this file, or `https://`."""
    settings: ModelSettings = ModelSettings()
    """Beside `weights`: how the model answers where a request does not say."""
    gates: Gates = Gates()
    """What a candidate must pass before it sees traffic."""
    retrain: Retrain = Retrain()
    """When a new version is made."""
    budget: Dollars | None = None
    """The most that one run may cost."""

    @field_validator("steps")
    @classmethod
    def _has_train(cls, steps: dict[str, StepSpec]) -> dict[str, StepSpec]:
        if "train" not in steps:
            raise ValueError("a pipeline has a step called `train`, which returns the fitted model")
        return steps

    @model_validator(mode="after")
    def _one_way(self) -> PipelineSpec:
        if self.weights is None and not self.steps:
            raise ValueError("a pipeline has either `steps`, which train a model, or `weights` that are there already")
        if self.weights is None and "settings" in self.model_fields_set:
            raise ValueError("`settings` belong to `weights`, and this pipeline has none")
        if self.weights is not None:
            for key in ("steps", "data", "first", "truth_after"):
                if key in self.model_fields_set:
                    raise ValueError(f"`{key}` is of pipelines that train: beside `weights` it means nothing")
        return self

    @property
    def content(self) -> str:
        """A digest of what a version is made of, where nothing is trained; "" where something is.

        Weights, settings, and which functions evaluate it: a version is made anew when one of them changes.
        """
        if self.weights is None:
            return ""
        evals = {name: gate.run for name, gate in self.gates.evals.items()}
        plain = {"weights": self.weights, "settings": self.settings.given, "evals": evals}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
