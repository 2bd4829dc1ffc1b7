"""Replicas of several revisions that share one server have one address: they are told apart by their names."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from mainspring.decide.routes import EndpointRoutes, RevisionRoute, RouteTable
from mainspring.gateway.table import Table
from mainspring.loop.snapshot import ProcessSeen
from mainspring.loop.supervise import _is_routed

ADDRESS = "127.0.0.1:4000"


def table(*revisions: str, epoch: int = 1, names: bool = True) -> RouteTable:
    """Routes of the endpoint `delay`, whose revisions all answer at one address."""
    made = tuple(
        RevisionRoute(one, "1", 10_000 if at == 0 else 0, (ADDRESS,), names=(f"{one}-0",) if names else ())
        for at, one in enumerate(revisions)
    )
    return RouteTable(epoch, {"delay": EndpointRoutes(made)})


@pytest.mark.parametrize(
    ("routes", "process", "address", "wanted"),
    [
        (table("delay-1", "delay-1.2"), "delay-1.2-0", ADDRESS, True),
        (table("delay-1.2"), "delay-1-0", ADDRESS, False),
        (table("delay-1.2"), "delay-1.2-0", "127.0.0.1:4001", False),
        (table("delay-1.2", names=False), "delay-1-0", ADDRESS, True),
    ],
)
def test_who_is_routed_to(routes: RouteTable, process: str, address: str, wanted: bool) -> None:
    """A replica that left the table may be stopped, though others answer at its address; without names it may not."""
    assert _is_routed(routes, ProcessSeen(process, "replica", 1, "ready", address)) is wanted


def test_each_has_its_own_health(tmp_path: Path) -> None:
    """The gateway keeps connections and health for each replica, and keeps them when others come and go."""
    made = Table(tmp_path / "routes.json", tmp_path / "ack.json", "b0")

    def look(routes: RouteTable) -> dict[str, object]:
        (tmp_path / "routes.json").write_text(json.dumps(asdict(routes)))
        made.look()
        return {name: one.upstreams[0] for name, one in made.endpoints["delay"].revisions.items()}

    before = look(table("delay-1", "delay-1.2"))
    assert before["delay-1"] is not before["delay-1.2"]
    after = look(table("delay-1.2", epoch=2))
    assert after == {"delay-1.2": before["delay-1.2"]}
