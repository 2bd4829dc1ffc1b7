"""Section 4, `pipelines`: how a version is made."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mainspring.stack.base import FunctionPath, Name, Section
from mainspring.stack.units import Dollars, Moment, Per, Rate, Seconds, Share, count_back, cron


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
    """A bound on the time that the packaged artefact takes for one row."""

    p95: Seconds
    """95 of 100 single rows are answered within this time."""


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


class CheckGate(Section):
    """A check of your own: returns `True`, `False`, or `(passed, message)`."""

    run: FunctionPath
    """The function; it may ask for `model`, `rows`, `predictions`, `champion_predictions`."""


class Gates(Section):
    """What a candidate must pass before it sees traffic."""

    brier: MetricGate | None = None
    """Mean squared error of the probability; lower is better."""
    auc: MetricGate | None = None
    """Area under the ROC curve; higher is better."""
    latency: LatencyGate | None = None
    """The time that the packaged artefact takes."""
    groups: dict[Name, GroupGate] = Field(default_factory=dict)
    """Bias checks, by name."""
    checks: dict[Name, CheckGate] = Field(default_factory=dict)
    """Checks of your own, by name."""


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


class PipelineSpec(Section):
    """How a version of a model is made, from data to a judged candidate."""

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
    steps: dict[Name, StepSpec] = Field(min_length=1)
    """The steps, in order. `features` (also used at serving) and `train` have a meaning of their own."""
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
