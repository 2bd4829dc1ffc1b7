"""The route table: what the loop tells the gateway, as one value.

It is written as JSON to a file that is replaced whole; the gateway reads it with `msgspec`, keeps
the last good one, and acknowledges its epoch. Field names are therefore a wire contract: add, never rename.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class RevisionRoute:
    """One version of the model behind an endpoint."""

    name: str  # "delay-3": endpoint and version; the name under which it is logged and metered
    version: str  # the registry's version number
    weight: int  # parts of 10,000 of the live traffic; the weights of an endpoint sum to 10,000
    replicas: tuple[str, ...]  # "127.0.0.1:40123" of each ready replica; empty: hold requests


@dataclass(frozen=True, slots=True)
class EndpointRoutes:
    """Everything the gateway needs to answer for one endpoint."""

    revisions: tuple[RevisionRoute, ...]
    mirror: str = ""  # name of the revision that gets copies; "" for none
    mirror_share: int = 0  # parts of 10,000
    timeout_s: float = 10.0  # for one request in all, waiting included
    queue: int = 512  # requests that may be inside at once; more are refused with 503


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All endpoints; `epoch` grows with each change."""

    epoch: int
    endpoints: dict[str, EndpointRoutes]
    clock: str = "wall"  # "wall", or "request": a replay's requests carry their own event time


def same_routes(a: RouteTable, b: RouteTable) -> bool:
    """Say whether two tables route alike, whatever their epochs."""
    return replace(a, epoch=0) == replace(b, epoch=0)
