"""The cost route of the control API: the bill up to now, or what some days cost, divided.

What this is: one route. Who calls it: `console/api.py`. What it must never do: divide money, or read a date
(`cost/period.py` does).
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query

from mainspring.console import views
from mainspring.controller import Controller

_Day = Annotated[str | None, Query(max_length=40, description="a date (UTC), such as 2026-11-01")]


def add(app: FastAPI, controller: Controller) -> None:
    """Add `GET /v1/cost` to the API."""

    @app.get("/v1/cost", tags=["look"])
    def cost(
        by: Annotated[str | None, Query(max_length=40, description="tenant, endpoint, revision or key")] = None,
        since: Annotated[_Day, Query(alias="from")] = None,
        until: Annotated[_Day, Query(alias="to")] = None,
        *,
        daily: bool = False,
    ) -> Any:
        """The bill up to now, and the budget.

        With `by`, `from` or `to`: rows for the days from `from` to before `to`, one for each group, then training and
        idle time; with `daily`, one a day and group. They add up to what the node cost on those days.
        """
        if by is None and since is None and until is None and not daily:
            return views.budget(controller.desired().stack, controller.parts.spend())
        return views.plain(controller.parts.charges(by, since or "", until or "", daily=daily))
