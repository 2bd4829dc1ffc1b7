"""The stack file as one frozen model: six sections, two header lines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mainspring.stack.base import Name, Section
from mainspring.stack.compute import Compute
from mainspring.stack.cost import Cost
from mainspring.stack.monitoring import Monitoring
from mainspring.stack.orchestration import KUBERNETES, Orchestration
from mainspring.stack.pipelines import PipelineSpec
from mainspring.stack.serving import Endpoint


class Stack(Section):
    """One AI product, described."""

    mainspring: Literal[1]
    """The version of this file's format: 1."""
    stack: Name
    """The product's name."""
    compute: Compute
    """1. What there is."""
    orchestration: Orchestration
    """2. Where it runs, and how far it may go alone."""
    serving: dict[Name, Endpoint] = Field(default_factory=dict)
    """3. What answers."""
    pipelines: dict[Name, PipelineSpec] = Field(default_factory=dict)
    """4. How a version is made."""
    monitoring: Monitoring = Monitoring()
    """5. What to watch."""
    cost: Cost = Cost()
    """6. What it may spend."""

    @model_validator(mode="after")
    def _pool_exists(self) -> Stack:
        if self.orchestration.where not in (*self.compute.pools, KUBERNETES):
            raise ValueError(f"`orchestration.where` names `{self.orchestration.where}`, which `compute` does not have")
        return self
