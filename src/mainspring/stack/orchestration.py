"""Section 2, `orchestration`: where it runs, and how far it may go alone."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mainspring.stack.base import Name, Section
from mainspring.stack.fleet_units import Loss
from mainspring.stack.units import Per, Rate

KUBERNETES = "kubernetes"
"""The `where` that is no pool: a cluster that places things on pools by itself."""


class Gateway(Section):
    """The one door that requests come in by."""

    port: int = Field(default=8080, ge=0, le=65535)
    """The TCP port on loopback; `0` takes a free one, which `status` shows. Default: 8080."""
    workers: int = Field(default=1, ge=1, le=64)
    """Processes that share the port. Default: 1, which serves some thousand requests a second."""
    region: Name | None = None
    """The region that requests come from unless they say so by `x-mainspring-region`. Default: the first."""


class Orchestration(Section):
    """Where it runs, and how far Mainspring may go without asking."""

    where: Name
    """The pool of `compute` that everything runs on, or `kubernetes` (which this version plans, and does not run)."""
    survive: tuple[Loss, ...] = ()
    """What may be lost while the objective is still met: `1 region`, `1 node per region`. Default: nothing."""
    control: Literal["watch", "suggest", "act"] = "act"
    """`watch` looks and says what it would do; `suggest` waits for approval of each change; `act` does it."""
    restarts: Per = Rate(5, 600.0)
    """How often a process that dies is started again before it is left down. Default: 5 per 10m."""
    gateway: Gateway = Gateway()
    """The one door that requests come in by."""
