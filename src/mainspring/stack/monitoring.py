"""Section 5, `monitoring`: what to watch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mainspring.stack.base import Name, Section
from mainspring.stack.units import Per, Rate, Seconds, Share, share


class DriftSpec(Section):
    """A watch on the inputs, or on the predictions, against those that the live version was trained on."""

    features: tuple[str, ...] = ()
    """Raw columns to watch, each for itself."""
    prediction: bool = False
    """Watch the predicted score."""
    false_alarms: Per = Rate(1, 31556952.0)
    """How often it may fire when nothing has changed. Default: 1 per year."""

    @model_validator(mode="after")
    def _something(self) -> DriftSpec:
        if not self.features and not self.prediction:
            raise ValueError("name `features` to watch, or set `prediction: true`")
        return self


class QualitySpec(Section):
    """A watch on how good the live version is, as outcomes become known."""

    brier_skill: str
    """`below 10%`: fires when 1 - Brier / Brier of the window's own base rate falls under that."""
    over: Seconds = 14 * 86400.0
    """The window. Default: 14d."""
    min_rows: int = Field(default=500, ge=1)
    """With fewer known outcomes the value is unknown, and nothing fires. Default: 500."""

    @model_validator(mode="after")
    def _bound(self) -> QualitySpec:
        if not self.brier_skill.startswith("below "):
            raise ValueError(f"`{self.brier_skill}` is not a bound: write `below 10%`")
        share(self.brier_skill.removeprefix("below "))
        return self

    @property
    def below(self) -> Share:
        """The bound as a fraction of one."""
        return share(self.brier_skill.removeprefix("below "))


class Alert(Section):
    """Who is told of what."""

    when: tuple[str, ...]
    """Kinds of events: `drift`, `retrain`, `rollout`, `budget`, `gate`, or `ENDPOINT.objective`."""
    to: str = "console"
    """`console` (the event log), or `env:NAME` of a variable that holds a key."""


class Monitoring(Section):
    """What to watch, and how often."""

    every: Seconds = 86400.0
    """How often drift and quality are judged; also the length of the window for drift. Default: 1d."""
    reference: Literal["training"] = "training"
    """What drift is measured against: the rows the live version was trained on.

    Thresholds come from windows inside them."""
    drift: dict[Name, DriftSpec] = Field(default_factory=dict)
    """Watches on inputs and predictions, by name."""
    quality: dict[Name, QualitySpec] = Field(default_factory=dict)
    """Watches on quality, by name."""
    alerts: dict[Name, Alert] = Field(default_factory=dict)
    """Who is told of what, by name."""
