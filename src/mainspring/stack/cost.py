"""Section 6, `cost`: what it may spend."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from mainspring.stack.base import Name, Section
from mainspring.stack.units import Budget, Share, dollars

_ACTION = re.compile(r"^\d+(\.\d+)?% (warn|stop retraining)$")
_REPORT = re.compile(r"per [1-9][0-9]{0,8} predictions")


class Cost(Section):
    """What it may spend, and how costs are told."""

    budget: Budget | None = None
    """The most for the whole stack, such as `$100/month`."""
    training: str | None = None
    """The most for one run, such as `$5/run`."""
    fixed: dict[Name, Budget] = Field(default_factory=dict)
    """What is paid besides machines, by name, such as `{networking: $30k/month, storage: $15k/month}`."""
    spot: Share = 0.0
    """The share of each fleet that may be on spot machines, which can be taken away. Default: 0%."""
    quoted: dict[Name, Budget] = Field(default_factory=dict)
    """What somebody said it would cost, such as `{gpu: $280k/month}`: `plan` checks the arithmetic."""
    when_over: tuple[str, ...] = ("80% warn", "100% stop retraining")
    """What happens at which share of the budget: `warn` or `stop retraining`."""
    report: str = "per 1000 predictions"
    """The unit that costs are told in."""

    @field_validator("when_over")
    @classmethod
    def _known(cls, actions: tuple[str, ...]) -> tuple[str, ...]:
        for action in actions:
            if not _ACTION.match(action):
                raise ValueError(f"`{action}` is not known: write `80% warn` or `100% stop retraining`")
        return actions

    @field_validator("training")
    @classmethod
    def _per_run(cls, training: str | None) -> str | None:
        if training is not None:
            amount, _, unit = training.partition("/")
            if unit.strip() != "run":
                raise ValueError(f"`{training}` is not a bound on a run: write `$5/run`")
            dollars(amount)
        return training

    @field_validator("report")
    @classmethod
    def _unit(cls, report: str) -> str:
        if not _REPORT.fullmatch(report):
            raise ValueError(f"`{report}` is not a unit to tell costs in: write `per 1000 predictions`")
        return report
